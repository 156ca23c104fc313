"""Median and trimmed mean of int8 updates from one histogram a coordinate, counted as updates arrive.

512 bytes a coordinate, whatever the number of updates; neither does the time for the result depend on it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.streaming import compiled, ranks
from shared.core.robust.streaming.screening import misfit
from shared.errors import Rejected

BLOCK = 32
MOST = 2**16 - 1


@dataclass(frozen=True)
class Histogram:
    """Written in place: go on with the newest one.

    Attributes:
        counts: (d, 256) uint16, of the values -128 to 127 in the full blocks.
        block: (BLOCK, d) int8, the updates since.
        count: n, of updates so far.
    """

    counts: NDArray[np.uint16]
    block: NDArray[np.int8]
    count: int = 0


def empty(dimension: int) -> Histogram:
    """Room for up to 65,535 updates, (dimension,) int8 each."""
    return Histogram(np.zeros((dimension, compiled.BINS), np.uint16), np.zeros((BLOCK, dimension), np.int8))


def absorb(histogram: Histogram, values: NDArray[np.int8]) -> Histogram:
    """Take one update; every 32nd is counted with the 31 before it.

    Raises: Rejected for another shape or type, with nothing changed, and when there are too many.
    """
    wrong = misfit(values, len(histogram.counts), np.int8)
    if wrong is not None:
        raise Rejected(wrong)
    if histogram.count == MOST:
        raise Rejected(f"a histogram holds {MOST} updates")
    row = histogram.count % BLOCK
    histogram.block[row] = values
    if row == BLOCK - 1:
        compiled.count(histogram.counts, histogram.block)
    return replace(histogram, count=histogram.count + 1)


def trimmed_mean(histogram: Histogram, trim: int) -> NDArray[np.float64]:
    """Average each coordinate without its `trim` smallest and largest values; more updates may follow.

    Args:
        histogram: of n updates.
        trim: of n > 2 trim; at least the number of hostile updates.

    Returns: (d,), in steps: exact, rounded once to float64.
    Raises: Rejected unless n > 2 trim.
    Source: Yin et al. 2018, ICML, arXiv:1803.01498, Definition 2.
    """
    start, stop = ranks.kept(histogram.count, trim)
    return compiled.trimmed(histogram.counts, histogram.block[: histogram.count % BLOCK], start, stop)


def median(histogram: Histogram) -> NDArray[np.float64]:
    """The middle value of each coordinate, or the mean of both; more updates may follow.

    Returns: (d,), in steps: exact.
    Raises: Rejected while there is no update.
    Source: Yin et al. 2018, ICML, arXiv:1803.01498, Definition 1.
    """
    return trimmed_mean(histogram, ranks.median_trim(histogram.count))
