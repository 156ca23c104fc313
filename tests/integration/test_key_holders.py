"""Dedicated key holders open the sums of a job that names them, and nothing of one that does not."""

import numpy as np
import pytest

from services.key_holder.settings import KeyHolderSettings
from shared.events import JobEnded, RoundCompleted
from tests.integration.worker_federation import adapter_of, job, known_mean, worker_federation

HOLDERS = ("kay-1", "kay-2", "kay-3", "kay-4")
NAMES = ("alice", "bob", "carol")


def naming(*holders):
    return job(aggregation={"key_holders": list(holders)}, rounds={"count": 2, "min_clients": 3})


async def test_dedicated_key_holders_open_every_round(tmp_path):
    async with worker_federation(tmp_path, NAMES, holders=HOLDERS) as (fed, workers):
        await fed.submit(naming(*HOLDERS))
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = await adapter_of(fed, ended)
    expected = known_mean(NAMES, 1, 300) + known_mean(NAMES, 2, 300)
    assert np.abs(final - expected).max() < 1e-4


async def test_one_lost_key_holder_of_four_is_done_without(tmp_path):
    async with worker_federation(tmp_path, NAMES, holders=HOLDERS) as (fed, workers):
        await workers.stop("kay-3")
        await fed.submit(naming(*HOLDERS))
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        rounds = fed.of(RoundCompleted)
    assert [sorted(each.contributors) for each in rounds] == [sorted(NAMES)] * 2


async def test_a_key_holder_that_was_restarted_still_answers(tmp_path):
    async with worker_federation(tmp_path, NAMES, holders=HOLDERS) as (fed, workers):
        await fed.submit(naming(*HOLDERS))
        await fed.until(RoundCompleted)
        await workers.stop("kay-1")
        await workers.stop("kay-2")
        await workers.start_holder("kay-1")
        await workers.start_holder("kay-2")
        (ended,) = await fed.until(JobEnded)
    assert ended.outcome == "completed", ended.reason


async def test_key_holders_that_want_larger_sums_do_not_answer(tmp_path, monkeypatch):
    fewest = KeyHolderSettings.model_fields["fewest"]
    monkeypatch.setattr(fewest, "default", 5)
    KeyHolderSettings.model_rebuild(force=True)
    try:
        async with worker_federation(tmp_path, NAMES, holders=HOLDERS) as (fed, workers):
            asked = job(
                aggregation={"key_holders": list(HOLDERS), "stage_s": 0.5},
                rounds={"count": 1, "min_clients": 3, "retries": 0},
            )
            await fed.submit(asked)
            (ended,) = await fed.until(JobEnded)
    finally:
        monkeypatch.undo()
        KeyHolderSettings.model_rebuild(force=True)
    assert ended.outcome == "failed"
    assert "key holders answered" in ended.reason


@pytest.mark.parametrize("missing", ["kay-9"])
async def test_a_key_holder_that_never_came_fails_the_round_with_its_name(tmp_path, missing):
    async with worker_federation(tmp_path, NAMES, holders=HOLDERS[:2]) as (fed, workers):
        asked = job(
            aggregation={"key_holders": [*HOLDERS[:2], missing]},
            rounds={"count": 1, "min_clients": 3, "retries": 0, "deadline_s": 2},
        )
        await fed.submit(asked)
        (ended,) = await fed.until(JobEnded, timeout_s=90)
    assert ended.outcome == "failed"
    assert missing in ended.reason
