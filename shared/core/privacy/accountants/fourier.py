"""Compositions of privacy loss distributions as products of characteristic functions, many at once.

The steps' distributions are dp-accounting's. Where dp-accounting transforms one back for each count of steps,
here its transform is kept and raised to powers, and only at the frequencies that the composition, which is
smooth, still has. The privacy profile is summed in closed form from those (compare Zhu, Dong, Wang 2022,
arXiv:2106.08567). The figures agree with dp-accounting's to 1e-6 (tests/unit/test_privacy_fourier.py).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.core.privacy.accountants.losses import (
    EXPONENTS,
    INTERVAL,
    REMEMBERED,
    Complex,
    Floats,
    Whole,
    loss_of_step,
    transform_of_step,
)

Segment = tuple[float, float, int]  # sampling rate, noise multiplier, steps

TAIL_MASS = 1e-15  # left outside the window at its two ends, and counted as certain failure
LEAST_PERIOD, LARGEST_PERIOD = 1 << 10, 1 << 18  # grid points; wider losses have no useful epsilon
BLOCK = 1 << 17  # complex numbers worked on together


@dataclass(frozen=True)
class _Grid:
    """What depends on the period alone.

    Attributes:
        turns: (period,) exp(2 pi i k / period).
        from_on: (period // 2 + 1,) the sum of a frequency over all grid points from one on, up to a constant,
            over the period and both signs of the frequency.
        faded: the same, discounted by exp(-distance).
    """

    turns: Complex
    from_on: Complex
    faded: Complex


@lru_cache(maxsize=16)
def _grid(period: int) -> _Grid:
    angles = (2j * math.pi / period) * np.arange(period)
    half = angles[: period // 2 + 1]
    weights = np.full(len(half), 2 / period)
    weights[[0, -1]] = 1 / period
    from_on = np.zeros_like(half)
    from_on[1:] = weights[1:] / np.expm1(half[1:])
    return _Grid(np.exp(angles), from_on, -weights / np.expm1(half - INTERVAL))


class _Windows:
    """The grid points that hold all but TAIL_MASS of each composition's loss, in one direction (Chernoff).

    Attributes:
        lowest: (n,) index of the first.
        shifts: (n,) how far that is over the least loss.
        periods: (n,) how many, powers of 2.
        infinite: (n,) mass of an infinite loss, with the tails.
        kept: (n,) frequencies that are left.
    """

    def __init__(self, compositions: Sequence[Sequence[Segment]], direction: int) -> None:
        indices: dict[tuple[float, float], int] = {}
        flat = [segment for segments in compositions for segment in segments]
        which = np.array([indices.setdefault((q, noise), len(indices)) for q, noise, _ in flat])
        counts = np.array([count for *_, count in flat])
        starts = np.cumsum([0, *map(len, compositions[:-1])])
        steps = [loss_of_step(*one, direction) for one in indices]

        def total(of_one_step: Sequence[Any]) -> NDArray[Any]:
            """Over each composition's steps."""
            each = np.array(of_one_step)[which]
            return np.add.reduceat((each.T * counts).T, starts, axis=0)

        least = total([one.lowest for one in steps])
        most = least + total([len(one.chances) - 1 for one in steps])
        log_moments = total([one.log_moments for one in steps]) + math.log(2 / TAIL_MASS)
        bounds = log_moments / (EXPONENTS * INTERVAL)
        half = len(EXPONENTS) // 2
        self.lowest = np.maximum(least, np.floor(bounds[:, :half].max(axis=1)).astype(np.int64))
        highest = np.minimum(most, np.ceil(bounds[:, half:].min(axis=1)).astype(np.int64))
        self.shifts = self.lowest - least
        sizes = np.maximum(highest - self.lowest + 1, LEAST_PERIOD)
        self.periods = 1 << np.ceil(np.log2(sizes)).astype(np.int64)
        self.infinite = TAIL_MASS - np.expm1(total([math.log1p(-one.infinite) for one in steps]))
        kept = np.zeros(len(flat), np.int64)
        periods = np.repeat(np.minimum(self.periods, LARGEST_PERIOD), [len(one) for one in compositions])
        order = np.lexsort((periods, which))
        changes = np.flatnonzero(np.diff(periods[order]) | np.diff(which[order])) + 1
        for alike in np.split(order, changes):
            q, noise, _ = flat[alike[0]]
            transform = transform_of_step(q, noise, direction, int(periods[alike[0]]))
            kept[alike] = transform.kept(counts[alike])
        self.kept = np.minimum.reduceat(kept, starts)

    def blocks(self) -> Iterator[list[int]]:
        """Rows of one period and of about as many frequencies, to be worked on together; none too wide."""
        block: list[int] = []
        order = np.lexsort((self.kept, self.periods))
        for row in order[self.periods[order] <= LARGEST_PERIOD].tolist():
            first = block[0] if block else row
            alike = self.periods[row] == self.periods[first] and self.kept[row] <= 1.5 * self.kept[first] + 16
            if not alike or len(block) * self.kept[row] > BLOCK:
                yield block
                block = []
            block.append(row)
        if block:
            yield block


class _Profiles:
    """delta as a function of epsilon, of some compositions (rows) in one direction over one period."""

    def __init__(
        self, compositions: Sequence[Sequence[Segment]], windows: _Windows, rows: list[int], direction: int
    ) -> None:
        self.period = int(windows.periods[rows[0]])
        self.lowest, self.infinite = windows.lowest[rows], windows.infinite[rows]
        kept = int(windows.kept[rows].max())
        self.frequencies = np.arange(kept)
        self.grid = _grid(self.period)
        logs = np.zeros((len(rows), kept), np.complex128)
        for index, row in enumerate(rows):
            for q, noise, count in compositions[row]:
                logs[index] += transform_of_step(q, noise, direction, self.period).logs[:kept] * count
        spectrum = np.exp(logs) * self._turned(windows.shifts[rows])
        self.mass = spectrum[:, 0].real / self.period  # on each grid point on average
        self.from_on = spectrum * self.grid.from_on[:kept]
        self.faded = spectrum * self.grid.faded[:kept]
        self.constant = self.from_on.real.sum(axis=1)
        self.faded_constant = self.faded.real.sum(axis=1)

    def _turned(self, cells: Whole) -> Complex:
        """(rows, frequencies) exp(2 pi i k cell / period)."""
        within = self.period - 1  # a power of 2, less 1
        return np.asarray(self.grid.turns[np.multiply.outer(cells & within, self.frequencies) & within])

    def _from(self, cells: Whole) -> tuple[Floats, Floats]:
        """Mass of the losses from a grid point on, and the same discounted by exp(its loss - loss)."""
        turned = self._turned(cells)
        left = self.period - cells
        mass = self.mass * left + self.constant - (self.from_on * turned).real.sum(axis=1)
        faded = (self.faded * turned).real.sum(axis=1) - np.exp(-INTERVAL * left) * self.faded_constant
        return mass, faded

    def deltas(self, epsilons: Floats) -> Floats:
        """The least delta of each row at its epsilon."""
        cells = self._cells(epsilons)
        mass, faded = self._from(cells)
        return np.asarray(self.infinite + mass - np.exp(epsilons - self._losses(cells)) * faded)

    def epsilons(self, delta: float) -> Floats:
        """The least epsilon >= 0 of each row at this delta."""
        cells = self._just_below(delta)
        found = np.zeros(len(cells))
        for _ in range(100):
            mass, faded = self._from(cells)
            more = (mass + self.infinite > delta) & (faded > 0)
            # delta is convex in exp(epsilon) and linear within a cell: Newton's steps approach from below.
            rise = np.log(np.where(more, mass + self.infinite - delta, 1) / np.where(more, faded, 1))
            found = np.where(more, self._losses(cells) + rise, found)
            after = np.where(more, self._cells(found), cells)
            if (after == cells).all():
                break
            cells = after
        return np.where(self.infinite > delta, math.inf, np.maximum(0.0, found))

    def _just_below(self, delta: float) -> Whole:
        """A grid point whose delta is larger, or the first that matters, by a coarse inverse transform."""
        first = np.maximum(0, -self.lowest)
        points = min(self.period, 1 << max(6, (2 * len(self.frequencies)).bit_length()))
        stride = self.period // points
        halves = (self.from_on + self.faded) / 2
        halves[:, 0] *= 2
        if 2 * len(self.frequencies) > points:
            halves[:, -1] *= 2
        cells = stride * np.arange(points)
        deltas = np.fft.irfft(halves, points, axis=1) * -points
        deltas += np.multiply.outer(self.mass, self.period - cells)
        deltas += np.multiply.outer(self.faded_constant, np.exp(-INTERVAL * (self.period - cells)))
        deltas += (self.constant + self.infinite)[:, None]
        enough = (deltas <= delta) & (cells >= first[:, None])
        within = np.where(enough.any(axis=1), enough.argmax(axis=1), points) - 1
        return np.asarray(np.maximum(first, stride * within))

    def _losses(self, cells: Whole) -> Floats:
        return np.asarray((self.lowest + cells) * INTERVAL)

    def _cells(self, epsilons: Floats) -> Whole:
        """The first grid point at or over each epsilon, in the window."""
        above = np.ceil(np.minimum(epsilons, 1e6) / INTERVAL - 1e-9).astype(np.int64) - self.lowest
        return np.asarray(np.clip(above, 0, self.period - 1))


def composed_epsilons(compositions: Sequence[Sequence[Segment]], delta: float) -> list[float]:
    """Of Poisson-sampled Gaussian releases, adding or removing one unit; of many compositions at once.

    Args:
        compositions: each of segments, not empty, with steps > 0.
        delta: in (0, 1).

    Returns: of each, epsilon >= 0; infinite where delta cannot be met, or the loss is too wide to compose.
    """
    found: list[float] = []
    for some in _of_few_steps(compositions):
        removing = _removing(some, delta)
        sampled = [i for i, of in enumerate(some) if removing[i] < math.inf and any(q < 1 for q, *_ in of)]
        if sampled:
            removing[sampled] = _at_least(removing[sampled], [some[i] for i in sampled], delta)
        found += removing.tolist()
    return found


def _of_few_steps(compositions: Sequence[Sequence[Segment]]) -> Iterator[Sequence[Sequence[Segment]]]:
    """Runs of compositions whose steps are all remembered until they are done."""
    start, steps = 0, set[tuple[float, float]]()
    for index, segments in enumerate(compositions):
        more = {(q, noise) for q, noise, _ in segments}
        if steps and len(steps | more) > REMEMBERED // 4:
            yield compositions[start:index]
            start, steps = index, set()
        steps |= more
    if compositions:
        yield compositions[start:]


def _removing(compositions: Sequence[Sequence[Segment]], delta: float) -> Floats:
    found = np.full(len(compositions), math.inf)
    windows = _Windows(compositions, 0)
    for rows in windows.blocks():
        found[rows] = _Profiles(compositions, windows, rows, 0).epsilons(delta)
    return found


def _at_least(found: Floats, compositions: Sequence[Sequence[Segment]], delta: float) -> Floats:
    """What was found for removing a unit, or more where adding one costs more."""
    windows = _Windows(compositions, 1)
    enough = np.full(len(found), math.inf)
    for rows in windows.blocks():
        adding = _Profiles(compositions, windows, rows, 1)
        dearer = (adding.deltas(found[rows]) > delta).any()
        enough[rows] = np.maximum(found[rows], adding.epsilons(delta)) if dearer else found[rows]
    return enough
