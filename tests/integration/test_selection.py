"""Rounds that ask more clients than they need, and rather those that answer: nobody waits for a straggler."""

import asyncio
import threading

import numpy as np
import pytest

from services.coordinator.cohort.pace import Pace
from shared.events import JobEnded, RoundCompleted
from tests.integration.scripted_federation import federation, specification
from tests.integration.three_parties import three_parties
from tests.integration.worker_federation import adapter_of, job, known_mean, worker_federation

FOUR = ("alpha", "beta", "gamma", "slow")


async def test_a_straggler_does_not_hold_up_a_round_that_asked_one_more(tmp_path):
    gate = asyncio.Event()
    async with federation(tmp_path, FOUR, slow={"gate": gate}) as fed:
        rounds = {
            "clients_per_round": 3,
            "over_selection": 0.3,
            "min_clients": 3,
            "count": 2,
            "deadline_s": 600,
        }
        await fed.submit(specification(rounds=rounds))
        (ended,) = await fed.until(JobEnded, timeout_s=30)
        assert (ended.outcome, ended.rounds_completed) == ("completed", 2)
        for completed in await fed.until(RoundCompleted, 2):
            assert completed.contributors == FOUR[:3]
            assert [one.client_id for one in completed.left_out] == ["slow"]
            assert "enough updates" in completed.left_out[0].reason
            assert not completed.left_out[0].sent_wrong
        gate.set()


async def test_a_client_that_never_answers_is_asked_less_and_less(tmp_path):
    async with federation(tmp_path, FOUR, slow={"declines": True}) as fed:
        rounds = {
            "clients_per_round": 3, "over_selection": 0.3, "min_clients": 3, "count": 3, "selection": "availability",
        }  # fmt: skip
        await fed.submit(specification(rounds=rounds))
        (ended,) = await fed.until(JobEnded, timeout_s=30)
        assert ended.outcome == "completed"
        paces = {}

        async def look(unit):
            paces.update({pace.client_id: pace for pace in await unit.select(Pace)})

        await fed.services["coordinator"].transact(look)
        assert {name: (paces[name].asked, paces[name].finished) for name in FOUR} == {
            "alpha": (3, 3), "beta": (3, 3), "gamma": (3, 3), "slow": (3, 0),
        }  # fmt: skip
        assert paces["slow"].availability == pytest.approx(1 / 5)
        assert all(paces[name].seconds >= 0 for name in FOUR[:3])


@pytest.mark.parametrize("secure", ["oneshot", "secagg", "mpc3"])
async def test_under_every_protocol_the_sum_is_that_of_the_first_to_come(tmp_path, secure):
    names = ("alpha", "beta", "gamma", "delta", "slow")
    rounds = {"clients_per_round": 4, "over_selection": 0.1, "min_clients": 4, "count": 1, "deadline_s": 600}
    opened = three_parties if secure == "mpc3" else worker_federation
    async with opened(tmp_path, names) as (fed, workers, *_):
        workers.trainers["slow"].gate = gate = threading.Event()
        await fed.submit(job(secure, rounds=rounds, aggregation={"stage_s": 10}))
        (ended,) = await fed.until(JobEnded, timeout_s=60)
        assert ended.outcome == "completed", ended.reason
        (completed,) = await fed.until(RoundCompleted)
        gate.set()
        assert completed.contributors == tuple(sorted(names[:4]))
        assert "enough updates" in completed.left_out[0].reason
        final = await adapter_of(fed, ended)
    assert np.abs(final - known_mean(completed.contributors, 1, 300)).max() < 1e-2
