"""Updates in the clear, judged as they arrive: what can be done before the last one is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.gram.rule import FIELD
from shared.core.robust.judging.choice import Choice, largest_f
from shared.core.robust.judging.table import Needs
from shared.core.robust.judging.verdict import Reason, judge
from shared.core.robust.streaming import columns, compiled, gram, histogram, quantised, ranks, screening
from shared.core.robust.streaming.gram import Gram
from shared.core.secagg.mpc3 import sketch
from shared.core.secagg.mpc3.secrets import derived
from shared.errors import Refused, Rejected

EXACT_UP_TO = 10**7  # coordinates of all rows together: beyond, inner products are of sketches
SKETCH_SIZE = 1024
HISTOGRAM_BITS = 8


class Precision(NamedTuple):
    """Of coordinates that are kept as small integers: up to 8 bits take one byte, others two. What is beyond
    `bound` is clipped."""

    bits: int
    bound: float


@dataclass(frozen=True)
class Judged:
    """A rule's result.

    Attributes:
        update: (d,) float64.
        weights: by name, of every row but the trusted one; 0 for those left out.
        reasons: by name, of those that count less than their share.
    """

    update: NDArray[np.float64]
    weights: Mapping[str, float]
    reasons: Mapping[str, Reason]


class Rows(ABC):
    """The rows so far, in the order of arrival. Arrays are written in place."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.names: list[str] = []

    @abstractmethod
    def add(self, name: str, row: NDArray[np.float32]) -> None:
        """Take one (d,) row, finite. Raises: Rejected for another shape or type."""

    @abstractmethod
    def finish(self, hostile: int) -> Judged:
        """The rule's result, of which so many rows may be hostile; more rows may follow.

        Raises: Refused when the rule does not bear so many; Rejected without a row that counts.
        """


class WeighedRows(Rows):
    """For rules on the Gram matrix: it grows by blocks of 32 rows, and all rows are kept for the sum."""

    def __init__(self, choice: Choice, dimension: int, most: int, key: bytes) -> None:
        super().__init__(choice)
        self._key = key
        exact = dimension * most <= EXACT_UP_TO
        drawn = None if exact else sketch.draw(derived(key, b"sketch"), dimension, SKETCH_SIZE)
        self._gram: Gram = gram.empty(dimension, most, np.float32, drawn)
        self._kept = self._gram.rows if exact else np.zeros((most, dimension), np.float32)
        self._total = np.zeros(dimension, np.float64)

    def add(self, name: str, row: NDArray[np.float32]) -> None:
        """As `Rows`."""
        self._gram = gram.absorb(self._gram, row)
        self._kept[len(self.names)] = row
        np.add(self._total, row, out=self._total)
        self.names.append(name)

    def finish(self, hostile: int) -> Judged:
        """As `Rows`."""
        if not self.names:
            raise Rejected("there is no update")
        chosen = replace(self.choice, hostile=hostile)
        root = self.names.index(chosen.root) if chosen.root in self.names else None
        verdict = judge(gram.matrix(self._gram), chosen, root=root, key=derived(self._key, b"buckets"))
        return Judged(
            self._weighted(verdict.weights),
            {name: float(verdict.weights[row]) for row, name in enumerate(self.names) if row != root},
            {self.names[row]: reason for row, reason in verdict.reasons.items()},
        )

    def _weighted(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The weighted sum of rows: those with the most common weight are in the total already."""
        values, counts = np.unique(weights, return_counts=True)
        common = float(values[np.argmax(counts)])
        others = np.flatnonzero(weights != common)
        if 2 * len(others) > len(weights):
            return np.asarray(weights.astype(np.float32) @ self._kept[: len(weights)], np.float64)
        update = common * self._total
        compiled.add_weighted(update, self._kept, others, weights[others] - common)
        return update


class OrderStatistics(Rows):
    """For the median and the trimmed mean: counts or columns of small integers, no update is kept."""

    def __init__(self, choice: Choice, dimension: int, most: int, precision: Precision) -> None:
        super().__init__(choice)
        self._dimension = dimension
        self._bound, self._byte = precision.bound, precision.bits <= HISTOGRAM_BITS
        self._histogram = histogram.empty(dimension if self._byte else 0)
        self._columns = columns.empty(0 if self._byte else dimension, most)

    def add(self, name: str, row: NDArray[np.float32]) -> None:
        """As `Rows`."""
        wrong = screening.misfit(row, self._dimension, np.float32)
        if wrong is not None:
            raise Rejected(wrong)
        if self._byte:
            values = quantised.quantise(row, self._bound, np.int8)
            self._histogram = histogram.absorb(self._histogram, values)
        else:
            self._columns = columns.absorb(self._columns, quantised.quantise(row, self._bound, np.int16))
        self.names.append(name)

    def finish(self, hostile: int) -> Judged:
        """As `Rows`."""
        count = len(self.names)
        if hostile > (most := largest_f(self.choice, count)):
            reason = f"{self.choice.name} bears {most} hostile of {count}, not {hostile}"
            raise Refused(FIELD, reason, f"give 0 to {most}")
        trim = ranks.median_trim(count) if self.choice.name == "median" else hostile
        if self._byte:
            update = histogram.trimmed_mean(self._histogram, trim) * quantised.step(self._bound, np.int8)
        else:
            update = columns.trimmed_mean(self._columns, trim) * quantised.step(self._bound, np.int16)
        return Judged(update, dict.fromkeys(self.names, 1 / count), {})


def rows_for(choice: Choice, dimension: int, most: int, precision: Precision, key: bytes) -> Rows:
    """Room for `most` rows of (dimension,) float32.

    Args:
        choice: the rule.
        dimension: d.
        most: rows that there will be.
        precision: for rules that look at coordinates.
        key: 32 bytes that no client knows, used for these rows alone.
    """
    if choice.kind.needs is Needs.COORDINATES:
        return OrderStatistics(choice, dimension, most, precision)
    return WeighedRows(choice, dimension, most, key)
