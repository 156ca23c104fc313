"""FedYogi: as FedAdam, with a second moment that changes by at most one round's square."""

import numpy as np

from shared.core.optimisers.adaptive import signal_squared, stepped
from shared.core.optimisers.optimiser import Mean, Options, State, Vector


def fedyogi(state: State, mean: Mean, options: Options) -> tuple[State, Vector]:
    """v = max(0, v - (1 - beta_2) |x| sign(v - x)), x = Delta^2 - s^2, s^2 the noise's variance; then
    `adaptive.stepped`.

    Without noise x is not negative and this is the paper's line. With it, |x| makes v move towards x from
    both sides, and where there is noise alone v drifts to 0: at v = 0 the expected change is that of x,
    which is 0. Yogi's v is not an unbiased estimate of the mean square, with or without noise; x is.
    Source: Reddi et al. 2021, arXiv:2003.00295, Algorithm 2; Zaheer et al. 2018 for Yogi.
    """
    before, squared = state.moments["second"], signal_squared(mean)
    change = (1 - options.memory) * np.abs(squared) * np.sign(before - squared)
    return stepped(state, mean, np.maximum(before - change, 0.0), options)
