"""FedAvg: the mean update, times a rate."""

import numpy as np

from shared.core.optimisers.optimiser import Mean, Options, State, Vector


def fedavg(state: State, mean: Mean, options: Options) -> tuple[State, Vector]:
    """x += eta Delta. Source: McMahan et al. 2017, arXiv:1602.05629, Algorithm 1, where eta is 1."""
    return state, options.rate * mean.update.astype(np.float64)
