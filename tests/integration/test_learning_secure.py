"""Random-k, and factors in turns, of real workers whose updates nobody sees but as a secure sum."""

import numpy as np

from services.client.trainer import Prepared, TrainingResult
from services.coordinator.adapter.initial import initial
from shared.core.lora import flatten, from_safetensors
from shared.events import JobEnded, RoundCompleted
from shared.events.values import Layout, TensorSpec
from shared.sessions.contents import Contents
from tests.integration.scripted_federation import layout_of
from tests.integration.worker_federation import (
    KnownTrainer,
    adapter_of,
    job,
    known_mean,
    known_update,
    worker_federation,
)

THREE = ("alpha", "beta", "gamma")
DIMENSION = 400
CLOSE = 2e-4  # of updates whose coordinates deviate by 0.01; the encoding's step is far below
A, B = "m.q_proj.lora_A.weight", "m.q_proj.lora_B.weight"
FACTORS = Layout(
    tensors=(
        TensorSpec(name=A, shape=(8, 30), trainable=True),
        TensorSpec(name=B, shape=(20, 8), trainable=True),
    )
)


class InTurns(KnownTrainer):
    """Trains the factors of the round to a known update."""

    def prepare(self, job_id, specification, data, progress, start=b""):
        return Prepared(FACTORS, 50, ())

    def train(self, task, progress, cancelled):
        number = int(task.round_id.rsplit("-r", 1)[1])
        update = known_update(self.client_id, number, task.contents.dimension)
        return TrainingResult(update, task.mechanism.steps, 0.0, 1.0)


async def test_a_secure_sum_of_random_coordinates_is_the_mean_of_those_coordinates(tmp_path):
    asked = job(compression={"kind": "random-k", "keep": 0.25}, rounds={"count": 1, "min_clients": 3})
    async with worker_federation(tmp_path, THREE, dimension=DIMENSION) as (fed, _):
        await fed.submit(asked)
        (completed,) = await fed.until(RoundCompleted)
        (ended,) = await fed.until(JobEnded)
        moved = await adapter_of(fed, completed)
    assert ended.outcome == "completed", ended.reason
    contents = Contents.of(asked, layout_of(DIMENSION), 0, completed.round_id)
    mean = known_mean(THREE, 1, DIMENSION).astype(np.float32)
    expected = 4 * contents.compressed(mean)
    np.testing.assert_allclose(contents.compressed(moved), expected, atol=4 * CLOSE)
    assert np.count_nonzero(moved) <= 100 < np.count_nonzero(mean)
    assert np.abs(expected).max() > 10 * CLOSE


async def test_factors_are_summed_securely_in_turns(tmp_path):
    asked = job(lora={"method": "rolora", "rank": 8}, rounds={"count": 2, "min_clients": 3})
    async with worker_federation(tmp_path, ()) as (fed, workers):
        for name in THREE:
            workers.trainers[name] = InTurns(name, DIMENSION)
            await workers.start(name)
        fed.clients = dict.fromkeys(THREE)
        await fed.registered()
        await fed.submit(asked)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        rounds = sorted(fed.of(RoundCompleted), key=lambda one: one.number)
        stands = [from_safetensors(await fed.blobs.get(one.adapter)) for one in rounds]
    before = from_safetensors(initial(asked, FACTORS))
    for number, (trained, other, size) in enumerate(((B, A, 160), (A, B, 240)), start=1):
        after = stands[number - 1]
        assert (after[other] == before[other]).all()
        change = flatten(after, [trained]) - flatten(before, [trained])
        np.testing.assert_allclose(change, known_mean(THREE, number, size), atol=CLOSE)
        before = after
