"""From a Gram matrix to a weight for each row."""

import numpy as np
import pytest

from shared.core.robust.gram import RULES, Finding, Rule, Weighing
from shared.core.robust.gram.rule import minority
from shared.core.robust.judging import Choice, Kind, Mix, Needs, Reason, judge, largest_f, rows_judged
from shared.errors import Refused, Rejected

SEED = 20261127


def gram_of(rows):
    rows = np.asarray(rows, np.float64)
    return rows @ rows.T


def cohort(count, hostile):
    """Rows, the last of which point the other way."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    rows = rng.normal(size=40) + 0.3 * rng.normal(size=(count, 40))
    rows[count - hostile :] *= -5
    return rows


def test_rows_of_zeros_are_named_and_the_rule_sees_the_others():
    rows = cohort(12, 3)
    with_zeros = np.insert(rows, [0, 5, 12], 0, axis=0)  # at 0, 6 and 14
    verdict = judge(gram_of(with_zeros), Choice("multi-krum", 3))
    weighing = RULES["multi-krum"](gram_of(rows), 3)
    kept = [row for row in range(15) if row not in (0, 6, 14)]
    assert np.array_equal(verdict.weights[kept], weighing.weights)
    assert not verdict.weights[[0, 6, 14]].any()
    assert [row for row, reason in verdict.reasons.items() if reason == Reason("zero", 0.0, 0.0)] == [
        0,
        6,
        14,
    ]
    assert {kept[finding.client] for finding in weighing.findings} == verdict.reasons.keys() - {0, 6, 14}
    assert list(verdict.reasons) == sorted(verdict.reasons)


def test_zeros_do_not_outvote_honest_rows():
    rows = np.vstack([cohort(12, 3), np.zeros((40, 40))])
    verdict = judge(gram_of(rows), Choice("geometric-median", 3))
    assert verdict.weights[:9].sum() > 0.8
    with pytest.raises(Refused, match="of 12"):
        judge(gram_of(rows), Choice("geometric-median", 6))


@pytest.mark.parametrize("rule", ["mean", "multi-krum", "cosine-clustering"])
def test_nothing_but_zeros_is_rejected(rule):
    with pytest.raises(Rejected, match="every update is zero"):
        judge(np.zeros((5, 5)), Choice(rule))


@pytest.mark.parametrize(
    "unfit", [np.zeros((2, 3)), np.eye(3, dtype=np.float32), np.diag([1.0, np.nan]), -np.eye(2)]
)
def test_what_is_no_gram_matrix_is_rejected(unfit):
    with pytest.raises(Rejected):
        judge(unfit, Choice("krum"))


def test_a_trusted_row_that_is_zero_or_missing_is_rejected():
    rows = cohort(6, 1)
    rows[2] = 0
    for root in (None, 2):
        with pytest.raises(Rejected, match="no update of root"):
            judge(gram_of(rows), Choice("fltrust", 1, root="root"), root=root)


def test_rows_that_point_away_from_the_trusted_one_have_no_weight():
    rows = cohort(7, 2)
    verdict = judge(gram_of(rows), Choice("fltrust", 2, root="root"), root=0)
    assert verdict.weights[0] == 0
    assert 0 not in verdict.reasons
    assert (verdict.weights[1:5] > 0).all()
    assert {row: reason.figure for row, reason in verdict.reasons.items()} == {5: "cosine", 6: "cosine"}


def test_a_rule_on_coordinates_is_refused_a_matrix():
    with pytest.raises(Refused, match="more than inner products"):
        judge(gram_of(cohort(5, 1)), Choice("median", 1))


@pytest.mark.parametrize(("rows", "bucket"), [(20, 2), (21, 2), (22, 3)])
def test_a_hostile_row_spoils_its_bucket_and_no_more(rows, bucket):
    updates = cohort(rows, 2)
    choice = Choice("multi-krum", 2, Mix.BUCKETS, bucket)
    for number in range(10):
        verdict = judge(gram_of(updates), choice, key=bytes([number]) * 32)
        assert not verdict.weights[rows - 2 :].any()
        assert verdict.weights.sum() == pytest.approx(1)
        assert np.count_nonzero(verdict.weights == 0) <= 2 * bucket


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"foolsgold"}))
@pytest.mark.parametrize("mix", list(Mix))
@pytest.mark.parametrize("rows", [5, 8, 16])
def test_a_choice_bears_what_it_says_and_no_more(rule, mix, rows):
    choice = Choice(rule, mix=mix, bucket=3)
    most = largest_f(choice, rows)
    updates = cohort(rows, 0)
    judge(gram_of(updates), Choice(rule, most, mix, 3), key=bytes(32))
    with pytest.raises(Refused):
        judge(gram_of(updates), Choice(rule, most + 1, mix, 3), key=bytes(32))


def test_the_trusted_row_is_not_judged():
    assert rows_judged(Choice("fltrust", root="root"), 9) == 8
    assert rows_judged(Choice("krum", mix=Mix.BUCKETS, bucket=4), 9) == 3


@pytest.mark.parametrize(
    "answer",
    [
        Weighing(np.full(11, 1 / 11)),
        Weighing(np.full(12, np.nan)),
        Weighing(-np.ones(12)),
        Weighing(np.ones(12), (Finding(12, "norm", 1.0, 0.5),)),
    ],
)
def test_an_answer_of_an_installed_rule_that_is_no_answer_is_rejected(monkeypatch, answer):
    rule = Rule(lambda gram, f: answer, minority, "nothing")
    monkeypatch.setattr(Choice, "kind", Kind(Needs.GRAM, minority, "nothing", rule))
    with pytest.raises(Rejected, match="strange"):
        judge(gram_of(cohort(12, 3)), Choice("strange", 3))


def test_after_mixing_a_client_is_told_in_how_many_mixtures_that_count_it_is():
    rows = cohort(12, 3)
    verdict = judge(gram_of(rows), Choice("multi-krum", 3, Mix.NEAREST_NEIGHBOUR))
    share = verdict.weights.sum() / 12
    assert verdict.reasons.keys() == {
        int(row) for row in np.flatnonzero(verdict.weights < share * (1 - 1e-9))
    }
    assert verdict.reasons.keys() >= {9, 10, 11}
    for row, reason in verdict.reasons.items():
        assert reason.figure == "neighbours"
        assert reason.value == pytest.approx(verdict.weights[row] * 9 * 9)  # of 9 mixtures of 9 each
        assert reason.value < reason.limit == pytest.approx(9 * 9 / 12)
