"""Median and trimmed mean of int16 updates, which are kept by coordinate as they arrive.

A histogram of int16 values takes 128 KiB a coordinate; these columns take 2 bytes a coordinate and update.
What remains after the last update is 16 counts of each column, whose time grows with n.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.streaming import compiled, ranks
from shared.core.robust.streaming.screening import misfit
from shared.errors import Rejected

BLOCK = 32  # int16 values of one cache line
MOST = 2**15 - 1


@dataclass(frozen=True)
class Columns:
    """Written in place: go on with the newest one.

    Attributes:
        values: (d, room) int16, the full blocks; room is a multiple of BLOCK.
        block: (BLOCK, d) int16, the updates since.
        count: n, of updates so far.
        most: how many there will be.
    """

    values: NDArray[np.int16]
    block: NDArray[np.int16]
    count: int
    most: int


def empty(dimension: int, most: int) -> Columns:
    """Room for `most` updates, 32,767 or fewer, (dimension,) int16 each.

    Raises: Rejected for more.
    """
    if most > MOST:
        raise Rejected(f"columns hold {MOST} updates, not {most}")
    room = -(-most // BLOCK) * BLOCK
    return Columns(np.zeros((dimension, room), np.int16), np.zeros((BLOCK, dimension), np.int16), 0, most)


def absorb(columns: Columns, values: NDArray[np.int16]) -> Columns:
    """Take one update; every 32nd is put into the columns with the 31 before it.

    Raises: Rejected for another shape or type, with nothing changed, and when there is no room.
    """
    wrong = misfit(values, len(columns.values), np.int16)
    if wrong is not None:
        raise Rejected(wrong)
    if columns.count == columns.most:
        raise Rejected(f"these columns hold {columns.most} updates")
    row = columns.count % BLOCK
    columns.block[row] = values
    if row == BLOCK - 1:
        compiled.transpose(columns.block, columns.values, columns.count - row)
    return replace(columns, count=columns.count + 1)


def trimmed_mean(columns: Columns, trim: int) -> NDArray[np.float64]:
    """As `histogram.trimmed_mean`."""
    start, stop = ranks.kept(columns.count, trim)
    rows = columns.count % BLOCK
    compiled.transpose(columns.block[:rows], columns.values, columns.count - rows)
    return compiled.kept(columns.values, columns.count, start, stop)


def median(columns: Columns) -> NDArray[np.float64]:
    """As `histogram.median`."""
    return trimmed_mean(columns, ranks.median_trim(columns.count))
