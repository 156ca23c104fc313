"""The loops over all coordinates of a share, compiled; all arithmetic is modulo 2^64."""

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from shared.core.compiling import loop

ROWS = 40  # projections of the norm check
GROUP = 4  # coordinates whose partial sums are tabulated together
GROUP_BYTES = ROWS // 2 + 1  # a nibble for each row, and one of signs
_U64, _I64 = np.uint64, np.int64

_U64S, _READ_ONLY = types.Array(types.uint64, 1, "C"), types.Array(types.uint64, 1, "C", readonly=True)
_I8S, _I64S, _U8S = (types.Array(kind, 1, "C") for kind in (types.int8, types.int64, types.uint8))


@loop(_READ_ONLY, _I8S, _I64S, _U64S, _U64S)
def _absorb(share: Any, signs: Any, rotations: Any, total: Any, sketch: Any) -> None:  # noqa: ANN401
    size = sketch.size
    for block in range(rotations.size):
        first, rotation = block * size, rotations[block]
        length = min(size, share.size - first)
        split = min(length, size - rotation)
        for j in range(split):
            sign = _U64(_I64(signs[first + j]))
            total[first + j] += share[first + j]
            sketch[rotation + j] += (share[first + j] ^ sign) - sign
        wrapped = rotation - size
        for j in range(split, length):
            sign = _U64(_I64(signs[first + j]))
            total[first + j] += share[first + j]
            sketch[wrapped + j] += (share[first + j] ^ sign) - sign


@loop(_READ_ONLY, types.uint64, _U64S)
def _add(share: Any, weight: Any, total: Any) -> None:  # noqa: ANN401
    for i in range(total.size):
        total[i] += weight * share[i]


@loop(_READ_ONLY, _U8S, _U64S)
def _project(share: Any, choices: Any, out: Any) -> None:  # noqa: ANN401
    """A table of the 16 sums of four signed coordinates, and one look-up in it for each row."""
    sums = np.zeros(16, np.uint64)
    for group in range((share.size + 3) // 4):
        at = group * GROUP_BYTES
        signs = choices[at + ROWS // 2]
        filled = 1
        for j in range(4):
            value = share[4 * group + j] if 4 * group + j < share.size else _U64(0)
            if (signs >> j) & 1:
                value = _U64(0) - value
            for entry in range(filled):
                sums[filled + entry] = sums[entry] + value
            filled *= 2
        for pair in range(ROWS // 2):
            choice = choices[at + pair]
            out[2 * pair] += sums[choice & 15]
            out[2 * pair + 1] += sums[choice >> 4]


def absorb(
    share: NDArray[np.uint64],
    signs: NDArray[np.int8],
    rotations: NDArray[np.int64],
    total: NDArray[np.uint64],
    sketch: NDArray[np.uint64],
) -> None:
    """Add a share to the sum of shares, and its sketch to `sketch`, in place, in one pass.

    Args:
        share: (m,), m a multiple of k, or to the end of the vector.
        signs: (m,), of these coordinates.
        rotations: (ceil(m / k),), of these blocks.
        total: (m,), the sum.
        sketch: (k,).
    """
    _absorb(share, signs, rotations, total, sketch)


def add(share: NDArray[np.uint64], weight: int, total: NDArray[np.uint64]) -> None:
    """Add `weight` times a share, both (m,), in place; a negative weight subtracts."""
    _add(share, np.uint64(weight % 2**64), total)


def project(share: NDArray[np.uint64], choices: NDArray[np.uint8], out: NDArray[np.uint64]) -> None:
    """Add sums of signed subsets of a share to `out` (ROWS,), in place.

    Args:
        share: (m,).
        choices: (ceil(m / GROUP) * GROUP_BYTES,), random: for four coordinates 20 bytes, whose low and high
            nibbles say for two rows which of the four are taken, and one whose low nibble gives their signs.
        out: (ROWS,).
    """
    _project(share, choices, out)
