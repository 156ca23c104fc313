"""The graph is regular and mutual, its size follows the stated tails, and cuts leave someone unsupported."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from shared.core.secagg.pairwise import graph
from shared.core.secagg.pairwise.graph import Graph, Plan, plan
from shared.errors import Refused


def ring(size, neighbours):
    return Graph(tuple(f"c{i}" for i in range(size)), neighbours)


@pytest.mark.parametrize(("size", "neighbours"), [(2, 1), (3, 2), (10, 9), (10, 4), (11, 10), (50, 12)])
def test_ties_are_mutual_and_everyone_has_as_many(size, neighbours):
    tied = ring(size, neighbours)
    for client in tied.ring:
        assert tied.holders(client)[0] == client
        assert len(set(tied.holders(client))) == neighbours + 1
        assert all(client in tied.around(other) for other in tied.around(client))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((2, 0, 0), (1, 2)),
        ((3, 0.33, 0), (2, 2)),
        ((10, 0.3, 0.1), (9, 6)),
        ((50, 0.3, 0.1), (44, 29)),
        ((1000, 0.05, 0.05), (86, 64)),
        ((1000, 0.05, 0.1), (106, 82)),
    ],
)
def test_known_plans(rates, expected):
    planned = plan(*rates)
    assert (planned.neighbours, planned.threshold) == expected


@pytest.mark.parametrize("rates", [(300, 0.05, 0.05), (1000, 0.05, 0.1)])
def test_a_sparse_plan_meets_the_stated_tails_and_two_neighbours_fewer_do_not(rates):
    def fits(neighbours, threshold):
        clients, side = rates[0], neighbours // 2
        lost, colluding = (round(rate * clients) for rate in rates[1:])
        exposed = hypergeom.sf(threshold - 1, clients - 1, colluding, neighbours)
        exposed += 2 * hypergeom.sf(threshold - 2 - side, clients - 1, colluding, side)
        stuck = hypergeom.sf(neighbours - threshold, clients - 1, lost, neighbours)
        return (
            clients * exposed <= 2.0**-graph.SECURITY_BITS and clients * stuck <= 2.0**-graph.CORRECTNESS_BITS
        )

    planned = plan(*rates)
    assert fits(planned.neighbours, planned.threshold)
    fewer = planned.neighbours - 2
    assert not any(fits(fewer, threshold) for threshold in range(fewer // 2 + 1, fewer + 1))


def parts_of(tied, members):
    """The connected parts of `members`."""
    left, parts = set(members), []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            part.add(here := edge.pop())
            reached = left.intersection(tied.around(here))
            left -= reached
            edge.extend(reached)
        parts.append(part)
    return parts


@pytest.mark.parametrize("gap", [(3, 3), (4, 3), (4, 4), (6, 4)])
def test_a_server_that_cuts_the_ring_leaves_someone_unsupported(gap):
    """k = 8, t = 6: a gap of k / 2 on both sides cuts, and only then; no client colludes."""
    tied = ring(24, 8)
    first, second = gap
    alive = {c for i, c in enumerate(tied.ring) if not (i < first or 12 <= i < 12 + second)}
    cut = len(parts_of(tied, alive)) > 1
    assert cut == (min(gap) >= 4)
    assert not cut or tied.unsupported(alive, 6)


@pytest.mark.parametrize(("threshold", "holds"), [(10, True), (7, False)])
def test_no_cut_of_honest_survivors_is_supported_from_the_stated_threshold_on(threshold, holds):
    """k = 12, two collude, so t - 1 - k / 2 > 2 at t = 10; runs of silence beside those two are what cuts."""
    seed = int(np.random.SeedSequence().entropy % 2**32)
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    tied, accepted, cut = ring(60, 12), 0, 0
    for _ in range(400):
        starts = random.choice(60, 2, replace=False)
        runs = [{(start + i) % 60 for i in range(random.integers(2, 8))} for start in starts]
        colluding = {f"c{start}" for start in starts}
        alive = {c for i, c in enumerate(tied.ring) if c in colluding or not (i in runs[0] or i in runs[1])}
        if not tied.unsupported(alive, threshold):
            accepted += 1
            cut += len(parts_of(tied, alive - colluding)) > 1
    assert accepted > 0
    assert (cut == 0) == holds


def test_whoever_is_left_alone_is_not_supported():
    tied = ring(10, 4)
    assert tied.supported({"c0", "c1", "c2", "c3", "c7"}, 3) == {"c0", "c1", "c2", "c3"}
    assert tied.supported({"c0", "c3", "c6"}, 2) == frozenset()


@pytest.mark.parametrize(
    ("numbers", "field"),
    [
        ((1, 0, 0, 0, 1), "clients"),
        ((10, 0, 0, 3, 3), "neighbours"),
        ((10, 0, 0, 10, 6), "neighbours"),
        ((10, 0, 0, 4, 2), "threshold"),
        ((10, 0, 0, 4, 6), "threshold"),
        ((10, 0, 0, 9, 5), "threshold"),
        ((10, 5, 0, 9, 6), "threshold"),
        ((10, 1, 5, 9, 6), "lost"),
        ((10, -1, 0, 9, 6), "lost"),
    ],
)
def test_plans_that_cannot_hold_are_refused(numbers, field):
    with pytest.raises(Refused) as refused:
        Plan(*numbers)
    assert refused.value.field == f"aggregation.graph.{field}"


def test_rates_that_nothing_allows_are_refused():
    with pytest.raises(Refused, match="lost"):
        plan(10, 0.6, 0.3)
