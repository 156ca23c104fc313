"""Two replicas of secure aggregation share the sessions of a round out by hash, and each sums its own."""

import numpy as np
import pytest

from services.secure_aggregation.__main__ import build, queue_of_replica
from services.secure_aggregation.settings import SecureAggregationSettings
from services.secure_aggregation.state import Session
from shared.errors import Refused
from shared.events import JobEnded, SessionRequested, UpdateSubmitted
from shared.events.base import SHARDS, shard_of
from tests.integration.worker_federation import adapter_of, job, known_mean, worker_federation

NAMES = tuple(f"client{n}" for n in range(12))
REPLICAS = ("secure_aggregation", "secure_aggregation.1-of-2")


def settings_of(folder, replica, replicas=2):
    return SecureAggregationSettings(key_file=folder / "key", rebuild_s=0, replica=replica, replicas=replicas)


def test_each_session_is_one_replicas(tmp_path):
    bound = [set(queue_of_replica(settings_of(tmp_path, replica, 3)).bindings) for replica in range(3)]
    for shard in range(SHARDS):
        for kind in (SessionRequested, UpdateSubmitted):
            pattern = (kind.channel, kind.binding(shard=shard))
            assert sum(pattern in bindings for bindings in bound) == 1


def test_a_replica_beyond_the_last_is_refused(tmp_path):
    with pytest.raises(Refused, match="give 0 to 1"):
        queue_of_replica(settings_of(tmp_path, 2))


async def sessions_of(service):
    found = []

    async def look(unit):
        found.extend(await unit.select(Session))

    await service.transact(look)
    return {session.group_id: session.stage for session in found}


async def test_sessions_of_one_round_are_summed_by_two_replicas(tmp_path):
    services = {
        name: lambda infrastructure, index=index: build(infrastructure, settings_of(tmp_path, index))
        for index, name in enumerate(REPLICAS)
    }
    async with worker_federation(tmp_path, NAMES, services=services) as (fed, workers):
        workers.trainers["client3"].fails = True
        await fed.submit(
            job(
                aggregation={"group_size": 3, "smallest_group": 2},
                rounds={"count": 2, "min_clients": len(NAMES) - 1, "deadline_s": 60},
            )
        )
        (ended,) = await fed.until(JobEnded, timeout_s=120)
        assert ended.outcome == "completed", ended.reason
        final = await adapter_of(fed, ended)
        summed = [await sessions_of(fed.services[name]) for name in REPLICAS]
    groups = {f"job-r{number}-g{index}" for number in (1, 2) for index in range(1, 5)}
    assert summed[0].keys() | summed[1].keys() == groups
    for index, stages in enumerate(summed):
        assert set(stages.values()) == {"summed"}
        assert {shard_of(group) % 2 for group in stages} == {index}
    present = [name for name in NAMES if name != "client3"]
    expected = known_mean(present, 1, 300) + known_mean(present, 2, 300)
    assert np.abs(final - expected).max() < 1e-4
