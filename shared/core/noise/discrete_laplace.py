"""Discrete Laplace noise on integers."""

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
class DiscreteLaplace(NoiseMechanism[np.int64]):
    """P(X = k) proportional to exp(-|k| / scale) on each integer coordinate.

    On integers, and from exact weights: the low bits of floating-point Laplace noise tell what it was added
    to (Mironov 2012, doi:10.1145/2382196.2382264). Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
    Section 3 (there t is `scale`). Exactness: `IntegerTable`.

    Raises: ValueError unless `scale` is positive, finite, and has a table of at most 2^20 entries.
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}: give a positive, finite number")
        table(self.scale)

    @property
    def standard_deviation(self) -> float:
        """Of what is drawn: close to sqrt(2) scale."""
        return math.sqrt(table(self.scale).variance)

    def add(self, total: NDArray[np.int64], stream: KeyStream) -> NDArray[np.int64]:
        """`total` (d,) with noise. Raises: ValueError unless it is int64."""
        return table(self.scale).add(total, stream)


@lru_cache(maxsize=8)
def table(scale: float) -> IntegerTable:
    """The weights exp(-k / scale), by which P(X >= k) <= exp(-k / scale). Raises as `DiscreteLaplace`."""
    largest = reach(lambda k: -k / scale)
    half = [Decimal(1)]
    with decimal.localcontext(ARITHMETIC):
        ratio = (-1 / Decimal(scale)).exp()
        for _ in range(largest):
            half.append(half[-1] * ratio)
    return symmetric_table(half)
