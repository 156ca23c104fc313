"""Asynchronous jobs: a slow client's update counts less, and nothing counts twice, whoever is restarted."""

import asyncio

import numpy as np
import pytest

from services.coordinator.adapter.initial import initial
from services.coordinator.buffering import Buffered
from services.coordinator.state import Job
from shared.core.lora import flatten, from_safetensors
from shared.core.secagg import fixed_point
from shared.events import (
    JobCancelled,
    JobEnded,
    LedgerExtended,
    RoundAborted,
    RoundCompleted,
    UpdateAggregated,
)
from shared.events.base import Envelope
from tests.integration.scripted_federation import federation, layout_of, specification, update_of
from tests.integration.worker_federation import adapter_of, job, known_update, worker_federation

DIMENSION = 8
THREE = ("alpha", "beta", "gamma")


def job_of(**rounds):
    together = {"asynchronous": True, "buffer": 2, "min_clients": 2, "count": 3, "gather_s": 5}
    return specification(rounds={**together, **rounds})


class Turnstile:
    """A client's gate that lets one upload pass for each `let`, and knows how many have come to it."""

    def __init__(self):
        self.passes, self.came, self.changed = asyncio.Semaphore(0), 0, asyncio.Condition()

    async def wait(self):
        async with self.changed:
            self.came += 1
            self.changed.notify_all()
        await self.passes.acquire()

    def let(self, count=1):
        for _ in range(count):
            self.passes.release()

    async def until(self, count):
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: self.came >= count)


def number_of(event):
    return int(event.round_id.rpartition("-a")[2])


def sent(client, number):
    """What the aggregator reads of it: fixed point."""
    return fixed_point.decode(fixed_point.encode(update_of(client, number, DIMENSION)).astype(np.int64))


def start_of(job):
    return flatten(from_safetensors(initial(job, layout_of(DIMENSION))), ["w.lora_B.weight"])


async def adapter_after(fed, event):
    return flatten(from_safetensors(await fed.blobs.get(event.adapter)), ["w.lora_B.weight"])


def turns(gates):
    """Each client uploads once its gate lets it, one round at a time."""
    return {name: {"gate": gate} for name, gate in gates.items()}


async def test_a_slow_clients_update_counts_by_how_stale_it_is(tmp_path):
    gates = {name: Turnstile() for name in THREE}
    job = job_of(min_clients=3, buffer=2)
    async with federation(tmp_path, THREE, **turns(gates)) as fed:
        await fed.submit(job)
        for name in THREE:
            await gates[name].until(1)
        for step in (1, 2):
            for name in ("alpha", "beta"):
                gates[name].let()
            await fed.until(RoundCompleted, step)
            for name in ("alpha", "beta"):
                await gates[name].until(step + 1)
        gates["gamma"].let()
        await fed.until(UpdateAggregated, 5)
        gates["alpha"].let()
        (ended,) = await fed.until(JobEnded)
        assert (ended.outcome, ended.rounds_completed) == ("completed", 3), ended.reason
        steps = sorted(fed.of(RoundCompleted), key=lambda one: one.number)
        first = {name: [number_of(one) for one in fed.clients[name].started] for name in THREE}
        after = await adapter_after(fed, ended)
        begun = [one.completed for one in fed.clients["alpha"].started][:3]
        aborted = fed.of(RoundAborted)
    assert begun == [0, 1, 2]
    assert [one.number for one in steps] == [1, 2, 3]
    assert [one.contributors for one in steps] == [("alpha", "beta")] * 2 + [("alpha", "gamma")]
    stale = 1 / np.sqrt(3)
    whole = 1 + stale
    assert steps[2].weights == pytest.approx({"alpha": 1 / whole, "gamma": stale / whole})
    position = start_of(job)
    for step in (0, 1):
        position = position + np.mean([sent(name, first[name][step]) for name in ("alpha", "beta")], axis=0)
    position = (
        position + (sent("alpha", first["alpha"][2]) + stale * sent("gamma", first["gamma"][0])) / whole
    )
    np.testing.assert_allclose(after, position, rtol=1e-5, atol=1e-5)
    assert {one.round_id for one in aborted} <= {f"job-a{number}" for name in THREE for number in first[name]}
    assert aborted, "rounds were running when the job ended"


async def test_a_restart_between_buffered_updates_counts_none_twice(tmp_path):
    gates = {name: Turnstile() for name in THREE}
    job = job_of(min_clients=3, buffer=3, count=1)
    every = {name: {**one, "copies": 2} for name, one in turns(gates).items()}
    async with federation(tmp_path, THREE, **every) as fed:
        await fed.submit(job)
        for index, name in enumerate(THREE):
            await gates[name].until(1)
            gates[name].let()
            await fed.until(UpdateAggregated, index + 1)
            await fed.restart("coordinator")
        (ended,) = await fed.until(JobEnded)
        (step,) = fed.of(RoundCompleted)
        after = await adapter_after(fed, ended)
        numbers = {name: number_of(fed.clients[name].started[0]) for name in THREE}
    assert ended.outcome == "completed"
    assert step.weights == pytest.approx(dict.fromkeys(THREE, 1 / 3))
    mean = np.mean([sent(name, number) for name, number in numbers.items()], axis=0)
    np.testing.assert_allclose(after, start_of(job) + mean, rtol=1e-5, atol=1e-5)


async def test_a_cancelled_job_closes_every_running_round_and_forgets_its_buffer(tmp_path):
    gates = {name: Turnstile() for name in THREE}
    async with federation(tmp_path, THREE, **turns(gates)) as fed:
        await fed.submit(job_of(min_clients=3))
        for name in THREE:
            await gates[name].until(1)
        gates["alpha"].let()
        await fed.until(UpdateAggregated)
        await gates["alpha"].until(2)
        cancelled = JobCancelled(job_id="job", reason="enough")
        await fed.bus.publish(Envelope.wrap(cancelled, event_id="cancel", correlation_id="job"))
        (ended,) = await fed.until(JobEnded)
        running = {fed.clients[name].started[-1].round_id for name in THREE}
        await fed.until(RoundAborted, 3)
        assert {one.round_id for one in fed.of(RoundAborted)} == running
        found = []

        async def look(unit):
            found.extend(await unit.select(Buffered, "job"))
            found.extend([one for one in await unit.select(Job) if one.running])

        await fed.services["coordinator"].transact(look)
    assert ended.outcome == "cancelled"
    assert found == []


@pytest.mark.parametrize(("min_clients", "outcome"), [(2, "completed"), (3, "budget-exhausted")])
async def test_a_client_whose_budget_is_spent_is_asked_no_more(tmp_path, min_clients, outcome):
    gates = {name: Turnstile() for name in ("beta", "gamma")}
    job = specification(
        privacy={"noise_multiplier": "auto"},
        rounds={"asynchronous": True, "buffer": 2, "min_clients": min_clients, "count": 2},
    )
    async with federation(tmp_path, THREE, **turns(gates)) as fed:
        await fed.submit(job)
        for gate in gates.values():
            await gate.until(1)
        await fed.until(RoundAborted)  # alpha's third
        gates["beta"].let(2)
        (ended,) = await fed.until(JobEnded)
        steps = fed.of(RoundCompleted)
        spent = await fed.until(LedgerExtended, 2)
        started = len(fed.clients["alpha"].started)
    assert ended.outcome == outcome, ended.reason
    assert started == 2, "alpha has budget for the planned rounds alone"
    assert max(one.epsilon for one in spent) <= job.privacy.epsilon
    assert steps[0].weights == pytest.approx({"alpha": 1})
    if outcome == "completed":
        assert steps[1].weights == pytest.approx({"beta": 1})
        assert "alpha" in {one.client_id for one in steps[1].left_out}
    else:
        assert len(steps) == 1
        assert "budget" in ended.reason


async def test_no_more_clients_train_at_once_than_the_job_says(tmp_path):
    gate = Turnstile()
    running = []

    async def look(unit):
        running.append(sorted((await unit.load(Job, "job")).running))

    async with federation(tmp_path, THREE, every={"gate": gate}) as fed:
        await fed.submit(job_of(clients_per_round=2, count=2))
        for passed in range(3):
            await gate.until(2 + passed)
            await fed.services["coordinator"].transact(look)
            gate.let()
            await fed.until(UpdateAggregated, passed + 1)
        gate.let(20)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
    assert [len(names) for names in running] == [2, 2, 2]


async def test_a_client_that_is_silent_until_the_deadline_is_asked_again(tmp_path):
    gates = {name: Turnstile() for name in ("alpha", "beta")}
    async with federation(tmp_path, THREE, **turns(gates), gamma={"silent": True}) as fed:
        await fed.submit(job_of(deadline_s=1, retries=30, count=2))
        await fed.until(RoundAborted, 7)
        for gate in gates.values():
            gate.let(50)
        (ended,) = await fed.until(JobEnded)
        asked = [one.round_id for one in fed.clients["gamma"].started]
    assert ended.outcome == "completed", ended.reason
    assert len(set(asked)) >= 2


async def test_clients_that_always_fail_end_the_job_after_their_retries(tmp_path):
    async with federation(tmp_path, THREE, every={"declines": True}) as fed:
        await fed.submit(job_of(retries=1, min_clients=3))
        (ended,) = await fed.until(JobEnded)
        rounds = {name: len(client.started) for name, client in fed.clients.items()}
    assert (ended.outcome, ended.rounds_completed) == ("failed", 0)
    assert max(rounds.values()) == 2, rounds


async def test_workers_take_a_session_of_one_where_the_job_is_asynchronous(tmp_path):
    asked = job("none", rounds={"asynchronous": True, "buffer": 2, "min_clients": 2, "count": 1})
    policy = 'allowed_secure_protocols = ["none"]\n'
    async with worker_federation(tmp_path, THREE[:2], dimension=40, policy=policy) as (fed, _):
        await fed.submit(asked)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        (step,) = fed.of(RoundCompleted)
        counted = fed.of(UpdateAggregated)[:2]
        after = await adapter_of(fed, ended)
    updates = [known_update(next(iter(one.weights)), number_of(one), 40) for one in counted]
    begun = flatten(from_safetensors(initial(asked, layout_of(40))), ["w.lora_B.weight"])
    np.testing.assert_allclose(after, begun + np.mean(updates, axis=0), atol=1e-5)
    assert set(step.contributors) == {client for one in counted for client in one.weights}
