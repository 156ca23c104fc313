"""What FedAdam and FedYogi share: a first moment, divided by the root of a second one."""

import numpy as np

from shared.core.optimisers.optimiser import Mean, Options, State, Vector

MOMENTS = ("first", "second")


def start(dimension: int, options: Options) -> State:
    """m = 0, v = tau^2: the paper asks for v >= tau^2 before the first round."""
    return State({"first": np.zeros(dimension), "second": np.full(dimension, options.floor**2)})


def signal_squared(mean: Mean) -> Vector:
    """Delta^2 - s^2, (d,): an unbiased estimate of the square of what `mean` would be without its noise of
    variance s^2. It may be negative.

    Source: Tang et al. 2024, arXiv:2312.14334 (DP-AdamBC), who subtract the same from Adam's v.
    """
    update = mean.update.astype(np.float64)
    return np.asarray(update * update - mean.noise_variance, np.float64)


def stepped(state: State, mean: Mean, second: Vector, options: Options) -> tuple[State, Vector]:
    """m = beta_1 m + (1 - beta_1) Delta; x += eta m / (sqrt(v) + tau), v = `second` where it is not negative.

    There is no correction for m's start at zero, as in the paper.
    """
    first = options.momentum * state.moments["first"] + (1 - options.momentum) * mean.update.astype(
        np.float64
    )
    change = options.rate * first / (np.sqrt(np.maximum(second, 0.0)) + options.floor)
    return State({"first": first, "second": second}), change
