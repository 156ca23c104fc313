"""What holds for every rule on the Gram matrix, whatever the updates."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.core.robust.gram import RULES, Root, bucketing, fltrust, nearest_neighbour_mixing, weigh_mixed
from shared.core.robust.gram.nearest_neighbour_mixing import kappa_after

ROBUST = [name for name, rule in RULES.items() if rule.kappa is not None and name != "mean"]
seeds = st.integers(0, 2**32 - 1)


def drawn(rng, n, d, f, attack):
    """Honest rows, then f hostile ones in their shadow."""
    honest = rng.normal(size=(n - f, d)) + rng.normal(size=d)
    mean, deviation = honest.mean(axis=0), honest.std(axis=0)
    hostile = {
        "like honest": rng.normal(size=(f, d)) + mean,
        "flipped": -5 * honest[rng.integers(0, n - f, f)],
        "colluding": np.tile(mean - rng.uniform(0.5, 4) * deviation, (f, 1)),
        "far": 10.0 ** rng.uniform(1, 5) * rng.normal(size=(f, d)),
        "copies": honest[np.zeros(f, int)],
    }[attack]
    return np.vstack([honest, hostile])


@st.composite
def cohorts(draw, distinct=False):
    """Updates (n, d) whose last f are hostile, f, and the generator that goes on."""
    n, d = draw(st.integers(5, 16)), draw(st.integers(2, 8))
    f = draw(st.integers(0, (n - 3) // 2))
    attacks = (
        ["like honest", "flipped", "far"]
        if distinct
        else ["like honest", "flipped", "colluding", "far", "copies"]
    )
    attack, seed = draw(st.sampled_from(attacks)), draw(seeds)
    print(f"seed {seed}, {attack}, n {n}, d {d}, f {f}")
    rng = np.random.default_rng(seed)
    return drawn(rng, n, d, f, attack), f, rng


def gram(updates):
    return updates @ updates.T


def weights(rule, updates, f):
    return rule(gram(updates), min(f, rule.largest_f(len(updates)))).weights


def aggregate(rule, updates, f):
    return weights(rule, updates, f) @ updates


each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
MOVING = [name for name, rule in RULES.items() if rule.sums_to_one and name != "foolsgold"]


@each_rule
@given(cohort=cohorts())
def test_weights_are_not_negative_and_sum_to_one_at_most(rule, cohort):
    updates, f, _ = cohort
    answer = weights(rule, updates, f)
    assert answer.shape == (len(updates),) and answer.dtype == np.float64
    assert (answer >= 0).all() and answer.sum() <= 1 + 1e-12
    if rule.sums_to_one:
        assert answer.sum() == pytest.approx(1)


@each_rule
@given(cohort=cohorts(distinct=True))
def test_permuted_clients_keep_their_weights(rule, cohort):
    updates, f, rng = cohort
    order = rng.permutation(len(updates))
    back = np.argsort(order)
    before, after = weights(rule, updates, f), weights(rule, updates[order], f)[back]
    # Of rows that differ by less than rounding, either may be taken.
    between = np.linalg.norm(updates[:, None] - updates[None], axis=2)
    alike = between <= 1e-6 * np.median(np.linalg.norm(updates, axis=1))
    np.testing.assert_allclose(alike @ after, alike @ before, atol=1e-7)


@pytest.mark.parametrize("name", MOVING)
@given(cohort=cohorts(distinct=True))
def test_moved_updates_move_the_aggregate(name, cohort):
    updates, f, rng = cohort
    move = rng.normal(size=updates.shape[1])
    moved = aggregate(RULES[name], updates + move, f)
    scale = np.median(np.linalg.norm(updates, axis=1))
    assert np.abs(moved - move - aggregate(RULES[name], updates, f)).max() <= 1e-5 * scale


@each_rule
@given(cohort=cohorts(), exponent=st.integers(-100, 100))
def test_weights_do_not_depend_on_the_unit(rule, cohort, exponent):
    """A power of two, which rounds nothing: the same bits."""
    updates, f, _ = cohort
    np.testing.assert_array_equal(weights(rule, updates * 2.0**exponent, f), weights(rule, updates, f))


def excess(update, rows, kappa):
    """How far the update is beyond what (f, kappa)-robustness allows for these honest rows; at most 0 is well."""
    mean = rows.mean(axis=0)
    spread = np.mean(np.sum((rows - mean) ** 2, axis=1))
    return np.sum((update - mean) ** 2) - kappa * spread


@pytest.mark.parametrize("name", ROBUST)
@given(cohort=cohorts())
def test_f_kappa_robustness(name, cohort):
    """Allouah et al. 2023, Definition 2: for every n - f of the rows, of which some are tried."""
    updates, f, rng = cohort
    rule, n = RULES[name], len(updates)
    update = aggregate(rule, updates, f)
    tried = [np.arange(n - f), *(rng.permutation(n)[: n - f] for _ in range(20))]
    # Rounding of squared norms keeps a median from an exact one by some 1e-8 of the longest update.
    slack = 1e-12 * np.max(np.sum(updates**2, axis=1))
    assert all(excess(update, updates[rows], rule.kappa(n, f)) <= slack for rows in tried)


@pytest.mark.parametrize("name", ROBUST)
@given(cohort=cohorts())
def test_mixing_improves_kappa_as_the_theorem_says(name, cohort):
    """Allouah et al. 2023: 8f / (n - f) (kappa + 1)."""
    updates, f, rng = cohort
    rule, n = RULES[name], len(updates)
    g = gram(updates)
    update = weigh_mixed(rule, nearest_neighbour_mixing(g, f), g, f).weights @ updates
    kappa = kappa_after(rule.kappa(n, f), n, f)
    slack = 1e-12 * np.max(np.sum(updates**2, axis=1))
    tried = [np.arange(n - f), *(rng.permutation(n)[: n - f] for _ in range(20))]
    assert all(excess(update, updates[rows], kappa) <= slack for rows in tried)


@given(cohort=cohorts(), size=st.integers(1, 4))
def test_weights_of_buckets_give_the_update_of_their_means(cohort, size):
    updates, _, rng = cohort
    mixing = bucketing(rng.permutation(len(updates)), size)
    rule, rows = RULES["multi-krum"], mixing.matrix @ updates
    f = rule.largest_f(len(rows))
    mixed = weigh_mixed(rule, mixing, gram(updates), f).weights
    assume(len(np.unique(np.round(rows, 6), axis=0)) == len(rows))
    np.testing.assert_allclose(mixed @ updates, aggregate(rule, rows, f), atol=1e-9 * np.abs(updates).max())


@given(cohort=cohorts(), scale=st.floats(1e-3, 1e3))
def test_fltrust_is_bounded_by_its_root_and_blind_to_length(cohort, scale):
    updates, _, rng = cohort
    root = rng.normal(size=updates.shape[1])
    length = np.linalg.norm(root)
    lengths = 10.0 ** rng.uniform(-3, 3, len(updates))[:, None]
    first, second = (
        fltrust(gram(rows), Root(rows @ root, float(length))).weights @ rows
        for rows in (updates, updates * lengths)
    )
    assert np.linalg.norm(first) <= length * (1 + 1e-9)
    np.testing.assert_allclose(first, second, atol=1e-9 * length)
    scaled = fltrust(gram(updates), Root(updates @ root * scale, float(length * scale))).weights @ updates
    np.testing.assert_allclose(scaled, first * scale, atol=1e-9 * length * scale)
