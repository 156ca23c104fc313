"""Whole jobs over `secagg`: real services and real workers, any of which may fall silent or start anew."""

import numpy as np
import pytest

from shared.core.secagg.encoding import Encoding, predicted_error
from shared.events import JobEnded, RoundAborted, RoundCompleted
from shared.sessions.pairwise import ENDORSEMENT, KEYS, SEALED_SHARES, UNMASKING
from tests.integration.restartable_workers import DIMENSION, UPLOAD, at_work, mean_of, moved
from tests.integration.scripted_federation import specification

FIVE = ("alice", "bob", "carol", "dave", "erin")
SPOKEN = (KEYS, SEALED_SHARES, UPLOAD, ENDORSEMENT, UNMASKING)
BITS, BOUND = 16, 8.0


def summing(count=2, min_clients=5, stage_s=5.0, **rounds):
    return specification(
        aggregation={"secure": "secagg", "bits": BITS, "bound": BOUND, "stage_s": stage_s},
        rounds={"count": count, "min_clients": min_clients, **rounds},
    )


def error_of(clients):
    """Six standard deviations of a coordinate of the mean over one round."""
    return 6 * predicted_error(Encoding(dimension=DIMENSION, bits=BITS, bound=BOUND), clients) / clients


async def check(fed, ended, contributors):
    """The job's adapter is the sum of its rounds' means, within the error that is predicted."""
    assert ended.outcome == "completed", ended.reason
    assert not fed.of(RoundAborted)
    rounds = sorted(await fed.until(RoundCompleted, len(contributors)), key=lambda r: r.round_id)
    assert [completed.contributors for completed in rounds] == contributors
    expected = sum(mean_of(names, number) for number, names in enumerate(contributors, 1))
    allowed = sum(error_of(len(names)) for names in contributors)
    assert np.abs(await moved(fed, ended) - expected).max() < allowed


@pytest.mark.parametrize("count", [4, 5])
async def test_the_adapter_moves_by_the_mean_of_each_round(tmp_path, count):
    names = FIVE[:count]
    async with at_work(tmp_path, names) as (fed, workers):
        await fed.submit(summing(min_clients=count))
        (ended,) = await fed.until(JobEnded)
        await check(fed, ended, [names, names])
        assert len(workers.bus.said) == 2 * count * len(SPOKEN)


@pytest.mark.parametrize("stage", SPOKEN)
async def test_a_worker_that_falls_silent_in_a_stage_is_done_without(tmp_path, stage):
    async with at_work(tmp_path, FIVE, silent={stage: ["carol"]}) as (fed, _):
        await fed.submit(summing(1, min_clients=4, stage_s=0.8, deadline_s=4))
        (ended,) = await fed.until(JobEnded)
        others = tuple(name for name in FIVE if name != "carol")
        before = stage in (KEYS, SEALED_SHARES, UPLOAD)
        await check(fed, ended, [others if before else FIVE])
        (completed,) = fed.of(RoundCompleted)
        reasons = {left.client_id: left.reason for left in completed.left_out}
        assert reasons == ({"carol": f"nothing came in stage {stage} by its deadline"} if before else {})


@pytest.mark.parametrize("stage", SPOKEN)
async def test_the_service_is_restarted_in_each_stage(tmp_path, stage):
    async with at_work(tmp_path, FIVE) as (fed, workers):
        bus = workers.bus
        bus.delayed = ("alice", stage)
        await fed.submit(summing(1))
        await bus.until("bob", stage)
        await fed.restart("secure_aggregation")
        bus.go.set()
        (ended,) = await fed.until(JobEnded)
        await check(fed, ended, [FIVE])


@pytest.mark.parametrize("stage", SPOKEN[:-1])
async def test_a_worker_is_restarted_after_each_stage(tmp_path, stage):
    async with at_work(tmp_path, FIVE) as (fed, workers):
        bus = workers.bus
        bus.delayed = ("alice", stage)
        await fed.submit(summing(1))
        await bus.until("bob", stage)
        await workers.stop("bob")
        bus.go.set()
        await workers.start("bob")
        (ended,) = await fed.until(JobEnded)
        await check(fed, ended, [FIVE])
        assert workers.trainers["bob"].trained == [1]


@pytest.mark.parametrize("stage", SPOKEN)
async def test_too_few_workers_fail_the_job_with_the_reason(tmp_path, stage):
    async with at_work(tmp_path, FIVE, silent={stage: ["bob", "carol", "dave"]}) as (fed, _):
        await fed.submit(summing(1, min_clients=4, stage_s=0.8, deadline_s=4, retries=0))
        (ended,) = await fed.until(JobEnded)
        assert (ended.outcome, ended.rounds_completed) == ("failed", 0)
        (aborted,) = await fed.until(RoundAborted)
        assert f"{stage}: " in aborted.reason
        assert "nothing came from bob, carol, dave" in aborted.reason
        assert "bob" in ended.reason
