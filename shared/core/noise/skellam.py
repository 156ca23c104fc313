"""Skellam noise on integers, for noise that is divided over clients."""

import decimal
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared.core.noise.inverse_transform import (
    ARITHMETIC,
    TAIL_BITS,
    IntegerTable,
    reach,
    symmetric_table,
)
from shared.core.noise.key_stream import KeyStream
from shared.core.noise.mechanism import NoiseMechanism

START_BITS = TAIL_BITS + 60  # the recurrence's error in each probability: at most 2^-200


@dataclass(frozen=True)
class Skellam(NoiseMechanism[np.int64]):
    """The difference of two Poisson(variance / 2) variables on each integer coordinate.

    P(X = k) = e^-mu I_k(mu), mu the variance. The sum of n independent ones of variance mu / n is one of
    variance mu, exactly: that is why noise divided over clients uses it.
    Source: Agarwal, Kairouz, Liu 2021, arXiv:2110.04995. Exactness: `IntegerTable`.

    Raises: ValueError unless `variance` is positive, finite, and has a table of 1 to 2^20 entries
        (about 1e-38 to 9.8e8).
    """

    variance: float

    def __post_init__(self) -> None:
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance is {self.variance}: give a positive, finite number")
        table(self.variance)

    @property
    def standard_deviation(self) -> float:
        """The square root of the variance."""
        return math.sqrt(self.variance)

    def add(self, total: NDArray[np.int64], stream: KeyStream) -> NDArray[np.int64]:
        """`total` (d,) with noise. Raises: ValueError unless it is int64."""
        return table(self.variance).add(total, stream)


@lru_cache(maxsize=16)
def table(variance: float) -> IntegerTable:
    """The weights by Miller's downward recurrence I_{k-1} = I_{k+1} + (2k / mu) I_k.

    Normalised by I_0 + 2 sum I_k = e^mu (Abramowitz and Stegun 1964, 9.6.26, 9.6.37 and Section 9.12).
    All terms are positive, so no digits cancel. Started from 0 at N, it gives I_k less a multiple of K_k
    that is I_N at N and falls with k: an error of at most P(X = N).
    Raises: ValueError as `Skellam`.
    """

    def log_tail(k: int) -> float:
        """Chernoff's bound, sqrt(mu^2 + k^2) - mu - k asinh(k / mu)."""
        return k * (k / (math.hypot(variance, k) + variance) - math.asinh(k / variance))

    largest = reach(log_tail)
    downward = [Decimal(0), Decimal(1)]
    with decimal.localcontext(ARITHMETIC):
        double = 2 / Decimal(variance)
        for k in range(reach(log_tail, START_BITS), 0, -1):
            downward.append(downward[-2] + double * k * downward[-1])
    return symmetric_table(downward[::-1][: largest + 1])
