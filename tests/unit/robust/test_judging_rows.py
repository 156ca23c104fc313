"""Rows judged as they arrive: the rule on the whole matrix says the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.robust.gram import RULES, Root, fltrust, nearest_neighbour_mixing, weigh_mixed
from shared.core.robust.judging import Choice, Mix, Needs, kind_of, rows
from shared.core.robust.judging.rows import OrderStatistics, Precision, rows_for
from shared.core.robust.streaming import quantised
from shared.errors import Refused, Rejected

KEY, FINE = bytes(range(32)), Precision(16, 1.0)


def small_integers(count, dimension, seed):
    """Rows whose inner products float32 holds exactly; none is zero."""
    print("seed", seed)
    drawn = np.random.default_rng(seed).integers(-8, 9, (count, dimension)).astype(np.float32)
    drawn[:, 0] = 9
    return drawn


def taken(choice, updates, precision=FINE, key=KEY, most=None):
    kept = rows_for(choice, updates.shape[1], most or len(updates), precision, key)
    for index, update in enumerate(updates):
        kept.add(f"c{index}", update)
    return kept


def in_order(weights, count):
    return np.array([weights[f"c{index}"] for index in range(count)])


@settings(deadline=None, max_examples=60)
@given(
    rule=st.sampled_from(sorted(RULES)),
    count=st.integers(3, 70),
    dimension=st.integers(2, 40),
    part=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_of_exact_products_the_weights_are_those_of_the_rule_on_the_whole_matrix(
    rule, count, dimension, part, seed
):
    updates = small_integers(count, dimension, seed)
    hostile = int(part * RULES[rule].largest_f(count))
    judged = taken(Choice(rule), updates).finish(hostile)
    wide = updates.astype(np.float64)
    weighing = RULES[rule](wide @ wide.T, hostile)
    weights = in_order(judged.weights, count)
    assert np.array_equal(weights, weighing.weights)
    assert np.abs(judged.update - weights @ wide).max() <= 1e-5 * np.abs(wide).max() * max(1, weights.sum())
    assert judged.reasons.keys() == {f"c{finding.client}" for finding in weighing.findings}
    for finding in weighing.findings:
        reason = judged.reasons[f"c{finding.client}"]
        assert (reason.figure, reason.value, reason.limit) == (finding.figure, finding.value, finding.limit)


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([8, 16]),
    count=st.integers(1, 70),
    part=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_order_statistics_are_numpys_on_clipped_small_integers(bits, count, part, seed):
    print("seed", seed)
    bound, kind = 0.5, np.int8 if bits == 8 else np.int16
    updates = np.random.default_rng(seed).normal(0, 0.3, (count, 11)).astype(np.float32)
    hostile = int(part * ((count - 1) // 2))
    integers = np.sort([quantised.quantise(update, bound, kind) for update in updates], axis=0)
    steps = {
        "median": np.median(integers, axis=0),
        "trimmed-mean": integers[hostile : count - hostile].mean(axis=0, dtype=np.float64),
    }
    for rule, expected in steps.items():
        judged = taken(Choice(rule), updates, Precision(bits, bound)).finish(hostile)
        assert np.abs(judged.update - expected * quantised.step(bound, kind)).max() <= 1e-12
        assert judged.weights == {f"c{index}": 1 / count for index in range(count)}
        assert not judged.reasons


def test_up_to_eight_bits_take_a_byte_and_more_take_two():
    assert isinstance(kept := taken(Choice("median"), small_integers(1, 2, 1)), OrderStatistics)
    with pytest.raises(Rejected):  # room for one
        kept.add("another", np.ones(2, np.float32))
    few = taken(Choice("median"), np.ones((3, 2), np.float32), Precision(7, 127.0))
    assert few.finish(0).update.tolist() == [1, 1]
    coarse = np.full((3, 2), 0.3, np.float32)
    assert taken(Choice("median"), coarse, Precision(8, 127.0)).finish(0).update.tolist() == [0, 0]
    fine = taken(Choice("median"), coarse, Precision(9, 127.0)).finish(0).update
    assert fine == pytest.approx([0.3, 0.3], abs=127 / 32767)


@pytest.mark.parametrize("rule", ["multi-krum", "trimmed-mean"])
def test_a_result_may_be_asked_for_again_and_after_more_rows(rule):
    updates = small_integers(40, 9, 7)
    kept = taken(Choice(rule), updates[:33], most=40)
    first = kept.finish(5)
    assert np.array_equal(kept.finish(5).update, first.update)
    for index in range(33, 40):
        kept.add(f"c{index}", updates[index])
    again, at_once = kept.finish(5), taken(Choice(rule), updates).finish(5)
    assert np.array_equal(again.update, at_once.update)
    assert again.weights == at_once.weights


@pytest.mark.parametrize("rule", ["krum", "multi-krum", "geometric-median", "cosine-clustering"])
def test_of_sketches_outliers_are_still_found_and_the_sum_is_of_whole_rows(monkeypatch, rule):
    seed = 20261126
    print("seed", seed)
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=5000) + 0.5 * rng.normal(size=(50, 5000))
    updates[40:] *= -5
    updates = updates.astype(np.float32)
    exact = taken(Choice(rule), updates)
    monkeypatch.setattr(rows, "EXACT_UP_TO", 0)
    sketched = taken(Choice(rule), updates)
    judged, expected = sketched.finish(10), exact.finish(10)
    weights = in_order(judged.weights, 50)
    assert not np.array_equal(weights, in_order(expected.weights, 50)) or rule in (
        "multi-krum",
        "cosine-clustering",
    )
    assert weights[40:].sum() <= (0 if rule != "geometric-median" else 0.1)
    assert judged.update == pytest.approx(weights @ updates, abs=1e-4)
    another = taken(Choice(rule), updates, key=bytes(32)).finish(10)
    assert another.reasons != judged.reasons  # who does not know the key does not know the sketch


def test_a_row_of_zeros_has_no_weight_and_is_not_shown_to_the_rule():
    updates = small_integers(8, 5, 3)
    updates[2] = 0
    judged = taken(Choice("multi-krum"), updates).finish(2)
    rest = taken(Choice("multi-krum"), np.delete(updates, 2, axis=0)).finish(2)
    assert judged.weights["c2"] == 0
    assert judged.reasons["c2"].figure == "zero"
    assert np.array_equal(judged.update, rest.update)


def test_the_trusted_row_measures_the_others_and_has_no_weight():
    updates = small_integers(7, 6, 4)
    choice = Choice("fltrust", root="c3")
    judged = taken(choice, updates).finish(5)
    others = np.delete(updates, 3, axis=0).astype(np.float64)
    root = updates[3].astype(np.float64)
    weighing = fltrust(others @ others.T, Root(others @ root, float(np.linalg.norm(root))))
    assert "c3" not in judged.weights
    assert list(judged.weights.values()) == pytest.approx(weighing.weights, abs=1e-12)
    with pytest.raises(Rejected, match="no update of c9"):
        taken(Choice("fltrust", root="c9"), updates).finish(1)


def test_rows_are_mixed_before_the_rule():
    updates = small_integers(9, 6, 5)
    wide = updates.astype(np.float64)
    gram = wide @ wide.T
    judged = taken(Choice("krum", mix=Mix.NEAREST_NEIGHBOUR), updates).finish(2)
    weighing = weigh_mixed(RULES["krum"], nearest_neighbour_mixing(gram, 2), gram, 2)
    assert np.array_equal(in_order(judged.weights, 9), weighing.weights)


def test_buckets_follow_from_the_key_and_weigh_as_one():
    updates = small_integers(9, 6, 6)
    choice = Choice("krum", mix=Mix.BUCKETS, bucket=3)
    found = {
        tuple(
            sorted(
                name for name, weight in taken(choice, updates, key=key).finish(0).weights.items() if weight
            )
        )
        for key in (bytes([number]) * 32 for number in range(20))
    }
    assert {len(bucket) for bucket in found} == {3}
    assert len(found) > 5
    first, again = (taken(choice, updates).finish(0) for _ in range(2))
    assert first.weights == again.weights
    assert set(first.weights.values()) == {0, 1 / 3}


@pytest.mark.parametrize("rule", sorted({*RULES, "median", "trimmed-mean"} - {"foolsgold"}))
def test_more_hostile_rows_than_the_rule_bears_are_refused_and_none_at_all_is_no_result(rule):
    updates = small_integers(9, 4, 8)
    most = kind_of(rule).largest_f(9)
    taken(Choice(rule), updates).finish(most)
    with pytest.raises(Refused, match=f"bears {most} hostile of 9, not {most + 1}"):
        taken(Choice(rule), updates).finish(most + 1)
    with pytest.raises((Rejected, Refused)):
        taken(Choice(rule), updates[:0], most=3).finish(0)


@pytest.mark.parametrize("rule", ["multi-krum", "median"])
@pytest.mark.parametrize("unfit", [np.ones(3, np.float32), np.ones((1, 4), np.float32), np.ones(4)])
def test_what_is_no_row_is_rejected_and_nothing_is_changed(rule, unfit):
    updates = small_integers(5, 4, 9)
    kept = taken(Choice(rule), updates, most=6)
    before = kept.finish(1)
    with pytest.raises(Rejected):
        kept.add("unfit", unfit)
    assert kept.names == [f"c{index}" for index in range(5)]
    assert np.array_equal(kept.finish(1).update, before.update)


def test_every_rule_in_the_table_has_rows():
    for name in ("mean", *RULES, "median", "trimmed-mean"):
        kind = kind_of(name)
        rows_of = taken(Choice(name), small_integers(5, 4, 10))
        assert isinstance(rows_of, OrderStatistics) is (kind.needs is Needs.COORDINATES)


def test_a_row_that_is_left_out_leaves_no_trace_however_large_it_is():
    seed = 20261130
    print("seed", seed)
    updates = 1e-3 * np.random.default_rng(seed).normal(size=(20, 400)).astype(np.float32)
    updates[3:9] = 127
    judged = taken(Choice("multi-krum"), updates).finish(6)
    honest = np.delete(updates, range(3, 9), axis=0).astype(np.float64)
    assert [name for name, weight in judged.weights.items() if weight == 0] == [f"c{i}" for i in range(3, 9)]
    assert judged.update == pytest.approx(honest.mean(axis=0), abs=1e-9)
