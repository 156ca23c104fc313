import numpy as np
import pytest

from fedlora.simulation.partition import divide
from fedlora.simulation.randomness import SeededRandom
from fedlora.simulation.trainer import Plan
from shared.core.noise import KeyStream
from shared.errors import Refused

LABELS = [number % 4 for number in range(400)]


def stream(seed=0):
    return KeyStream(SeededRandom(seed, "partition").bytes)


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.1", "dirichlet:100", "by:label"])
def test_every_record_has_one_client_and_every_client_a_record(partition):
    clients = 4 if partition.startswith("by") else 40
    parts = divide(partition, LABELS, clients, stream())
    assert sorted(np.concatenate(parts)) == list(range(400))
    assert len(parts) == clients and min(map(len, parts)) > 0


def test_shares_of_iid_are_even_and_those_of_a_small_alpha_are_not():
    assert {len(part) for part in divide("iid", LABELS, 40, stream())} == {10}

    def largest_share(alpha):
        parts = divide(f"dirichlet:{alpha}", LABELS, 4, stream())
        return np.mean([np.bincount([LABELS[row] for row in part]).max() / len(part) for part in parts])

    assert largest_share(0.05) > largest_share(1000) + 0.2


def test_by_keeps_a_value_with_one_client():
    for part in divide("by:label", LABELS, 3, stream()):
        for value in {LABELS[row] for row in part}:
            assert sum(LABELS[row] == value for row in part) == 100


def test_the_seed_decides():
    def drawn(seed):
        return [part.tolist() for part in divide("iid", LABELS, 7, stream(seed))]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("partition", "clients", "said"),
    [
        ("zipf", 2, "write iid"),
        ("dirichlet:0", 2, "write iid"),
        ("iid", 401, "400 records"),
        ("by:l", 5, "4 val"),
    ],
)
def test_what_cannot_be_divided_is_refused(partition, clients, said):
    with pytest.raises(Refused, match=said):
        divide(partition, LABELS, clients, stream())


def test_as_many_drop_out_as_asked_and_always_the_same():
    from pathlib import Path

    plan = Plan(Path(), {}, 5, 0.25)
    dropped = [plan.drops(f"client-{n}", "j-r1") for n in range(2000)]
    assert 400 < sum(dropped) < 600
    assert dropped == [plan.drops(f"client-{n}", "j-r1") for n in range(2000)]
