"""Jobs whose clients vote when to stop: the bit is all that leaves, and it is charged once."""

from dataclasses import dataclass

import pytest

from services.client.stopping import Stopping
from shared.core.privacy import Pure, epsilon
from shared.core.privacy.ledger import verify
from shared.events import JobEnded, LedgerExtended, RoundAborted, RoundCompleted
from shared.job.plan import mechanism_of
from tests.integration.test_evaluation_workers import (
    DIVIDED,
    FIVE,
    Undisturbed,
    evaluated,
    exported,
    opened,
)
from tests.integration.worker_federation import KnownTrainer

STOP = 0.5
VOTING = {"every": 1, "records": 25_000, "noise_multiplier": 10.0, "patience": 1, "stop_epsilon": STOP}


@dataclass
class Losing(KnownTrainer):
    """Its losses are `losses`, in turn: of so many records that AboveThreshold's noise does not matter."""

    losses: tuple = (5.0, 4.0, 3.0, 6.0, 2.0)

    def evaluate(self, task, progress, cancelled):
        measured = super().evaluate(task, progress, cancelled)
        measured[:, 1] = self.losses[len(self.evaluated) - 1]
        return measured


class UndisturbedLosing(Losing, Undisturbed):
    """The same under divided noise."""


def voting(secure="oneshot", count=5, **changes):
    return evaluated(
        secure, rounds={"count": count, **changes.pop("rounds", {})}, evaluation=VOTING, **changes
    )


def votes_of(rounds):
    return [one.metrics for one in sorted(rounds, key=lambda one: one.number) if one.kind == "evaluate"]


@pytest.mark.parametrize(
    ("secure", "noise"),
    [("none", "local"), ("oneshot", "local"), ("secagg", "local"), ("mpc3", "local"), ("oneshot", "divided")],
)
async def test_the_job_ends_when_most_losses_rise_and_votes_are_charged_once(tmp_path, secure, noise):
    specification = voting(secure, **(DIVIDED if noise == "divided" else {}))
    trainer = UndisturbedLosing if noise == "divided" else Losing
    async with opened(secure, tmp_path, trainer) as (fed, _):
        await fed.submit(specification)
        (ended,) = await fed.until(JobEnded)
        rounds = await fed.until(RoundCompleted, 8)
        await fed.until(LedgerExtended, 8 * len(FIVE))
        verdict = verify(await exported(fed))
    assert (ended.outcome, ended.rounds_completed) == ("completed", 4)
    assert ended.reason == "5 of 5 vote to stop"
    assert not fed.of(RoundAborted)
    assert votes_of(rounds) == [{"stop_votes": 0.0}] * 3 + [{"stop_votes": 5.0}]
    assert not verdict.faults
    for one in verdict.spending:
        assert [each for each in one.mechanisms if isinstance(each, Pure)] == [Pure(1.0, 1 / STOP, 1)]
    steps = 4 * specification.training.local_steps
    training = mechanism_of(specification, specification.privacy.noise_multiplier, steps)
    assert verdict.spending[0].epsilon() == pytest.approx(epsilon([training, Pure(1.0, 1 / STOP, 1)], 1e-5))


async def test_one_vote_of_five_does_not_end_a_job(tmp_path):
    async with opened("oneshot", tmp_path, Losing) as (fed, workers):
        for name in FIVE[1:]:
            workers.trainers[name].losses = (5.0, 4.0, 3.0, 2.0, 1.0)
        await fed.submit(voting())
        (ended,) = await fed.until(JobEnded)
        rounds = await fed.until(RoundCompleted, 10)
    assert (ended.rounds_completed, ended.reason) == (5, "all rounds are done")
    assert [one["stop_votes"] for one in votes_of(rounds)] == [0, 0, 0, 1, 1]


async def test_a_worker_that_starts_anew_goes_on_with_its_threshold(tmp_path):
    async with opened("oneshot", tmp_path, Losing) as (fed, workers):
        await fed.submit(voting(count=3))
        await fed.until(RoundCompleted, 2)
        await workers.stop("carol")
        await workers.start("carol")
        await fed.until(JobEnded)
        rounds = await fed.until(RoundCompleted, 6)
        await fed.until(LedgerExtended, 5 * 5)
        verdict = verify(await exported(fed))
    assert all(one.contributors == FIVE for one in rounds if one.number in (2, 6))
    carol = next(one for one in verdict.spending if one.client_id == "carol")
    assert [each.steps for each in carol.mechanisms if isinstance(each, Pure)] == [1]


async def test_a_worker_that_lost_its_threshold_votes_no_more(tmp_path):
    async with opened("oneshot", tmp_path, Losing) as (fed, workers):
        await fed.submit(voting(count=3))
        await fed.until(RoundCompleted, 2)

        async def lose(unit):
            await unit.delete(await unit.load(Stopping, "job"))

        await workers.services["carol"].transact(lose)
        (ended,) = await fed.until(JobEnded)
        rounds = await fed.until(RoundCompleted, 6)
    assert ended.outcome == "completed"
    for one in rounds:
        if one.kind == "evaluate" and one.number > 2:
            assert one.contributors == tuple(name for name in FIVE if name != "carol")
            assert "lost" in one.left_out[0].reason
