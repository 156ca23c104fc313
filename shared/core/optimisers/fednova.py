"""FedNova: clients that took more local steps do not count for more."""

import numpy as np

from shared.core.optimisers.optimiser import Mean, Options, Participation, State, Vector


def effective_steps(steps: int, momentum: float = 0.0) -> float:
    """tau_k, by which a client's update is normalised: `steps` of plain SGD, more with momentum rho.

    (steps - rho (1 - rho^steps) / (1 - rho)) / (1 - rho), the L1 norm of the weights that an update gives to
    its gradients. For Adam the paper has no such weights: pass `steps`.
    Source: Wang et al. 2020, arXiv:2007.07481 (local momentum).
    """
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


def weights(participation: Participation) -> tuple[float, ...]:
    """What each client's update is multiplied by before it is summed: p_k / tau_k, the largest scaled to 1.

    Public, and at most 1: a bound on an update's norm holds for the weighted one.
    """
    shares = _shares(participation) / np.asarray(participation.steps)
    return tuple((shares / shares.max()).tolist())


def factor(participation: Participation) -> float:
    """tau_eff sum(p_k / tau_k), tau_eff = sum(p_k tau_k): at least 1, and 1 where all steps are equal."""
    shares, steps = _shares(participation), np.asarray(participation.steps)
    return float((shares @ steps) * (shares / steps).sum())


def fednova(state: State, mean: Mean, options: Options) -> tuple[State, Vector]:
    """x += eta tau_eff sum(p_k Delta_k / tau_k).

    Args:
        state: empty.
        mean: sum(w_k Delta_k) / sum(w_k) for w = `weights`: one secure sum, as for any other weights.
        options: of the job.

    The noise in `mean` is multiplied as the signal is. Source: Wang et al. 2020, arXiv:2007.07481,
    Algorithm 1.
    """
    return state, options.rate * factor(mean.participation) * mean.update.astype(np.float64)


def _shares(participation: Participation) -> Vector:
    shares = np.asarray(participation.weights or np.ones(len(participation.steps)), np.float64)
    return np.asarray(shares / shares.sum(), np.float64)
