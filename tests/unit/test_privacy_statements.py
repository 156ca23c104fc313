"""What people are told names everything that the guarantee rests on, and rounds against fedlora."""

import math
from dataclasses import replace

import pytest

from shared.core.privacy import AdaptiveClipping, Mechanism, Pure, Skellam, epsilon
from shared.core.privacy.statements import Terms, share_alone, statement

TERMS = Terms(
    a_round=Mechanism(0.1, 0.75, 8), clip_norm=1.5, epsilon_limit=8.0, delta=1e-5, rounds_planned=3,
    rounds_completed=2, secure_aggregation="none", spent={"a": 4.00012, "b": 3.0},
)  # fmt: skip


def test_the_formal_statement_names_unit_adversary_adjacency_accountant_and_assumptions():
    formal = statement(TERMS).formal
    for wanted in (
        "Unit: one record of one client", "adding or removing one record", "Adversary: the server",
        "PLD", "RDP", "the sample is secret", "owner declared", "disjoint", "C = 1.5", "q = 0.1", "0.75 C",
        "Secure aggregation: none, the aggregator opens each update",
    ):  # fmt: skip
        assert wanted in formal


def test_the_plan_in_the_formal_statement_is_recomputed():
    plan = epsilon([Mechanism(0.1, 0.75, 24)], 1e-5)
    [said] = [part for part in statement(TERMS).formal.split("the plan of 3 rounds: ")[1:]]
    assert plan <= float(said.split(")")[0]) < plan + 1e-3


def test_the_plain_statement_gives_the_largest_clients_epsilon_rounded_up():
    plain = statement(TERMS).plain
    assert "any client has spent is 4.001" in plain
    assert "a person with several records is protected less" in plain
    assert "sees each client's noisy update" in plain


def test_adaptive_clipping_is_stated_with_the_noise_of_each_of_its_two_releases():
    a_round = AdaptiveClipping(0.1, 0.75, 8, bits_noise_multiplier=7.5)
    formal = statement(replace(TERMS, a_round=a_round)).formal
    for wanted in (
        "noise of 0.7538 C; C = 1.5 at first", "with noise multiplier 7.5",
        "charged as one Gaussian query of noise multiplier 0.75",
    ):  # fmt: skip
        assert wanted in formal
    plan = epsilon([AdaptiveClipping(0.1, 0.75, 24, bits_noise_multiplier=7.5)], 1e-5)
    assert plan <= float(formal.split("the plan of 3 rounds: ")[1].split(")")[0]) < plan + 1e-3


def test_no_statement_calls_fixed_clipping_adaptive():
    assert "follows the noisy share" not in statement(TERMS).formal


DIVIDED = replace(
    TERMS, a_round=Skellam.of_any_dimension(0.1, 1.5, 1, 2000.0), secure_aggregation="secagg", shares=4
)


def test_divided_noise_is_stated_with_what_it_rests_on_and_what_is_left_without():
    said = statement(DIVIDED)
    alone = epsilon([Skellam.of_any_dimension(0.1, 0.75, 3, 2000.0)], 1e-5)
    assert share_alone(DIVIDED.plan, 4, 1e-5) == alone
    rounded = f"{-(-alone * 1000 // 1) / 1000:.3f}"
    for wanted in (
        "rests on secure aggregation", "at least 4 clients of each sum, not counting any that look",
        f"its own part alone, which keeps epsilon at {rounded}",
    ):  # fmt: skip
        assert wanted in said.plain
    assert "the guarantee does not rest on that" not in said.plain
    for wanted in (
        "Secure aggregation: secagg, on which this bound relies", "at least 4 honest survivors", rounded,
        "Skellam noise of 1.5 times what a record moves them by in L2 after rounding, at least 2000 steps",
        "1/4 of its variance", "RDP (the plan of 3 rounds", "every sum and adapter",
    ):  # fmt: skip
        assert wanted in said.formal
    assert "PLD (" not in said.formal


def test_a_share_that_protects_nothing_is_called_that():
    many = replace(DIVIDED, shares=400)
    assert "by its own part alone, which is no protection." in statement(many).plain


def test_divided_noise_is_never_stated_for_updates_that_are_opened():
    with pytest.raises(ValueError, match="protects a sum"):
        replace(DIVIDED, secure_aggregation="none")


def test_a_lower_epsilon_of_clients_is_stated_once_for_each_and_without_their_names():
    limits = {"alice": 2.0, "bob": 2.0, "carol": 0.5}
    formal = statement(replace(TERMS, own_limits=limits, personal=True)).formal
    assert "For 2 clients the limit is lower, and epsilon_k at most 2." in formal
    assert "For 1 client the limit is lower, and epsilon_k at most 0.5." in formal
    assert "sigma_k" in formal
    assert not any(name in formal for name in limits)
    assert "sigma_k" not in statement(replace(TERMS, personal=True)).formal
    assert "sigma_k" not in statement(replace(TERMS, own_limits=limits)).formal


def test_evaluations_are_stated_and_votes_with_what_they_cost():
    formal = statement(TERMS).formal
    assert "evaluations" not in formal
    measured = statement(replace(TERMS, evaluations=(Mechanism(1.0, 10.0, 7),))).formal
    assert "at most 7 evaluations" in measured
    assert "noise multiplier 10" in measured
    whole = epsilon([Mechanism(0.1, 0.75, 24), Mechanism(1.0, 10.0, 7)], 1e-5)
    assert f"the plan of 3 rounds: {math.ceil(whole * 1000) / 1000:.3f}" in measured
    voted = statement(replace(TERMS, evaluations=(Pure(1.0, 2.0, 1),))).formal
    assert "AboveThreshold" in voted
    assert "(0.5, 0)-differentially private" in voted
