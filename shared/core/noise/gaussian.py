"""Continuous Gaussian noise, on a grid."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.noise.key_stream import KeyStream
from shared.core.noise.mechanism import NoiseMechanism

GRID_BITS = 20  # grid spacing: the power of two next below sigma * 2^-20


@dataclass(frozen=True)
class Gaussian(NoiseMechanism[np.float64]):
    """N(0, sigma^2) on each coordinate, rounded to a grid that depends on sigma alone.

    The low bits of a floating-point sum tell which values went in (Mironov 2012, Section 5); after
    rounding to a grid far coarser than a double's spacing they carry nothing of them. Rounding is
    post-processing of a sum whose noise was drawn with 53-bit uniforms: checked, not proved.

    Raises: ValueError unless `sigma` is positive and finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is {self.sigma}: give a positive, finite standard deviation")

    @property
    def standard_deviation(self) -> float:
        """Sigma; rounding adds less than sigma^2 * 2^-43 to the variance."""
        return self.sigma

    def add(self, total: NDArray[np.float64], stream: KeyStream) -> NDArray[np.float64]:
        """`total` (d,) with noise, rounded to the grid."""
        spacing = 2.0 ** math.floor(math.log2(self.sigma) - GRID_BITS)
        noisy = total + stream.gaussian(total.size, self.sigma)
        return np.asarray(np.rint(noisy / spacing) * spacing, np.float64)


def noised(total: NDArray[np.float64], sigma: float, stream: KeyStream) -> NDArray[np.float64]:
    """`total` (d,) + N(0, sigma^2), on the grid of `Gaussian`. Raises: ValueError as that does."""
    return Gaussian(sigma).add(total, stream)
