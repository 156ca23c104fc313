"""Whole jobs whose noise is divided: only the sum has enough, and nothing else is ever opened."""

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from services.client.trainer import TrainingResult
from shared.core.privacy import epsilon
from shared.core.secagg.encoding import rounded_sensitivity
from shared.events import GroupSummed, JobEnded, LedgerExtended, RoundAborted, RoundCompleted
from shared.job.plan import divided_noise, honest_survivors, mechanism_of, planned_bound
from shared.job.refusals import refusals
from tests.integration.three_parties import three_parties
from tests.integration.worker_federation import KnownTrainer, adapter_of, job, worker_federation

EIGHT = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
FIVE = EIGHT[:5]
DIMENSION = 20_000
RECORDS, CAP = 50, 100  # KnownTrainer counts 50


def divided(secure="oneshot", *, count=1, clients=4, **changes):
    aggregation = {"weight_cap": CAP, "stage_s": 5.0, **changes.pop("aggregation", {})}
    specification = job(
        secure,
        aggregation=aggregation,
        training={"optimizer": "sgd", "local_steps": 1, "learning_rate": 0.1},
        privacy={"noise": "divided", **changes.pop("privacy", {})},
        rounds={"count": count, "min_clients": clients, **changes.pop("rounds", {})},
    )
    assert refusals(specification) == ()
    return specification


@dataclass
class Summing(KnownTrainer):
    """Gives a known sum, without noise."""

    noised: bool = False

    def train(self, task, progress, cancelled):
        result = super().train(task, progress, cancelled)
        return TrainingResult(known_sum(self.client_id), result.steps, 0.0, 1.0, noised=self.noised)


def known_sum(name):
    return np.full(DIMENSION, (EIGHT.index(name) - 1) * 1e-3, np.float32)


@asynccontextmanager
async def opened(secure, folder, trainer=Summing, names=FIVE):
    """A federation of such workers, under one of the protocols."""
    federate = three_parties if secure == "mpc3" else worker_federation
    async with federate(folder, (), dimension=DIMENSION) as (fed, workers, *_):
        for name in names:
            workers.trainers[name] = trainer(name, DIMENSION)
            await workers.start(name)
        fed.clients = dict.fromkeys(names)
        await fed.registered()
        yield fed, workers


def planned_sigma(specification, contributors):
    """Of a coordinate of the update, with the noise of all contributors in the sum."""
    noise_multiplier = specification.privacy.noise_multiplier
    plan = divided_noise(specification, noise_multiplier)
    bound = planned_bound(specification, noise_multiplier)
    encoding = plan.encoding(DIMENSION, specification.aggregation.bits, bound, None)
    moved = rounded_sensitivity(plan.sensitivity / encoding.step, encoding.length) * encoding.step
    total = math.sqrt(len(contributors) / honest_survivors(specification)) * noise_multiplier * moved
    return total / (len(contributors) * RECORDS / CAP)


@pytest.mark.parametrize("secure", ["oneshot", "secagg", "mpc3"])
async def test_the_sum_over_all_records_is_what_comes_out_with_the_planned_noise(tmp_path, secure):
    specification = divided(secure)
    async with opened(secure, tmp_path) as (fed, _):
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = np.asarray(await adapter_of(fed, ended), np.float64)
    (completed,) = fed.of(RoundCompleted)
    assert completed.contributors == FIVE
    batches = len(FIVE) * RECORDS / CAP
    left = final - sum(known_sum(name) for name in FIVE) / batches
    sigma = planned_sigma(specification, FIVE)
    assert abs(left.mean()) < 6 * sigma / math.sqrt(DIMENSION)
    statistic = float(left @ left) / sigma**2
    assert stats.chi2.ppf(5e-7, DIMENSION) < statistic < 1.001 * stats.chi2.ppf(1 - 5e-7, DIMENSION)


async def test_each_groups_sum_has_noise_of_its_own(tmp_path):
    grouped = {"group_size": 4, "smallest_group": 3}
    specification = divided(clients=8, aggregation=grouped)
    assert honest_survivors(specification) == 2  # of a group
    async with opened("oneshot", tmp_path, names=EIGHT) as (fed, _):
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        final = np.asarray(await adapter_of(fed, ended), np.float64)
    assert len(fed.of(GroupSummed)) == 2
    left = final - sum(known_sum(name) for name in EIGHT) / (len(EIGHT) * RECORDS / CAP)
    ratio = float(left @ left) / DIMENSION / planned_sigma(specification, EIGHT) ** 2
    assert abs(ratio - 1) < 5 * math.sqrt(2 / DIMENSION)


@pytest.mark.parametrize("secure", ["oneshot", "secagg", "mpc3"])
async def test_with_too_few_survivors_nothing_is_opened(tmp_path, secure):
    specification = divided(secure, rounds={"retries": 0, "deadline_s": 4.0}, aggregation={"stage_s": 0.8})
    async with opened(secure, tmp_path) as (fed, workers):
        for name in FIVE[:2]:
            workers.trainers[name].fails = True
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded)
        (aborted,) = await fed.until(RoundAborted)
    assert ended.outcome == "failed"
    assert aborted.reason
    assert fed.of(RoundCompleted) == []


async def test_a_job_of_several_rounds_spends_what_was_planned(tmp_path):
    specification = divided(count=3)
    async with opened("oneshot", tmp_path) as (fed, _):
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        lines = await fed.until(LedgerExtended, 3 * len(FIVE))
    assert {line.outcome for line in lines} == {"committed"}
    planned = [epsilon([mechanism_of(specification, 2.0, steps)], 1e-5) for steps in (1, 2, 3)]
    assert sorted({line.epsilon for line in lines}) == pytest.approx(planned, abs=1e-9)


@dataclass
class Noising(Summing):
    """Gives an update with noise of its own, as a trainer does that does not know divided noise."""

    noised: bool = True


async def test_an_update_that_is_noised_twice_or_not_at_all_does_not_leave_a_worker(tmp_path):
    for noise, trainer in (("divided", Noising), ("local", Summing)):
        wanted = divided(privacy={"noise": noise}, rounds={"retries": 0, "deadline_s": 3.0})
        async with opened("oneshot", tmp_path / noise, trainer=trainer) as (fed, _):
            await fed.submit(wanted)
            (ended,) = await fed.until(JobEnded)
            (aborted,) = await fed.until(RoundAborted)
        assert ended.outcome == "failed"
        assert not fed.of(GroupSummed)
        assert "0 of 5 updates came" in aborted.reason
