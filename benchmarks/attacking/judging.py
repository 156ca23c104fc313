"""How a round's updates become one: every rule, on single updates and on means of random groups."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.robust.gram import (
    RULES,
    Root,
    Weighing,
    bucketing,
    fltrust,
    nearest_neighbour_mixing,
    weigh_mixed,
)
from shared.errors import Refused

Rows = NDArray[np.float64]
GROUP, BUCKET = 2, 2


@dataclass(frozen=True)
class Judged:
    """What a rule is given beside the Gram matrix.

    Attributes:
        f: hostile rows that the rule is asked to bear.
        root: products with the server's own update.
        permutation: of the rows, drawn after they are fixed.
    """

    f: int
    root: Root
    permutation: NDArray[np.int64]


def _plain(name: str) -> Callable[[Rows, Judged], Weighing]:
    """FoolsGold and the mean bear no hostile client; the table shows what happens all the same."""
    rule = RULES[name]
    return lambda gram, of: rule(gram, of.f if rule.largest_f(len(gram)) else 0)


def _mixed(name: str) -> Callable[[Rows, Judged], Weighing]:
    return lambda gram, of: weigh_mixed(RULES[name], nearest_neighbour_mixing(gram, of.f), gram, of.f)


def _bucketed(name: str) -> Callable[[Rows, Judged], Weighing]:
    return lambda gram, of: weigh_mixed(RULES[name], bucketing(of.permutation, BUCKET), gram, of.f)


GRAM_RULES: Mapping[str, Callable[[Rows, Judged], Weighing]] = {
    **{name: _plain(name) for name in RULES},
    "nnm, multi-krum": _mixed("multi-krum"),
    "nnm, geometric-median": _mixed("geometric-median"),
    "bucketing, multi-krum": _bucketed("multi-krum"),
    "bucketing, geometric-median": _bucketed("geometric-median"),
    "fltrust": lambda gram, of: fltrust(gram, of.root),
}


def median(rows: Rows, _: int) -> Rows:
    """(d,): of each coordinate."""
    return np.asarray(np.median(rows, axis=0))


def trimmed_mean(rows: Rows, f: int) -> Rows:
    """(d,): of each coordinate, without the f smallest and largest values."""
    if 2 * f >= len(rows):
        raise Refused("aggregation.robust", f"{f} hostile of {len(rows)}", "trim fewer")
    return np.asarray(np.sort(rows, axis=0)[f : len(rows) - f].mean(axis=0))


def mixed_median(rows: Rows, f: int) -> Rows:
    """(d,): after nearest-neighbour mixing."""
    return median(nearest_neighbour_mixing(rows @ rows.T, f).matrix @ rows, f)


COORDINATE_RULES: Mapping[str, Callable[[Rows, int], Rows]] = {
    "median": median,
    "trimmed-mean": trimmed_mean,
    "nnm, median": mixed_median,
}
NAMES = (*GRAM_RULES, *COORDINATE_RULES)


def products(rows: Rows, own: Rows) -> Root:
    """The root's part of the Gram matrix."""
    return Root(rows @ own, float(np.linalg.norm(own)))


def single(name: str, rows: Rows, own: Rows, f: int, rng: np.random.Generator) -> Rows:
    """(d,): the update from single rows.

    Args:
        name: of the rule.
        rows: (n, d), of clients or groups.
        own: (d,), the server's.
        f: hostile rows.
        rng: for a permutation.
    """
    if name in COORDINATE_RULES:
        return COORDINATE_RULES[name](rows, f)
    of = Judged(f, products(rows, own), rng.permutation(len(rows)))
    return np.asarray(GRAM_RULES[name](rows @ rows.T, of).weights @ rows)


def grouped(name: str, rows: Rows, own: Rows, f: int, rng: np.random.Generator) -> Rows:
    """(d,): the same from the means of random groups of 2, of which f may be hostile."""
    groups = rng.permutation(len(rows)).reshape(-1, GROUP)
    return single(name, rows[groups].mean(axis=1), own, f, rng)
