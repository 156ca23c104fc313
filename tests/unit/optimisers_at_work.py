"""What the tests of optimisers share."""

import numpy as np

from shared.core.optimisers import Mean, Options, Participation

PUBLIC = Participation(steps=(4.0, 4.0, 4.0), clients=6, rate=0.05)
OPTIONS = Options(rate=0.5, momentum=0.9, memory=0.95, floor=1e-2)


def updates(rounds, dimension, seed):
    """(rounds, d) float32."""
    print(f"seed {seed}")
    return np.random.default_rng(seed).normal(0, 0.1, (rounds, dimension)).astype(np.float32)


def mean_of(update, variance=0.0):
    return Mean(np.asarray(update, np.float32), variance, PUBLIC)
