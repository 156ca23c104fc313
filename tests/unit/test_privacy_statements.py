"""What people are told names everything that the guarantee rests on, and rounds against fedlora."""

from dataclasses import replace

from shared.core.privacy import AdaptiveClipping, Mechanism, epsilon
from shared.core.privacy.statements import Terms, statement

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
