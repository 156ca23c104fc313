"""FedAvgM: FedAvg with momentum at the server."""

import numpy as np

from shared.core.optimisers.optimiser import Mean, Options, State, Vector

MOMENTS = ("velocity",)


def start(dimension: int, _: Options) -> State:
    """Nothing moves yet."""
    return State({"velocity": np.zeros(dimension)})


def fedavgm(state: State, mean: Mean, options: Options) -> tuple[State, Vector]:
    """u = beta u + Delta; x += eta u.

    A steady update is multiplied by 1 / (1 - beta) in the long run: 10 for a beta of 0.9, so `rate` is
    lower than FedAvg's by about that.
    Source: Hsu, Qi, Brown 2019, arXiv:1909.06335 (FedAvgM).
    """
    velocity = options.momentum * state.moments["velocity"] + mean.update
    return State({"velocity": velocity}), options.rate * velocity
