"""FedProx: a client's steps are pulled back to where the round began; the server does as in FedAvg."""

import numpy as np
from numpy.typing import NDArray


def proximal(
    gradient: NDArray[np.float32],
    parameters: NDArray[np.float32],
    anchor: NDArray[np.float32],
    strength: float,
) -> NDArray[np.float32]:
    """gradient + mu (theta - theta_t).

    It costs no privacy when it is added to a gradient that is clipped and noised already: theta follows from
    such gradients, theta_t is public. Added before, it would change what is clipped.

    Args:
        gradient: (d,), clipped and noised.
        parameters: (d,), theta, where the client is.
        anchor: (d,), theta_t, the adapter that the round began with.
        strength: mu, 0 or more.

    Source: Li et al. 2020, arXiv:1812.06127, Algorithm 2 (an inexact solution by gradient steps).
    """
    return gradient + np.float32(strength) * (parameters - anchor)
