"""Discrete Gaussian noise on integers."""

import decimal
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shared.core.noise.inverse_transform import ARITHMETIC, IntegerTable, reach, symmetric_table
from shared.core.noise.key_stream import KeyStream
from shared.core.noise.mechanism import NoiseMechanism


@dataclass(frozen=True)
class DiscreteGaussian(NoiseMechanism[np.int64]):
    """P(X = k) proportional to exp(-k^2 / (2 sigma^2)) on each integer coordinate.

    Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Definition 1. Exactness: `IntegerTable`.
    A sum of such variables is close to, but not, a discrete Gaussian (Kairouz, Liu,
    Steinke 2021, arXiv:2102.06387).

    Raises: ValueError unless `sigma` is positive, finite, and has a table of 1 to 2^20 entries
        (about 0.08 to 37,500).
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is {self.sigma}: give a positive, finite number")
        table(self.sigma)

    @property
    def standard_deviation(self) -> float:
        """Of what is drawn: below sigma, by 7 % at sigma = 0.5, by 1e-7 at sigma = 1."""
        return math.sqrt(table(self.sigma).variance)

    def add(self, total: NDArray[np.int64], stream: KeyStream) -> NDArray[np.int64]:
        """`total` (d,) with noise. Raises: ValueError unless it is int64."""
        return table(self.sigma).add(total, stream)


@lru_cache(maxsize=16)
def table(sigma: float) -> IntegerTable:
    """The weights by w_{k+1} = w_k r_k, r_{k+1} = r_k exp(-1 / sigma^2), r_0 = exp(-1 / (2 sigma^2)).

    Tails: P(X >= k) <= exp(-k^2 / (2 sigma^2)), as X is sub-Gaussian: E e^{tX} <= e^{t^2 sigma^2 / 2}.
    Raises: ValueError as `DiscreteGaussian`.
    """
    largest = reach(lambda k: -(k / sigma) * (k / sigma) / 2)
    half = [Decimal(1)]
    with decimal.localcontext(ARITHMETIC):
        ratio = (-1 / (2 * Decimal(sigma) ** 2)).exp()
        decay = ratio * ratio
        for _ in range(largest):
            half.append(half[-1] * ratio)
            ratio *= decay
    return symmetric_table(half)
