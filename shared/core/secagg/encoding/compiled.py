"""The encoding's loops over all coordinates, compiled; no fast-math, so that every machine rounds alike."""

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from shared.core.compiling import compiled

_HALF_WORD = np.uint32(8)
_UNIT = np.float32(2.0**-24)

_U32S, _I32S = types.Array(types.uint32, 1, "C"), types.Array(types.int32, 1, "C")
_WORDS = types.Array(types.uint64, 1, "C")
_F32S, _F64S = types.Array(types.float32, 1, "C"), types.Array(types.float64, 1, "C")
_READ_F32S = types.Array(types.float32, 1, "C", readonly=True)


@compiled(types.void(_F32S, types.int64), types.void(_F64S, types.int64))
def _hadamard(values: Any, block: Any) -> None:  # noqa: ANN401
    """Two levels of butterflies a pass; a single level is left where the block's logarithm is odd."""
    for start in range(0, values.size, block):
        half = 1
        while 4 * half <= block:
            for i in range(start, start + block, 4 * half):
                for j in range(i, i + half):
                    a, b = values[j], values[j + half]
                    c, d = values[j + 2 * half], values[j + 3 * half]
                    ab, a_b, cd, c_d = a + b, a - b, c + d, c - d
                    values[j], values[j + half] = ab + cd, a_b + c_d
                    values[j + 2 * half], values[j + 3 * half] = ab - cd, a_b - c_d
            half *= 4
        if half < block:
            for j in range(start, start + half):
                a, b = values[j], values[j + half]
                values[j], values[j + half] = a + b, a - b


@compiled(
    types.void(_READ_F32S, _WORDS, types.float32, _F32S), types.void(_F64S, _WORDS, types.float64, _F64S)
)
def _flip(values: Any, signs: Any, factor: Any, out: Any) -> None:  # noqa: ANN401
    for i in range(values.size):
        bit = (signs[i >> 6] >> np.uint64(i & 63)) & np.uint64(1)
        out[i] = -factor * values[i] if bit else factor * values[i]


@compiled(types.int64(_READ_F32S, _U32S, types.float32, types.float32, _I32S))
def _round(values: Any, words: Any, scale: Any, limit: Any, out: Any) -> Any:  # noqa: ANN401
    """The comparison is exact: a word's upper 24 bits are a float32, and so is what is beyond the floor."""
    clipped = 0
    for i in range(values.size):
        scaled = values[i] * scale
        bounded = min(max(scaled, -limit), limit)
        clipped += scaled != bounded
        floor = np.floor(bounded)
        uniform = np.float32(words[i] >> _HALF_WORD) * _UNIT
        out[i] = np.int32(floor) + np.int32(uniform < bounded - floor)
    return clipped


def hadamard(values: NDArray[np.float32] | NDArray[np.float64], block: int) -> None:
    """The Walsh-Hadamard transform of each block, in place, not normalised: twice is `block` times.

    Args:
        values: (d',), whole blocks.
        block: a power of two.
    """
    _hadamard(values, block)


def flip(
    values: NDArray[np.float32] | NDArray[np.float64],
    signs: NDArray[np.uint64],
    factor: np.float32 | np.float64,
    out: NDArray[np.float32] | NDArray[np.float64],
) -> None:
    """`out` (d,) = `factor` times `values` (d,), negated where the coordinate's bit of `signs` is set."""
    _flip(values, signs, factor, out)


def round_up_or_down(
    values: NDArray[np.float32], words: NDArray[np.uint32], scale: float, limit: float, out: NDArray[np.int32]
) -> int:
    """`out` = `values` times `scale`, clipped to -limit, ..., limit, rounded up with the probability of what
    is beyond the floor, to 2^-24. All (d,), `values` finite.

    Returns: how many were clipped.
    """
    return int(_round(values, words, np.float32(scale), np.float32(limit), out))
