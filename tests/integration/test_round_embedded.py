"""Whole jobs over the in-process bus and SQLite: the aggregate is the plain mean, come what may."""

import asyncio
import random

import numpy as np
import pytest
from safetensors.numpy import load

from services.accountant.settings import AccountantSettings
from shared.core.lora import initial_tensor
from shared.events import (
    JobCancelled,
    JobEnded,
    LedgerExtended,
    RoundAborted,
    RoundCompleted,
    RoundOpened,
)
from shared.events.base import Envelope
from tests.integration.scripted_federation import federation, mean_of, specification

THREE = ("alpha", "beta", "gamma")
BIG = {name: {"dimension": 600_000} for name in ("alpha", "beta")}
NAME = "w.lora_B.weight"


async def vector(fed, ref):
    return load(await fed.blobs.get(ref))[NAME]


def expected(contributors, dimension=8, rounds=2):
    adapter = np.asarray(initial_tensor(0, NAME, (dimension,), "ffa"), dtype=np.float32)
    for number in range(1, rounds + 1):
        step = mean_of(contributors, number, dimension).astype(np.float64)
        adapter = (adapter.astype(np.float64) + step).astype(np.float32)
    return adapter


async def test_a_job_moves_the_adapter_by_exactly_the_plain_mean_of_each_round(tmp_path):
    async with federation(tmp_path, THREE) as fed:
        await fed.submit(specification())
        (ended,) = await fed.until(JobEnded)
        assert (ended.outcome, ended.rounds_completed) == ("completed", 2)
        assert (await vector(fed, ended.adapter) == expected(THREE)).all()
        for completed in await fed.until(RoundCompleted, 2):
            assert completed.contributors == THREE
            assert not completed.left_out


async def test_an_update_of_several_chunks_is_added_once(tmp_path):
    dimension = 600_000
    async with federation(tmp_path, THREE, every={"dimension": dimension}) as fed:
        await fed.submit(specification(rounds={"count": 1}))
        (ended,) = await fed.until(JobEnded)
        assert (await vector(fed, ended.adapter) == expected(THREE, dimension, 1)).all()


async def test_each_client_has_one_committed_ledger_entry_a_round(tmp_path):
    async with federation(tmp_path, THREE) as fed:
        await fed.submit(specification())
        await fed.until(JobEnded)
        async with asyncio.timeout(20), fed.changed:
            await fed.changed.wait_for(lambda: len(committed(fed)) >= 6)
        assert sorted(committed(fed)) == sorted((c, f"job-r{n}") for c in THREE for n in (1, 2))


def committed(fed):
    return [(e.client_id, e.round_id) for e in fed.of(LedgerExtended) if e.outcome == "committed"]


async def test_a_client_that_declines_a_round_is_left_out_at_once(tmp_path):
    async with federation(tmp_path, THREE, gamma={"declines": True}) as fed:
        await fed.submit(specification())
        (ended,) = await fed.until(JobEnded, timeout_s=15)
        assert (await vector(fed, ended.adapter) == expected(("alpha", "beta"))).all()
        completed = await fed.until(RoundCompleted)
        assert [item.client_id for item in completed[0].left_out] == ["gamma"]


async def test_a_client_that_sends_garbage_is_left_out_at_once_and_named_in_the_dead_letters(tmp_path):
    async with federation(tmp_path, THREE, gamma={"garbage": True}) as fed:
        await fed.submit(specification())
        (ended,) = await fed.until(JobEnded, timeout_s=15)
        assert (await vector(fed, ended.adapter) == expected(("alpha", "beta"))).all()
        assert any("gamma" in reason for _, reason in await fed.bus.dead_letters())


async def test_a_silent_client_is_left_out_at_the_deadline(tmp_path):
    async with federation(tmp_path, THREE, gamma={"silent": True}) as fed:
        await fed.submit(specification(rounds={"count": 1, "deadline_s": 1}))
        (ended,) = await fed.until(JobEnded)
        assert (await vector(fed, ended.adapter) == expected(("alpha", "beta"), rounds=1)).all()
        completed = await fed.until(RoundCompleted)
        assert [item.client_id for item in completed[0].left_out] == ["gamma"]


async def test_too_few_updates_abort_rounds_until_the_job_fails(tmp_path):
    options = {name: {"silent": True} for name in THREE[1:]}
    async with federation(tmp_path, THREE, **options) as fed:
        await fed.submit(specification(rounds={"deadline_s": 0.5, "retries": 1}))
        (ended,) = await fed.until(JobEnded)
        assert (ended.outcome, ended.rounds_completed) == ("failed", 0)
        await fed.until(RoundAborted, 2)


async def test_cancelling_a_job_aborts_its_round_and_ends_it(tmp_path):
    async with federation(tmp_path, THREE, gamma={"silent": True}) as fed:
        await fed.submit(specification())
        await fed.until(RoundOpened)
        await fed.bus.publish(Envelope.wrap(JobCancelled(job_id="job", reason="enough"), event_id="cancel"))
        (ended,) = await fed.until(JobEnded)
        assert (ended.outcome, ended.reason) == ("cancelled", "enough")
        await fed.until(RoundAborted)


async def test_a_client_with_another_layout_is_left_out_with_the_reason(tmp_path):
    async with federation(tmp_path, THREE, gamma={"layout_dimension": 9}) as fed:
        await fed.submit(specification())
        (ended,) = await fed.until(JobEnded)
        assert (await vector(fed, ended.adapter) == expected(("alpha", "beta"))).all()
        completed = await fed.until(RoundCompleted)
        (left_out,) = completed[0].left_out
        assert (left_out.client_id, "layout" in left_out.reason) == ("gamma", True)


async def test_a_job_ends_when_the_budget_no_longer_covers_a_round(tmp_path):
    spending = {"noise_multiplier": 0.7, "sampling_rate": 0.5, "epsilon": 10}
    async with federation(tmp_path, THREE, accountant=AccountantSettings(client_epsilon=3.0)) as fed:
        await fed.submit(specification(privacy=spending, training={"local_steps": 1}))
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "budget-exhausted"
        assert ended.reason
        await fed.until(RoundAborted)


async def test_the_accountant_holds_delta_against_each_clients_declared_records(tmp_path):
    strict = AccountantSettings(largest_delta_times_records=49 * 1e-5)  # each client declares 50
    async with federation(tmp_path, THREE, accountant=strict) as fed:
        await fed.submit(specification(privacy={"noise_multiplier": 5.0, "delta": 1e-5}))
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "budget-exhausted"
        assert "x 50 declared records" in ended.reason


async def test_two_jobs_run_at_once(tmp_path):
    async with federation(tmp_path, THREE) as fed:
        await fed.submit(specification(), "one", "s1")
        await fed.submit(specification(), "two", "s2")
        for job_id in ("one", "two"):
            (ended,) = await fed.until(JobEnded, job_id=job_id)
            assert (await vector(fed, ended.adapter) == expected(THREE)).all()


async def test_uploads_that_were_held_when_secure_aggregation_restarted_are_summed_again(tmp_path):
    gate = asyncio.Event()
    async with federation(tmp_path, THREE, gamma={"gate": gate, "dimension": 600_000}, **BIG) as fed:
        await fed.submit(specification(rounds={"count": 1}))
        await fed.until(RoundOpened)
        aggregation = fed.services["secure_aggregation"].context
        async with asyncio.timeout(20):
            while sum(len(g.running.uploads) for g in aggregation.gathered.values()) < 2:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)
        await fed.restart("secure_aggregation")
        assert fed.services["secure_aggregation"].context is not aggregation
        gate.set()
        (ended,) = await fed.until(JobEnded)
        assert (await vector(fed, ended.adapter) == expected(THREE, 600_000, 1)).all()


class Unruly:
    """A bus that publishes everything twice, each copy after a random wait."""

    def __init__(self, bus, source):
        self.bus, self.source = bus, source

    def __getattr__(self, name):
        return getattr(self.bus, name)

    async def publish(self, envelope):
        async def one():
            await asyncio.sleep(self.source.random() * 0.05)
            await self.bus.publish(envelope)

        await asyncio.gather(one(), one())


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_duplicates_and_reordering_change_nothing(tmp_path, seed):
    print(f"seed {seed}")
    source = random.Random(seed)
    options = {"wrap": lambda bus: Unruly(bus, source), "every": {"dimension": 600_000}}
    async with federation(tmp_path, THREE, **options) as fed:
        await fed.submit(specification())
        (ended,) = await fed.until(JobEnded)
        assert (await vector(fed, ended.adapter) == expected(THREE, 600_000)).all()
        completed = await fed.until(RoundCompleted, 2)
        assert {event.round_id for event in completed} == {"job-r1", "job-r2"}
