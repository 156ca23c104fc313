"""Evaluations of real workers under every protocol: known figures come out with the planned noise."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from services.client.trainer import TrainingResult
from shared.core.chain import GENESIS_SHA256, export, read
from shared.core.privacy import composed
from shared.core.privacy.ledger import verify
from shared.events import JobEnded, LedgerExtended, RoundAborted, RoundCompleted, RoundOpened
from shared.job.evaluation import beside_training
from shared.job.plan import mechanism_of
from shared.job.refusals import refusals
from tests.integration.three_parties import three_parties
from tests.integration.worker_federation import LOSS, RIGHT, KnownTrainer, job, worker_federation

FIVE = ("alice", "bob", "carol", "dave", "erin")
HELD_OUT = 20_000  # so many that noise is small beside them
OPENED = (
    'allowed_secure_protocols = ["none", "oneshot", "secagg", "mpc3"]'  # what owners must write for `none`
)
DIVIDED = {
    "aggregation": {"weight_cap": 100},
    "training": {"optimizer": "sgd", "local_steps": 1, "learning_rate": 0.1},
    "privacy": {"noise": "divided"},
}


@dataclass
class Undisturbed(KnownTrainer):
    """Adds no noise of its own to an update."""

    def train(self, task, progress, cancelled):
        result = super().train(task, progress, cancelled)
        return TrainingResult(result.update * np.float32(0.01), result.steps, 0.0, 1.0, noised=False)


def evaluated(secure, **changes):
    aggregation = {"stage_s": 5.0, **changes.pop("aggregation", {})}
    evaluation = {"every": 1, "records": 25_000, "noise_multiplier": 4.0, **changes.pop("evaluation", {})}
    rounds = {"count": 2, "min_clients": 4, **changes.pop("rounds", {})}
    plain = job(secure, aggregation=aggregation, rounds=rounds, **changes)
    specification = type(plain).model_validate({**plain.model_dump(mode="json"), "evaluation": evaluation})
    assert refusals(specification) == ()
    return specification


@asynccontextmanager
async def opened(secure, folder, trainer=KnownTrainer):
    federate = three_parties if secure == "mpc3" else worker_federation
    async with federate(folder, (), policy=OPENED) as (fed, workers, *_):
        for name in FIVE:
            workers.trainers[name] = trainer(name, 300, held_out=HELD_OUT)
            await workers.start(name)
        fed.clients = dict.fromkeys(FIVE)
        await fed.registered()
        yield fed, workers


async def exported(fed):
    """The accountant's ledger, as `fedlora ledger export` writes it."""
    async with fed.services["accountant"].infrastructure.units.begin() as unit:
        entries = await unit.read("ledger")
    lines = [
        {
            "sequence": one.sequence,
            "previous_sha256": one.previous_sha256,
            "entry_sha256": one.entry_sha256,
            "body": json.loads(one.body),
        }
        for one in entries
    ]
    return "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in lines).encode()


def check(completed, clients=5):
    """Figures are true ones within six of the errors that they come with."""
    found = completed.metrics
    true = {"count": clients * HELD_OUT, "accuracy": RIGHT, "loss": LOSS, "perplexity": np.exp(LOSS)}
    for name, value in true.items():
        error = found[f"{name}_error"]
        assert 0 < error < 0.02 * value
        assert found[name] != value
        assert found[name] == pytest.approx(value, abs=6 * error), name


@pytest.mark.parametrize(
    ("secure", "noise"),
    [
        ("none", "local"),
        ("oneshot", "local"),
        ("secagg", "local"),
        ("mpc3", "local"),
        ("oneshot", "divided"),
        ("secagg", "divided"),
        ("mpc3", "divided"),
    ],
)
async def test_known_figures_come_out_with_noise_and_the_cost_is_in_the_ledger(tmp_path, secure, noise):
    specification = evaluated(secure, **(DIVIDED if noise == "divided" else {}))
    trainer = Undisturbed if noise == "divided" else KnownTrainer
    async with opened(secure, tmp_path, trainer) as (fed, workers):
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded)
        assert (ended.outcome, ended.rounds_completed) == ("completed", 2), ended.reason
        rounds = sorted(await fed.until(RoundCompleted, 4), key=lambda event: event.number)
        await fed.until(LedgerExtended, 4 * len(FIVE))
        verdict = verify(await exported(fed))
    assert not fed.of(RoundAborted)
    assert [one.kind for one in rounds] == ["train", "evaluate"] * 2
    for one in rounds[1::2]:
        assert one.contributors == FIVE
        check(one)
    assert [one.trained for one in workers.trainers.values()] == [[1, 3]] * 5
    assert [one.evaluated for one in workers.trainers.values()] == [[2, 4]] * 5
    assert not verdict.faults
    assert {one.client_id for one in verdict.spending} == set(FIVE)
    steps = 2 * specification.training.local_steps
    training = mechanism_of(specification, specification.privacy.noise_multiplier, steps)
    spent = composed([training, *beside_training(specification)])
    assert {one.mechanisms for one in verdict.spending} == {spent}


async def test_a_ledger_that_charges_less_for_an_evaluation_is_found_out(tmp_path):
    async with opened("oneshot", tmp_path) as (fed, _):
        await fed.submit(evaluated("oneshot", rounds={"count": 1}))
        await fed.until(JobEnded)
        await fed.until(LedgerExtended, 2 * len(FIVE))
        content = await exported(fed)
    assert not verify(content).faults
    cheaper = content.replace(b'"noise_multiplier":4.0', b'"noise_multiplier":8.0')
    assert cheaper != content
    lines, _ = read(cheaper)
    rewritten, previous = [], GENESIS_SHA256
    for line in lines:  # with hashes that fit, so that only the figures tell
        moved = replace(line, previous_sha256=previous)
        previous = moved.digest()
        rewritten.append(replace(moved, entry_sha256=previous))
    faults = verify(export(rewritten)).faults
    assert faults
    assert "epsilon" in faults[0].reason


async def test_a_worker_that_stops_in_an_evaluation_measures_it_again_and_counts_once(tmp_path):
    async with opened("oneshot", tmp_path) as (fed, workers):
        carol = workers.trainers["carol"]
        carol.measuring, reached = threading.Event(), asyncio.Event()
        loop, wait = asyncio.get_running_loop(), carol.measuring.wait
        carol.measuring.wait = lambda timeout: (loop.call_soon_threadsafe(reached.set), wait(timeout))[1]
        await fed.submit(evaluated("oneshot", rounds={"count": 1}))
        async with asyncio.timeout(30):
            await reached.wait()
        await workers.stop("carol")
        assert carol.evaluated == []
        carol.measuring.set()
        await workers.start("carol")
        (ended,) = await fed.until(JobEnded)
        completed = await fed.until(RoundCompleted, 2)
        await fed.until(LedgerExtended, 2 * len(FIVE))
        verdict = verify(await exported(fed))
    assert ended.outcome == "completed", ended.reason
    assert completed[1].contributors == FIVE
    check(completed[1])
    assert carol.evaluated == [2]
    assert len({one.mechanisms for one in verdict.spending}) == 1


async def test_a_worker_that_never_measures_is_left_out_and_the_job_goes_on(tmp_path):
    async with opened("oneshot", tmp_path) as (fed, workers):
        workers.trainers["carol"].measuring = threading.Event()
        await fed.submit(
            evaluated("oneshot", rounds={"count": 1, "deadline_s": 4}, aggregation={"stage_s": 0.8})
        )
        (ended,) = await fed.until(JobEnded)
        completed = await fed.until(RoundCompleted, 2)
    assert ended.outcome == "completed", ended.reason
    assert completed[1].contributors == tuple(name for name in FIVE if name != "carol")
    assert [one.client_id for one in completed[1].left_out] == ["carol"]
    check(completed[1], clients=4)


async def test_a_coordinator_that_starts_anew_in_an_evaluation_publishes_it_once(tmp_path):
    gate = threading.Event()
    async with opened("oneshot", tmp_path) as (fed, workers):
        for trainer in workers.trainers.values():
            trainer.measuring = gate
        await fed.submit(evaluated("oneshot"))
        await fed.until(RoundOpened, 2)
        await fed.restart("coordinator")
        gate.set()
        (ended,) = await fed.until(JobEnded)
        completed = await fed.until(RoundCompleted, 4)
    assert ended.outcome == "completed", ended.reason
    assert [one.kind for one in completed] == ["train", "evaluate"] * 2
    assert [trainer.evaluated for trainer in workers.trainers.values()] == [[2, 4]] * 5
