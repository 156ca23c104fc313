"""SCAFFOLD: control variates against the drift of clients whose data differ, the common one from the sum.

What follows from the secure sum alone, and what does not. Algorithm 1 of the paper with option II replaces
a client's control variate by c_k' = c_k - c - Delta_k / (K eta_l), and the server adds |S| / N times the
mean of c_k' - c_k = -c - Delta_k / (K eta_l) over the participants S. That mean holds no c_k. So the common
one is exactly

    c' = (1 - |S| / N) c - (|S| / N) mean(Delta_k) / (K eta_l)

and clients upload nothing but their update, half of what the paper sends. It is exact when all took the same
K plain SGD steps of the same rate, count alike, and uploaded what they computed: an update that was clipped
or shortened shortens c with it, and the noise of the sum is in c, divided by K eta_l.

A client's own c_k cannot be had from the sum. Under secure aggregation each client keeps it (`own`), and
changes it only when its update is in the sum that was opened; the list of those is public. A client that
loses it starts from zero, and c is no longer the mean of all c_k. Where updates are in the clear, the server
can keep every c_k by the same function, and clients need no memory.

Privacy: `corrected` is applied to a gradient that is clipped and noised. It costs nothing when the client's
own update is private by itself (local noise), since c_k follows from it. When only the sum is private
(divided noise), c_k is a secret that was not noised enough, and steers what is uploaded later: not to be
combined. There, with one step a round, the corrections of a full cohort add up to zero anyway.

Without c_k, adding c alone to the gradient is a server's momentum applied at the clients, not SCAFFOLD.
Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1; that the sum suffices for c is derived here.
"""

import numpy as np
from numpy.typing import NDArray

from shared.core.optimisers.optimiser import Mean, Options, State, Vector
from shared.errors import Rejected

MOMENTS = ("control",)


def start(dimension: int, _: Options) -> State:
    """c = 0."""
    return State({"control": np.zeros(dimension)})


def scaffold(state: State, mean: Mean, options: Options) -> tuple[State, Vector]:
    """x += eta Delta, and c' as above.

    Raises: Rejected when clients took different steps or count unequally.
    """
    who = mean.participation
    if len(set(who.steps)) != 1 or len(set(who.weights)) > 1:
        raise Rejected("SCAFFOLD needs equal local steps and equal weights of all clients of a round")
    update, share = mean.update.astype(np.float64), len(who.steps) / who.clients
    control = (1 - share) * state.moments["control"] - share * update / (who.steps[0] * who.rate)
    return State({"control": control}), options.rate * update


def own(control_k: Vector, control: Vector, update: NDArray[np.float32], path: float) -> Vector:
    """c_k' of a client whose update was summed.

    Args:
        control_k: (d,), its c_k in the round; zero before its first.
        control: (d,), the common c that it was sent.
        update: (d,), Delta_k as it was uploaded, noise included.
        path: K eta_l, its steps times its rate.
    """
    return np.asarray(control_k - control - update.astype(np.float64) / path, np.float64)


def corrected(gradient: NDArray[np.float32], control: Vector, control_k: Vector) -> NDArray[np.float32]:
    """The gradient of a local step: g - c_k + c, (d,)."""
    return np.asarray(gradient + (control - control_k), np.float32)
