"""Clients of two budgets in one job, through real services and workers, up to a ledger that verifies."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from services.accountant.handlers import LEDGER
from services.coordinator.state import Job
from shared.core.chain import export
from shared.core.privacy.ledger import verify
from shared.events import JobEnded, RoundCompleted
from shared.job.personal import own_clip_norm
from tests.accountant_at_work import as_line
from tests.integration.worker_federation import KnownTrainer, adapter_of, job, known_mean, worker_federation

THREE = ("alpha", "beta", "gamma")
DIMENSION = 2_500
SMALLER = 2.0
DIVIDED = {
    "privacy": {"noise": "divided"},
    "training": {"optimizer": "sgd", "local_steps": 1, "learning_rate": 0.1},
    "aggregation": {"bits": 16, "weight_cap": 50},
}


@dataclass
class Noting(KnownTrainer):
    """Keeps what it was to train with."""

    tasks: list = field(default_factory=list)

    def train(self, task, progress, cancelled):
        self.tasks.append(task)
        found = super().train(task, progress, cancelled)
        if task.specification.privacy.noise == "divided":
            return replace(found, update=np.zeros(self.dimension, np.float32), noised=False)
        return found


def personal(**changes):
    privacy = {"noise_multiplier": "auto", "epsilon": 8, "personal_budgets": True}
    privacy |= changes.pop("privacy", {})
    return job(privacy=privacy, rounds={"count": 2, "min_clients": 2, **changes.pop("rounds", {})}, **changes)


async def start(fed, workers, smaller):
    for name in THREE:
        workers.policy = f"largest_epsilon = {SMALLER}\n" if name in smaller else ""
        workers.trainers[name] = Noting(name, DIMENSION)
        await workers.start(name)
    fed.clients = dict.fromkeys(THREE)
    await fed.registered()


async def exported(fed):
    lines = []

    async def read(unit):
        lines.extend([as_line(entry) for entry in await unit.read(LEDGER)])

    await fed.services["accountant"].transact(read)
    return export(lines)


async def stored(fed):
    found = []

    async def read(unit):
        found.append(await unit.load(Job, "job"))

    await fed.services["coordinator"].transact(read)
    return found[0]


async def test_clients_of_two_budgets_train_one_adapter_and_each_spends_its_own(tmp_path):
    async with worker_federation(tmp_path, ()) as (fed, workers):
        await start(fed, workers, {"gamma"})
        await fed.submit(personal(rounds={"min_clients": 3}))
        (ended,) = await fed.until(JobEnded)
        last = (await fed.until(RoundCompleted, 2))[-1]
        moved, found, ledger = await adapter_of(fed, last), await stored(fed), await exported(fed)
    assert (ended.outcome, ended.rounds_completed) == ("completed", 2), ended.reason
    expected = sum(known_mean(THREE, number, DIMENSION) for number in (1, 2))
    np.testing.assert_allclose(moved, expected, atol=4e-4)
    for name, trainer in workers.trainers.items():
        assert len(trainer.tasks) == 2
        for task in trainer.tasks:
            sigma = task.mechanism.noise_multiplier
            assert (sigma > found.noise_multiplier) == (name == "gamma")
            assert sigma * task.clip_norm == pytest.approx(found.noise_multiplier, rel=1e-9)
    verdict = verify(ledger)
    assert not verdict.faults
    spending = {one.client_id: one for one in verdict.spending}
    assert {name: one.epsilon_limit for name, one in spending.items()} == {
        "alpha": 8, "beta": 8, "gamma": SMALLER
    }  # fmt: skip
    assert 0.99 * SMALLER < spending["gamma"].epsilon() <= SMALLER
    assert 7.9 < spending["alpha"].epsilon() <= 8


async def test_a_divided_noise_is_that_of_all_and_costs_who_clips_lower_less(tmp_path):
    async with worker_federation(tmp_path, ()) as (fed, workers):
        await start(fed, workers, {"gamma"})
        await fed.submit(personal(**{**DIVIDED, "rounds": {"min_clients": 3}}))
        (ended,) = await fed.until(JobEnded)
        ledger, found = await exported(fed), await stored(fed)
    assert (ended.outcome, ended.rounds_completed) == ("completed", 2), ended.reason
    verdict = verify(ledger)
    assert not verdict.faults
    spending = {one.client_id: one for one in verdict.spending}
    assert 0.99 * SMALLER < spending["gamma"].epsilon() <= SMALLER
    assert 7.9 < spending["beta"].epsilon() <= 8
    for task in workers.trainers["gamma"].tasks:
        norm = own_clip_norm(
            found.specification, found.noise_multiplier, task.mechanism.noise_multiplier, DIMENSION
        )
        assert task.clip_norm == norm < found.noise_multiplier / task.mechanism.noise_multiplier
    assert {task.clip_norm for task in workers.trainers["beta"].tasks} == {1.0}


async def test_without_personal_budgets_who_allows_less_declines_and_the_others_train(tmp_path):
    async with worker_federation(tmp_path, ()) as (fed, workers):
        await start(fed, workers, {"gamma"})
        await fed.submit(personal(privacy={"personal_budgets": False}))
        (ended,) = await fed.until(JobEnded)
        found = await stored(fed)
    assert ended.outcome == "completed", ended.reason
    assert "the owner allows at most 2" in found.left_out["gamma"]
    assert not workers.trainers["gamma"].tasks
