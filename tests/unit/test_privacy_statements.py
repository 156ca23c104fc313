"""What people are told names everything that the guarantee rests on, and rounds against fedlora."""

from shared.core.privacy import Mechanism, epsilon
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
