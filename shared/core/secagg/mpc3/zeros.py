"""Shares of zero: what a party sends is hidden behind one, and in the sum of all three they vanish."""

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream


def additive(keys: tuple[bytes, bytes], count: int) -> NDArray[np.uint64]:
    """(count,) F(key p) - F(key p + 1) modulo 2^64; over the three parties these add up to 0.

    Args:
        keys: of one purpose and context, used once.
        count: words.

    Source: Araki et al. 2016, CCS, Section 2.2 (correlated randomness).
    """
    first, second = (key_stream.words(key, count) for key in keys)
    return np.subtract(first, second, out=first)


def exclusive(keys: tuple[bytes, bytes], count: int) -> NDArray[np.uint64]:
    """The same for XOR, bit by bit."""
    first, second = (key_stream.words(key, count) for key in keys)
    return np.bitwise_xor(first, second, out=first)
