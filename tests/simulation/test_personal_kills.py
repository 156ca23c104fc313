"""kill -9 of the accountant and the coordinator in a job of two budgets: each client is charged its own, once."""

import asyncio
from collections import Counter

import pytest

from shared.core.privacy import epsilon
from shared.events import BudgetRequested, BudgetSpent, ClientReady, JobAccepted, JobEnded, RoundAborted
from shared.events.values import PoissonSampled
from shared.job.personal import planned_own_noise
from shared.job.specification import JobSpecification
from tests.simulation.federation import KillSchedule
from tests.simulation.test_kills import (
    CLIENTS,
    OPENED,
    ROUNDS,
    assert_expected,
    ledger,
    running_federation,
    specification,
    submit,
)

pytestmark = [pytest.mark.slow]
SMALLER = 2.0
POLICIES = {"dave": f"largest_epsilon = {SMALLER}\n{OPENED}"}
KILLED = {ClientReady: "coordinator", BudgetRequested: "accountant", BudgetSpent: "accountant"}


class AtBudgets(KillSchedule):
    """Kills whoever is about to handle the first event of each kind in `KILLED`, and of each round."""

    def __init__(self, processes):
        super().__init__(processes, seed=0, kills=0, every=1)
        self.met = set()

    def watch(self, event):
        place = type(event), getattr(event, "round_id", "")
        if type(event) in KILLED and place not in self.met:
            self.met.add(place)
            self._due.put_nowait(KILLED[type(event)])


def personal():
    body = specification("none").model_dump(mode="json")
    body["privacy"]["personal_budgets"] = True
    return JobSpecification.model_validate(body)


async def test_who_has_an_own_budget_is_charged_its_own_mechanism_once_whoever_is_killed(
    tmp_path, amqp_url, postgres_url
):
    job = personal()
    federation = running_federation(tmp_path, amqp_url, postgres_url, policies=POLICIES)
    async with federation as (processes, tap, infrastructure):
        schedule = AtBudgets(processes)
        tap.watchers.append(schedule.watch)
        killer = asyncio.create_task(schedule.run())
        await submit(infrastructure, job)
        try:
            ended = await tap.first(JobEnded, 240)
        except TimeoutError:
            pytest.fail(f"no end after kills of {processes.killed}\n{processes.log_tails()}")
        schedule.stop()
        await killer
        assert ended.outcome == "completed", ended.reason
        assert Counter(processes.killed) == {"coordinator": 1, "accountant": 2 * ROUNDS}
        assert not tap.of(RoundAborted)
        await assert_expected(infrastructure, job, ended)
        sigma = tap.of(JobAccepted)[0].noise_multiplier
        entries = await ledger(postgres_url)
    own = planned_own_noise(job, sigma, SMALLER)
    settled = Counter((one["client"], one["round"], one["outcome"]) for one in entries)
    assert all(count == 1 for count in settled.values())
    reserved = [one for one in entries if one["outcome"] == "reserved"]
    assert len(reserved) == ROUNDS * len(CLIENTS)
    for one in reserved:
        expected = (own, SMALLER) if one["client"] == "dave" else (sigma, job.privacy.epsilon)
        assert (one["mechanism"]["noise_multiplier"], one["epsilon_limit"]) == expected
    daves = [PoissonSampled(**one["mechanism"]).core() for one in reserved if one["client"] == "dave"]
    assert epsilon(daves, job.privacy.delta) <= SMALLER
