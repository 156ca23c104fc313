"""kill -9 at any event of an asynchronous job: every update that was buffered counts once, in one step."""

from collections import Counter

import numpy as np
import pytest

from services.client.trainer import TrainingResult
from services.coordinator.adapter import initial as global_adapter
from shared.core.lora import flatten, from_safetensors
from shared.events import RoundCompleted, UpdateAggregated
from tests.integration.scripted_federation import layout_of, update_of
from tests.simulation.federation import KillSchedule, ScriptedTrainer
from tests.simulation.test_kills import (
    DIMENSION,
    end_of,
    ledger,
    running_federation,
    specification,
)

pytestmark = [pytest.mark.slow]
STEPS, BUFFER, PRECISION = 4, 2, 1e-3


class AloneTrainer(ScriptedTrainer):
    """Trains to an update that its client and the number of its round make."""

    def train(self, task, progress, cancelled):
        update = update_of(self.client_id, number_of(task.round_id), self.dimension)
        return TrainingResult(update, task.mechanism.steps, 0.0, task.clip_norm)


def number_of(round_id):
    return int(round_id.rpartition("-a")[2])


def flat(content):
    return flatten(from_safetensors(content), ["w.lora_B.weight"]).astype(np.float64)


@pytest.mark.parametrize("seed", [1])
async def test_killing_any_service_at_any_event_counts_every_update_once(
    seed, tmp_path, amqp_url, postgres_url
):
    print(f"seed {seed}")
    rounds = {"asynchronous": True, "buffer": BUFFER, "min_clients": 2, "count": STEPS}
    job = specification("none", **rounds)
    job = job.model_copy(update={"server": type(job.server)()})
    async with running_federation(tmp_path, amqp_url, postgres_url, AloneTrainer) as (processes, tap, found):
        schedule = KillSchedule(processes, seed, kills=8, every=6)
        ended = await end_of(job, found, tap, schedule, processes)
        assert ended.outcome == "completed", (ended.reason, processes.killed)
        assert processes.killed
        steps = {one.number: one for one in tap.of(RoundCompleted)}
        came = {one.round_id: next(iter(one.weights)) for one in tap.of(UpdateAggregated)}
        after = flat(await found.blobs.get(ended.adapter))
        assert not await found.bus.dead_letters()
    assert set(steps) == set(range(1, STEPS + 1))
    updates = np.stack([update_of(client, number_of(name), DIMENSION) for name, client in came.items()])
    moved = after - flat(global_adapter.initial(job, layout_of(DIMENSION)))
    parts, *_ = np.linalg.lstsq(updates.T.astype(np.float64), moved, rcond=None)
    counted = parts[parts > PRECISION]
    np.testing.assert_allclose(updates.T @ parts, moved, atol=PRECISION)
    assert len(counted) == STEPS * BUFFER, parts
    assert counted.sum() == pytest.approx(STEPS, abs=PRECISION)
    lines = Counter((e["round"], e["outcome"]) for e in await ledger(postgres_url))
    assert set(lines.values()) == {1}
