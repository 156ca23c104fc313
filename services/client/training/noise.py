"""Gaussian noise from a cryptographic source, on a grid."""

import math
import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

RandomBytes = Callable[[int], bytes]
GRID_BITS = 20  # grid spacing: the power of two next below sigma * 2^-20


class KeyStream:
    """AES-256-CTR under a key drawn once from the operating system; fast, and never repeated."""

    def __init__(self, random_bytes: RandomBytes = os.urandom) -> None:
        self._encryptor = Cipher(algorithms.AES(random_bytes(32)), modes.CTR(random_bytes(16))).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """(count,) multiples of 2^-53 in (0, 1]."""
        words = np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")
        return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53

    def gaussian(self, count: int, sigma: float) -> NDArray[np.float64]:
        """(count,) of N(0, sigma^2), by Box and Muller (1958)."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(pairs)))
        angle = 2.0 * np.pi * self.uniform(pairs)
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return np.asarray(both[:count] * sigma, np.float64)


def noised(total: NDArray[np.float64], sigma: float, stream: KeyStream) -> NDArray[np.float64]:
    """`total` + N(0, sigma^2), rounded to a grid that depends on sigma alone.

    The low bits of a floating-point sum tell which values went in (Mironov 2012, Section 5); after
    rounding to a grid far coarser than a double's spacing they carry nothing of them. Rounding is
    post-processing of a sum whose noise was drawn with 53-bit uniforms: checked, not proved.
    """
    spacing = 2.0 ** math.floor(math.log2(sigma) - GRID_BITS)
    return np.asarray(np.rint((total + stream.gaussian(total.size, sigma)) / spacing) * spacing, np.float64)
