"""kill -9 of the coordinator, and a worker that dies, while an evaluation is under way."""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from shared.adapters.infrastructure import Endpoints
from shared.events import JobEnded, RoundAborted, RoundCompleted, RoundStarted
from shared.job.specification import JobSpecification
from tests.simulation.federation import ScriptedTrainer, worker
from tests.simulation.test_kills import (
    CLIENTS,
    DIMENSION,
    OPENED,
    committed,
    ledger,
    running_federation,
    specification,
    submit,
)

pytestmark = [pytest.mark.slow]
HELD_OUT, RIGHT, LOSS, ROUNDS = 20_000, 0.75, 3.0, 2


@dataclass
class Measuring(ScriptedTrainer):
    """Measures known figures; `held` keeps whoever it names in an evaluation until `go`."""

    held, go = frozenset(), threading.Event()

    def evaluate(self, task, progress, cancelled):
        while self.client_id in self.held and not self.go.wait(0.01):
            if cancelled():
                raise RuntimeError("the worker is gone")
        return np.tile([RIGHT, LOSS], (HELD_OUT, 1))


def evaluated():
    body = specification("oneshot", count=ROUNDS).model_dump(mode="json")
    evaluation = {"every": 1, "records": 25_000, "noise_multiplier": 4.0}
    return JobSpecification.model_validate({**body, "evaluation": evaluation})


async def test_who_is_killed_in_an_evaluation_neither_loses_nor_repeats_it(tmp_path, amqp_url, postgres_url):
    Measuring.held, Measuring.go = frozenset({"dave"}), threading.Event()
    federation = running_federation(tmp_path, amqp_url, postgres_url, Measuring)
    async with federation as (processes, tap, infrastructure):
        await submit(infrastructure, evaluated())

        def evaluating():
            return {one.client_id for one in tap.of(RoundStarted) if one.kind == "evaluate"}

        await tap.until(lambda: evaluating() == set(CLIENTS), 120)
        await processes.kill("coordinator")
        (dave,) = (task for task in asyncio.all_tasks() if task.get_name() == "worker dave")
        dave.cancel()
        await asyncio.gather(dave, return_exceptions=True)
        Measuring.go.set()
        endpoints = Endpoints(
            home=tmp_path, bus=amqp_url, database=postgres_url, blobs=str(tmp_path / "blobs")
        )
        again = Measuring("dave", DIMENSION)
        async with worker("dave", endpoints, tmp_path, again, OPENED):
            ended = await tap.first(JobEnded, 180)
            await tap.until(lambda: len(committed(tap)) == 2 * ROUNDS * len(CLIENTS), 90)
        rounds = {one.number: one for one in tap.of(RoundCompleted)}
        assert (ended.outcome, ended.rounds_completed) == ("completed", ROUNDS), ended.reason
        assert not tap.of(RoundAborted)
        assert not await infrastructure.bus.dead_letters()
    assert [rounds[number].kind for number in sorted(rounds)] == ["train", "evaluate"] * ROUNDS
    for number in (2, 4):
        assert rounds[number].contributors == CLIENTS
        found = rounds[number].metrics
        assert found["count"] == pytest.approx(len(CLIENTS) * HELD_OUT, abs=6 * found["count_error"])
        assert found["loss"] == pytest.approx(LOSS, abs=6 * found["loss_error"])
    counted = Counter((e["client"], e["round"], e["outcome"]) for e in await ledger(postgres_url))
    assert counted == {
        (client, f"job-1-r{number}", outcome): 1
        for client in CLIENTS
        for number in range(1, 2 * ROUNDS + 1)
        for outcome in ("reserved", "committed")
    }
