"""The stream that sampling and noise are drawn from."""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes


class KeyStream:
    """AES-256-CTR under a key that is drawn once; fast, and never repeated."""

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._encryptor = Cipher(algorithms.AES(random_bytes(32)), modes.CTR(random_bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """(count,) uniform 64-bit words, little-endian from the stream."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """(count,) multiples of 2^-53 in (0, 1]."""
        return ((self.words(count) >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53

    def gaussian(self, count: int, sigma: float) -> NDArray[np.float64]:
        """(count,) of N(0, sigma^2), by Box and Muller (1958)."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(pairs)))
        angle = 2.0 * np.pi * self.uniform(pairs)
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return np.asarray(both[:count] * sigma, np.float64)
