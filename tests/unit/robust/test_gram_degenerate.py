"""Equal, zero, huge, tiny and tied updates, what is refused, and who is said to be left out."""

import numpy as np
import pytest

from shared.core.robust.gram import RULES, bucketing, nearest_neighbour_mixing, weigh_mixed
from shared.core.robust.gram.krum import krum_scores
from shared.core.robust.gram.rule import squared_distances
from shared.errors import Refused, Rejected

each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
MEASURED = pytest.mark.parametrize("name", ["multi-krum", "geometric-median", "centred-clipping"])
N, D = 9, 5


def gram(updates):
    return updates @ updates.T


def normal(rows=N, seed=7):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, D)) + 3


def most(rule, n=N):
    return rule.largest_f(n)


@each_rule
@pytest.mark.parametrize("value", [1.0, 1e-150, 1e90])
def test_equal_updates_give_themselves(rule, value):
    updates = np.full((N, D), value)
    np.testing.assert_allclose(rule(gram(updates), most(rule)).weights @ updates, updates[0], rtol=1e-9)


@each_rule
def test_zero_updates_give_zero(rule):
    weights = rule(np.zeros((N, N)), most(rule)).weights
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(1)


@each_rule
def test_one_client_is_the_update(rule):
    np.testing.assert_allclose(rule(np.array([[4.0]]), 0).weights, [1])


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if most(rule)])
def test_one_huge_update_moves_no_robust_rule_far(rule):
    updates = normal()
    updates[4] = -1e9
    update = rule(gram(updates), 1).weights @ updates
    honest = np.delete(updates, 4, axis=0)
    assert np.linalg.norm(update - honest.mean(axis=0)) <= 2 * np.linalg.norm(honest, axis=1).max()


@pytest.mark.parametrize("name", ["krum", "multi-krum", "cosine-clustering"])
def test_as_many_huge_updates_as_the_rule_bears_are_left_out(name):
    rule, updates = RULES[name], normal()
    hostile = list(range(most(rule)))
    updates[hostile] = -1e9 * np.arange(1, len(hostile) + 1)[:, None]
    weighing = rule(gram(updates), len(hostile))
    assert set(hostile) <= {finding.client for finding in weighing.left_out}
    assert (weighing.weights[hostile] == 0).all()


@MEASURED
def test_a_finding_says_how_far_away_a_client_was(name):
    updates = normal()
    updates[2] = 1e4
    weighing = RULES[name](gram(updates), 1)
    found = {finding.client: finding for finding in weighing.findings}[2]
    assert found.figure == "distance" and found.value > found.limit > 0
    assert found.value == pytest.approx(np.linalg.norm(updates[2] - updates[0]), rel=0.01)


def test_a_shortened_update_is_lessened_and_not_left_out():
    updates = normal()
    updates[2] *= 100
    weighing = RULES["norm-clipped-mean"](gram(updates), 1)
    assert weighing.left_out == ()
    lengths = np.linalg.norm(updates, axis=1)
    assert {finding.client for finding in weighing.lessened} == set(
        np.flatnonzero(lengths > np.median(lengths))
    )
    found = next(finding for finding in weighing.findings if finding.client == 2)
    assert found.value == pytest.approx(lengths[2]) and found.limit == pytest.approx(np.median(lengths))
    assert weighing.weights[2] * lengths[2] == pytest.approx(np.median(lengths) / N)


def test_a_tie_goes_to_the_lower_index():
    corners = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1], [0, 0], [0, 0]])
    scores = krum_scores(gram(corners), 1)
    assert len(set(scores[:4])) == 1
    assert np.flatnonzero(RULES["krum"](gram(corners), 1).weights).tolist() == [4]
    assert [finding.client for finding in RULES["multi-krum"](gram(corners), 1).left_out] == [3]


def test_a_client_is_in_its_own_mixture_though_it_has_copies():
    mixing = nearest_neighbour_mixing(np.ones((N, N)), 4)
    assert (np.diagonal(mixing.matrix) == 1 / 5).all()
    assert mixing.matrix.sum(axis=1) == pytest.approx(np.ones(N))


def test_a_finding_about_a_bucket_names_its_clients():
    updates = normal(12)
    updates[5] = 1e6
    permutation = np.array([3, 5, 0, 1, 2, 4, 6, 7, 8, 9, 11, 10])
    weighing = weigh_mixed(RULES["multi-krum"], bucketing(permutation, 2), gram(updates), 1)
    assert [finding.client for finding in weighing.left_out] == [3, 5]
    assert weighing.weights.sum() == pytest.approx(1)


def test_the_majority_that_is_one_point_is_the_geometric_median():
    updates = np.vstack([np.ones((5, D)), 1e3 * np.ones((4, D))])
    weighing = RULES["geometric-median"](gram(updates), 4)
    np.testing.assert_allclose(weighing.weights, [0.2] * 5 + [0] * 4)
    assert [finding.client for finding in weighing.left_out] == [5, 6, 7, 8]


@each_rule
@pytest.mark.parametrize("n", range(1, 12))
def test_up_to_the_breakdown_point_and_no_further(rule, n):
    g = gram(normal(n))
    assert rule(g, most(rule, n)).weights.shape == (n,)
    for f in (most(rule, n) + 1, -1):
        with pytest.raises(Refused):
            rule(g, f)


def test_breakdown_points():
    assert [RULES["krum"].largest_f(n) for n in (1, 4, 5, 6, 7, 1000)] == [0, 0, 1, 1, 2, 498]
    assert [RULES["geometric-median"].largest_f(n) for n in (1, 2, 3, 1000)] == [0, 0, 1, 499]
    assert RULES["mean"].largest_f(1000) == RULES["foolsgold"].largest_f(1000) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1.0])
def test_a_client_whose_norm_is_unfit_is_named(value):
    g = gram(normal())
    g[3, 3] = value
    with pytest.raises(Rejected, match="client 3"):
        RULES["krum"](g, 1)


def lopsided():
    g = gram(normal())
    g[0, 1] += 1
    return g


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((0, 0)),
        np.zeros((2, 3)),
        np.zeros(4),
        np.eye(4, dtype=np.float32),
        np.triu(gram(np.ones((4, 2)))),
        lopsided(),
        np.where(np.eye(4) == 1, 1.0, np.nan),
    ],
    ids=["empty", "oblong", "vector", "float32", "triangle", "lopsided", "not a number"],
)
def test_what_is_no_gram_matrix_is_rejected(matrix):
    with pytest.raises(Rejected):
        RULES["mean"](matrix, 0)


@pytest.mark.parametrize("permutation", [[0, 1, 1], [0, 1, 3], []])
def test_what_is_no_permutation_is_rejected(permutation):
    with pytest.raises(Rejected):
        bucketing(np.array(permutation, int), 1)


@pytest.mark.parametrize("size", [0, 4])
def test_a_size_that_cuts_no_buckets_is_refused(size):
    with pytest.raises(Refused):
        bucketing(np.arange(3), size)


def test_more_hostile_clients_than_mixing_bears_are_refused():
    with pytest.raises(Refused):
        nearest_neighbour_mixing(np.eye(4), 2)


def test_more_hostile_clients_than_buckets_bear_are_refused():
    with pytest.raises(Refused):
        weigh_mixed(RULES["multi-krum"], bucketing(np.arange(12), 3), gram(normal(12)), 1)


def test_a_client_of_the_geometric_median_is_far_beyond_twice_the_harmonic_mean_distance():
    updates = normal()
    updates[2] *= 4
    weighing = RULES["geometric-median"](gram(updates), 1)
    distances = np.linalg.norm(updates - weighing.weights @ updates, axis=1)
    limit = 2 / np.mean(1 / distances)
    assert (
        [finding.client for finding in weighing.findings] == np.flatnonzero(distances > limit).tolist() == [2]
    )
    assert weighing.findings[0].limit == pytest.approx(limit)


def test_rounding_makes_no_distance_negative():
    rng = np.random.default_rng(3)
    print("seed 3")
    updates = 1e4 + 1e-6 * rng.normal(size=(N, D))
    distances = squared_distances(gram(updates))
    half = np.diagonal(gram(updates)) / 2
    assert (half[:, None] + half - gram(updates) < 0).any(), "nothing was rounded below 0"
    assert (distances >= 0).all() and (np.diagonal(distances) == 0).all()


def test_an_even_number_of_clients_is_clipped_to_the_lower_median():
    lengths = np.array([1.0, 2, 3, 4])
    weighing = RULES["norm-clipped-mean"](np.diag(lengths**2), 1)
    np.testing.assert_allclose(weighing.weights * lengths, np.array([1, 2, 2, 2]) / 4)
    assert [finding.client for finding in weighing.findings] == [2, 3]


def test_buckets_whose_updates_cancel_have_no_negative_norm():
    for seed in range(20):
        half = normal(3, seed)
        updates = np.vstack([half, -half * (1 + 1e-9)])
        mixing = bucketing(np.array([0, 3, 1, 4, 2, 5]), 2)
        rounded = mixing.matrix @ gram(updates) @ mixing.matrix.T
        weights = weigh_mixed(RULES["geometric-median"], mixing, gram(updates), 1).weights
        assert weights.sum() == pytest.approx(1)
        if (np.diagonal(rounded) < 0).any():
            return
    pytest.fail("no seed rounds a squared norm below 0")
