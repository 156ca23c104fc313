"""The loops over all coordinates of a block or a histogram, compiled; sums are of integers, so exact."""

from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from shared.core.compiling import compiled, loop

BINS, ZERO = 256, 128  # of int8 values, and the bin of 0
_STRETCH = 2048  # coordinates: 16 KiB of sums
_GROUP = 16  # bins that are skipped or summed together
_U16, _I16, _I32, _I64 = np.uint16, np.int16, np.int32, np.int64

_COUNTS = types.Array(types.uint16, 2, "C")
_I8S, _I16S = types.Array(types.int8, 2, "C"), types.Array(types.int16, 2, "C")
_F64S = types.Array(types.float64, 1, "C")
_UPDATES = [types.Array(kind, 1, "C", readonly=True) for kind in (types.int8, types.int16, types.float32)]
_SIGNS, _ROTATIONS = types.Array(types.int8, 1, "C"), types.Array(types.int64, 1, "C")


@loop(_COUNTS, _I8S)
def _count(counts: Any, block: Any) -> None:  # noqa: ANN401
    """Coordinate by coordinate, so that one histogram of 512 bytes stays in the nearest cache."""
    for j in range(counts.shape[0]):
        for i in range(block.shape[0]):
            counts[j, _I64(block[i, j]) + ZERO] += _U16(1)


@loop(_COUNTS, _I8S, types.int64, types.int64, _F64S)
def _trimmed(counts: Any, block: Any, start: Any, stop: Any, out: Any) -> None:  # noqa: ANN401
    row = np.empty(BINS, np.uint16)
    for j in range(counts.shape[0]):
        for v in range(BINS):
            row[v] = counts[j, v]
        for i in range(block.shape[0]):
            row[_I64(block[i, j]) + ZERO] += _U16(1)
        below, total = _I64(0), _I64(0)
        for group in range(0, BINS, _GROUP):
            inside = _I32(0)
            for v in range(_GROUP):
                inside = _I32(inside + _I32(row[group + v]))
            above = below + inside
            if above > start:
                if start <= below and above <= stop:
                    moment = _I32(0)
                    for v in range(_GROUP):
                        moment = _I32(moment + _I32(row[group + v]) * _I32(v))
                    total += moment + _I64(group - ZERO) * inside
                else:
                    rank = below
                    for v in range(group, group + _GROUP):
                        upper = rank + _I64(row[v])
                        total += max(min(upper, stop) - max(rank, start), 0) * (v - ZERO)
                        rank = upper
                if above >= stop:
                    break
            below = above
        out[j] = total / (stop - start)


@loop(_I16S, _I16S, types.int64)
def _transpose(block: Any, columns: Any, first: Any) -> None:  # noqa: ANN401
    for j in range(block.shape[1]):
        for i in range(block.shape[0]):
            columns[j, first + i] = block[i, j]


@numba.njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _ranked(column: Any, rank: Any) -> Any:  # noqa: ANN401
    """The value of that rank, by 16 bisections of the value."""
    least = _I64(-32768)
    for bit in range(15, -1, -1):
        trial, below = _I16(least + (1 << bit)), _I16(0)
        for i in range(column.size):
            below = _I16(below + _I16(column[i] < trial))
        if below <= rank:
            least = _I64(trial)
    return _I16(least)


@numba.njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _both_ranked(column: Any, lower: Any, upper: Any) -> Any:  # noqa: ANN401
    """The same for two ranks: each value is loaded once for both."""
    least, greatest = _I64(-32768), _I64(-32768)
    for bit in range(15, -1, -1):
        trial, other = _I16(least + (1 << bit)), _I16(greatest + (1 << bit))
        below, other_below = _I16(0), _I16(0)
        for i in range(column.size):
            below = _I16(below + _I16(column[i] < trial))
            other_below = _I16(other_below + _I16(column[i] < other))
        if below <= lower:
            least = _I64(trial)
        if other_below <= upper:
            greatest = _I64(other)
    return _I16(least), _I16(greatest)


@numba.njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _next(column: Any, least: Any, rank: Any) -> Any:  # noqa: ANN401
    """The value of that rank, where `least` has that rank or the one before."""
    up_to, successor = _I16(0), _I16(32767)
    for i in range(column.size):
        value = column[i]
        up_to = _I16(up_to + _I16(value <= least))
        successor = min(successor, value if value > least else _I16(32767))
    return least if up_to > rank else successor


@loop(_I16S, types.int64, types.int64, types.int64, _F64S)
def _kept(columns: Any, count: Any, start: Any, stop: Any, out: Any) -> None:  # noqa: ANN401
    """The bounds, then the sum within them, less what is one too many of each bound."""
    for j in range(columns.shape[0]):
        column = columns[j, :count]
        if stop - start <= 2:
            least = _ranked(column, start)
            out[j] = (_I64(least) + _I64(_next(column, least, stop - 1))) / 2
            continue
        least, greatest = _both_ranked(column, start, stop - 1)
        below, above, total = _I32(0), _I32(0), _I32(0)
        for i in range(count):
            value = column[i]
            below = _I32(below + _I32(value < least))
            above = _I32(above + _I32(value > greatest))
            total = _I32(total + (_I32(value) if least <= value <= greatest else _I32(0)))
        surplus = (start - below) * _I64(least) + (count - stop - above) * _I64(greatest)
        out[j] = (total - surplus) / (stop - start)


@compiled(*(types.void(values, _SIGNS, _ROTATIONS, _F64S) for values in _UPDATES))
def _sketch(values: Any, signs: Any, rotations: Any, out: Any) -> None:  # noqa: ANN401
    size = out.size
    for block in range(rotations.size):
        first, rotation = block * size, rotations[block]
        length = min(size, values.size - first)
        split = min(length, size - rotation)
        for j in range(split):
            out[rotation + j] += np.float64(values[first + j]) * (1 + 2 * signs[first + j])
        for j in range(split, length):
            out[rotation - size + j] += np.float64(values[first + j]) * (1 + 2 * signs[first + j])


def sketch(
    values: NDArray[Any], signs: NDArray[np.int8], rotations: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """(size,) count sketch of (d,) int8, int16 or float32, in float64: of integers it is exact.

    Args:
        values: (d,).
        signs: (d,), 0 for plus and -1 for minus.
        rotations: (ceil(d / size),), 0 to size - 1.
        size: k, 1 or more.
    """
    out = np.zeros(size, np.float64)
    _sketch(np.ascontiguousarray(values), signs, rotations, out)
    return out


def count(counts: NDArray[np.uint16], block: NDArray[np.int8]) -> None:
    """Add b updates to histograms, in place.

    Args:
        counts: (d, BINS), of the values -128 to 127.
        block: (b, d).
    """
    _count(counts, block)


def trimmed(
    counts: NDArray[np.uint16], block: NDArray[np.int8], start: int, stop: int
) -> NDArray[np.float64]:
    """(d,) means of the values of rank `start` to `stop` - 1 in histograms and one more block, as `count`."""
    out = np.empty(len(counts), np.float64)
    _trimmed(counts, block, start, stop, out)
    return out


def transpose(block: NDArray[np.int16], columns: NDArray[np.int16], first: int) -> None:
    """Write b updates, (b, d), to the places from `first` on of `columns`, (d, room)."""
    _transpose(block, columns, first)


def kept(columns: NDArray[np.int16], count: int, start: int, stop: int) -> NDArray[np.float64]:
    """(d,) means of the values of rank `start` to `stop` - 1 among the first `count` of each column.

    Args:
        columns: (d, room).
        count: below 2^15, so that counts and sums fit in 16 and 32 bits.
        start: 0 or more.
        stop: above `start`, at most `count`.
    """
    out = np.empty(len(columns), np.float64)
    _kept(columns, count, start, stop, out)
    return out


@loop(types.Array(types.float32, 2, "C"), types.Array(types.int64, 1, "C"), _F64S, _F64S)
def _add_weighted(rows: Any, chosen: Any, weights: Any, total: Any) -> None:  # noqa: ANN401
    """A stretch of coordinates at a time, so that its sums stay in the nearest cache."""
    for start in range(0, len(total), _STRETCH):
        stop = min(start + _STRETCH, len(total))
        for i in range(len(chosen)):
            row, weight = chosen[i], weights[i]
            for j in range(start, stop):
                total[j] += weight * np.float64(rows[row, j])


def add_weighted(
    total: NDArray[np.float64],
    rows: NDArray[np.float32],
    chosen: NDArray[np.intp],
    weights: NDArray[np.float64],
) -> None:
    """Add `weights` times the chosen of (n, d) rows to (d,) `total`, in place, in float64."""
    _add_weighted(rows, chosen.astype(np.int64), np.ascontiguousarray(weights), total)
