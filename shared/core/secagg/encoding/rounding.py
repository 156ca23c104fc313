"""Unbiased rounding to integers, from cryptographic bytes, with or without a bound on the result's norm."""

import math

import numpy as np
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes
from shared.core.secagg import key_stream
from shared.core.secagg.encoding import compiled

PIECE = 1 << 15  # coordinates: their words stay in the cache
REPEAT_PROBABILITY = math.exp(-0.5)  # Kairouz et al.'s beta: at most so often is a rounding repeated


def largest_rounded_squares(norm: float, length: int) -> int:
    """The squared L2 norm that a rounded vector may have.

    min((c + sqrt d)^2, c^2 + d / 4 + sqrt(2 ln(1 / beta)) (c + sqrt(d) / 2)), c the norm before rounding and
    all in integer steps, beta = e^(-1/2). A rounding is longer with a probability of at most beta.
    Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387, Algorithm 1.
    """
    root = math.sqrt(length)
    likely = norm**2 + length / 4 + math.sqrt(-2 * math.log(REPEAT_PROBABILITY)) * (norm + root / 2)
    return math.floor(min((norm + root) ** 2, likely))


def rounded(
    values: NDArray[np.float32],
    scale: float,
    limit: float,
    random_bytes: RandomBytes,
    largest_squares: int | None = None,
) -> tuple[NDArray[np.int32], int]:
    """`values` times `scale`, clipped to -limit, ..., limit, each rounded up or down, without bias to 2^-24.

    With `largest_squares` all are rounded anew until the sum of squares is no larger: that leaves a bias, of
    at most beta / (1 - beta) sqrt(d) in L2 and far less in practice, and the number of trials depends on the
    values. `scale` must have brought the norm down to what `largest_squares` was computed from.

    Returns: (d',) int32 and how many were clipped.
    """
    while True:
        out, clipped = _once(values, scale, limit, random_bytes(key_stream.KEY_BYTES))
        if largest_squares is None or _squares(out) <= largest_squares:
            return out, clipped


def _once(
    values: NDArray[np.float32], scale: float, limit: float, key: bytes
) -> tuple[NDArray[np.int32], int]:
    out, clipped = np.empty(len(values), np.int32), 0
    stream = key_stream.pieces(key, (len(values) + 1) // 2, PIECE // 2)
    for start, words in zip(range(0, len(values), PIECE), stream, strict=True):
        piece = slice(start, min(start + PIECE, len(values)))
        clipped += compiled.round_up_or_down(values[piece], words.view(np.uint32), scale, limit, out[piece])
    return out, clipped


def _squares(values: NDArray[np.int32]) -> int:
    wide = values.astype(np.int64)
    return int(wide @ wide)
