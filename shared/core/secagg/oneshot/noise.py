"""Secrets and errors: a discrete Gaussian of sigma 4.5, from a table and cryptographic bytes.

For security of a lattice, not for differential privacy, which never counts it: the distance to the ideal
distribution enters an assumption, so 64 bits a draw are enough where privacy noise takes 128.
"""

import decimal
import math
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

SIGMA = 4.5
LARGEST = 42  # beyond it lies less than 2^-63 of the mass
PRECISION_BITS = 63


def _table() -> NDArray[np.int64]:
    """(LARGEST,) of P(|X| <= k) in units of 2^-63, k = 0, 1, ..., 0 counted half: the sign doubles it."""
    with decimal.localcontext(decimal.Context(prec=60)):
        weights = [(-(Decimal(k) ** 2) / (2 * Decimal(SIGMA) ** 2)).exp() for k in range(LARGEST + 1)]
        weights[0] /= 2
        unit = 2**PRECISION_BITS / sum(weights)
        sums = [int(sum(weights[: k + 1]) * unit) for k in range(LARGEST)]
    table = np.array([min(entry, 2**PRECISION_BITS - 1) for entry in sums], np.int64)
    table.flags.writeable = False
    return table


TABLE = _table()


def from_words(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """One draw a word: the upper 63 bits are compared with every entry of the table, the lowest is the sign.

    No branch and no address depends on a draw; that numpy and the compiler keep it so is not proved.

    Returns: the shape of `words`, each within -LARGEST, ..., LARGEST.
    """
    uniform = (words >> np.uint64(1)).astype(np.int64)
    magnitude = np.zeros(words.shape, np.int64)
    for entry in TABLE:
        magnitude += uniform >= entry
    sign = -(words & np.uint64(1)).astype(np.int64)
    return (magnitude ^ sign) - sign


def standard_deviation() -> float:
    """Of one draw: sigma, to 1e-12 of it."""
    probabilities = (
        np.diff(TABLE.astype(np.float64), prepend=0, append=2.0**PRECISION_BITS) / 2**PRECISION_BITS
    )
    return math.sqrt(float(probabilities @ np.arange(LARGEST + 1.0) ** 2))
