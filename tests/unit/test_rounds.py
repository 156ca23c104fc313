"""What the coordinator decides, whatever the order in which clients answer."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.coordinator.cohort.gathering import agreed, gathered, registered, with_declined, with_ready
from services.coordinator.context import Coordination
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.state import Client, Job, grouped
from services.robust_aggregator.state import aggregate
from shared.core.secagg import fixed_point
from shared.errors import Rejected
from shared.events import ClientJoined, ClientReady
from shared.events.values import Layout, TensorSpec
from shared.job.specification import JobSpecification, Lora

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SPECIFICATION = JobSpecification.model_validate(
    {
        "name": "job",
        "model": {"base": "minilm", "task": "causal-lm"},
        "data": {"text": "text"},
        "privacy": {"noise_multiplier": 5.0},
        "rounds": {"min_clients": 2, "gather_s": 30},
    }
)


def layout_of(dimension):
    return Layout(tensors=(TensorSpec(name="w.lora_B.weight", shape=(dimension,), trainable=True),))


def job_of(*announced):
    return Job(
        job_id="job", specification=SPECIFICATION, noise_multiplier=5, accepted_at=NOW, announced=announced
    )


def ready(client, dimension=4):
    return ClientReady(client_id=client, job_id="job", layout=layout_of(dimension), records=50)


ANSWERS = [ready("a"), ready("b"), ready("c"), ready("d", 5), ready("a"), ready("c")]


@settings(deadline=None)  # the first answer loads the accountant
@given(order=st.permutations(ANSWERS))
def test_the_layout_of_a_strict_majority_wins_in_any_order(order):
    job = job_of()
    for answer in order:
        job = with_ready(job, answer)
    job = agreed(job)
    assert job.layout == layout_of(4)
    assert job.candidates == ["a", "b", "c"]
    assert "layout" in job.left_out["d"]


def test_without_a_strict_majority_no_layout_is_fixed():
    job = with_ready(with_ready(job_of(), ready("a", 4)), ready("b", 5))
    assert agreed(job).layout is None


def test_a_latecomer_with_another_layout_is_left_out():
    job = agreed(with_ready(with_ready(job_of(), ready("a")), ready("b")))
    assert "layout" in with_ready(job, ready("late", 9)).left_out["late"]
    assert with_ready(job, ready("late")).candidates == ["a", "b", "late"]


def test_gathering_ends_when_all_have_answered_or_the_time_is_up():
    job = with_ready(with_ready(job_of("a", "b", "c"), ready("a")), ready("b"))
    assert not gathered(job, NOW)
    assert gathered(job, NOW + timedelta(seconds=30))
    assert gathered(with_declined(job, "c", "policy"), NOW)
    assert not gathered(with_declined(job, "b", "policy"), NOW + timedelta(seconds=60))


def test_a_changed_verify_key_is_rejected_and_a_repeated_one_is_not():
    joined = ClientJoined(client_id="a", verify_key=b"k" * 32)
    client = registered(None, joined, NOW)
    assert registered(client, joined, NOW).verify_key == b"k" * 32
    with pytest.raises(Rejected, match="another verify key"):
        registered(client, ClientJoined(client_id="a", verify_key=b"x" * 32), NOW)


class CountingRandom:
    """Distinct bytes, in a fixed order."""

    def __init__(self):
        self.count = 0

    def bytes(self, count):
        self.count += 1
        return (self.count * 2654435761 % 2**32).to_bytes(4, "big") + bytes(count - 4)


def context_of(random):
    return Coordination(None, None, random, None, CoordinatorSettings())


async def test_a_client_counts_as_present_for_a_while_after_joining():
    class Empty:
        async def get_many(self, keys):
            return {}

    context = Coordination(None, Empty(), None, None, CoordinatorSettings(presence_s=30))
    client = Client(client_id="a", verify_key=b"k" * 32, joined_at=NOW)
    assert await context.present([client], NOW + timedelta(seconds=29)) == {"a"}
    assert await context.present([client], NOW + timedelta(seconds=31)) == set()


updates = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


def total_of(rows):
    total = sum(fixed_point.encode(np.array(row, dtype=np.float32)).astype(np.int64) for row in rows)
    return fixed_point.decode(total)


@given(groups=st.lists(updates, min_size=1, max_size=3))
def test_the_aggregate_is_the_mean_over_all_groups_rounded_once(groups):
    totals = [total_of(rows) for rows in groups]
    count = sum(len(rows) for rows in groups)
    update = aggregate([total.tobytes() for total in totals], [len(rows) for rows in groups])
    assert (update == (sum(totals) / count).astype(np.float32)).all()


def test_weights_count_by_what_they_are():
    totals = [np.array([3.0, -3.0]).tobytes(), np.array([1.0, 1.0]).tobytes()]
    update = aggregate(totals, [1.5, 0.5])
    assert update.tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    ("totals", "weights"),
    [
        ([], []),
        ([bytes(24)], [0.0]),
        ([bytes(24), bytes(24)], [1.0, 0.0]),
        ([bytes(24), bytes(16)], [1.0, 1.0]),
        ([np.array([np.inf]).tobytes()], [1.0]),
    ],
)
def test_sums_of_nothing_of_other_lengths_or_not_finite_are_rejected(totals, weights):
    with pytest.raises(Rejected):
        aggregate(totals, weights)


@given(
    names=st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=30, unique=True),
    size=st.none() | st.integers(2, 10),
)
def test_groups_are_disjoint_whole_and_of_the_size_or_little_more(names, size):
    groups = grouped("job-r1", names, size)
    assert sorted(name for group in groups.values() for name in group) == sorted(names)
    assert list(groups) == [f"job-r1-g{n}" for n in range(1, len(groups) + 1)]
    sizes = [len(group) for group in groups.values()]
    assert max(sizes) - min(sizes) <= 1
    if size is None or len(names) < size:
        assert len(groups) == 1
    else:
        assert size <= min(sizes) < 2 * size


def test_a_client_of_a_smaller_rank_takes_part_where_ranks_may_differ():
    smaller = ready("a").model_copy(update={"rank": 2})
    job = with_ready(job_of("a"), smaller)
    assert job.ranks == {}
    assert "one rank for all" in job.left_out["a"]
    mixed = SPECIFICATION.model_copy(update={"lora": Lora(mixed_ranks=True)})
    job = with_ready(job_of("a").replace(specification=mixed), smaller)
    assert (job.ranks, job.left_out) == ({"a": 2}, {})
    assert with_ready(job, ready("a")).ranks == {}


def test_steps_that_adapt_add_up_to_those_planned_and_are_evaluated_as_often():
    body = SPECIFICATION.model_dump(mode="json")
    body |= {
        "training": {"local_steps": 8, "adaptive_steps": True},
        "rounds": {"count": 6, "min_clients": 2},
        "evaluation": {"every": 2},
    }
    job = job_of().replace(specification=JobSpecification.model_validate(body), first_pace=1.0, pace=0.1)
    taken, evaluations = [], 0
    while not job.finished or job.purpose == "evaluate":
        if job.purpose == "evaluate":
            evaluations, job = evaluations + 1, job.replace(evaluated=job.progress)
            continue
        taken.append(job.next_steps)
        assert job.mechanism.steps == taken[-1]
        job = job.replace(steps=job.steps + taken[-1], completed=job.completed + 1)
    assert taken[:-1] == [3] * (len(taken) - 1)
    assert sum(taken) == 48
    assert evaluations == 3
    assert job.replace(pace=9.0, steps=0).next_steps == 8
