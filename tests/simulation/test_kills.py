"""kill -9 at any event, on RabbitMQ and PostgreSQL: the same aggregate, one ledger entry a client."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from fedlora.topology import declare_all
from fedlora.trace import load
from services.coordinator import adapter as global_adapter
from shared.adapters.clock import SystemClock
from shared.adapters.database import open_units
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.events import (
    JobAccepted,
    JobEnded,
    JobSubmitted,
    RoundAborted,
    RoundCompleted,
    RoundStarted,
    SessionOpened,
)
from shared.events.base import Envelope
from shared.job.specification import JobSpecification
from tests.integration.scripted_federation import layout_of, mean_of
from tests.simulation.federation import (
    SERVICES,
    KillSchedule,
    ScriptedTrainer,
    ServiceProcesses,
    tapped,
    worker,
)

pytestmark = [pytest.mark.slow]
CLIENTS = ("alice", "bob", "carol", "dave")
DIMENSION, ROUNDS = 2_000, 3


def specification(**rounds):
    return JobSpecification.model_validate(
        {
            "name": "kills",
            "model": {"base": "smollm2-135m", "task": "causal-lm"},
            "data": {"text": "text"},
            "rounds": {
                "count": ROUNDS,
                "gather_s": 5,
                "min_clients": len(CLIENTS),
                "deadline_s": 120,
                **rounds,
            },
        }
    )


def expected_adapter(job, layout):
    content = global_adapter.initial(job, layout)
    for number in range(1, ROUNDS + 1):
        mean = mean_of(CLIENTS, number, DIMENSION)
        content = global_adapter.moved(content, mean.astype("<f4").tobytes(), layout, 1.0)
    return content


@contextlib.asynccontextmanager
async def running_federation(tmp_path, amqp_url, postgres_url):
    """Services as processes, workers in this process, and a tap; yields (processes, tap, infrastructure)."""
    endpoints = Endpoints(
        home=tmp_path, bus=amqp_url, database=postgres_url, blobs=str(tmp_path / "blobs"),
        traces_file=tmp_path / "traces.jsonl",
    )  # fmt: skip
    environment = {
        "FEDLORA_HOME": str(tmp_path),
        "FEDLORA_BUS": amqp_url,
        "FEDLORA_DATABASE": postgres_url,
        "FEDLORA_BLOBS": endpoints.blobs,
        "FEDLORA_TRACES_FILE": str(endpoints.traces_file),
        "FEDLORA_SECURE_AGGREGATION_KEY_FILE": str(tmp_path / "aggregation.key"),
    }
    processes = ServiceProcesses(environment, tmp_path)
    async with AsyncExitStack() as stack:
        infrastructure = await open_infrastructure("test", endpoints)
        stack.push_async_callback(infrastructure.close)
        await declare_all(infrastructure.bus)
        tap = await stack.enter_async_context(tapped(amqp_url))
        for name in SERVICES:
            await processes.start(name)
        stack.push_async_callback(processes.stop)
        for client_id in CLIENTS:
            trainer = ScriptedTrainer(client_id, DIMENSION)
            await stack.enter_async_context(worker(client_id, endpoints, tmp_path, trainer))
        yield processes, tap, infrastructure


async def submit(infrastructure, job):
    """Publish the job as the gateway would."""
    await infrastructure.bus.publish(
        Envelope.wrap(JobSubmitted(job_id="job-1", specification=job), correlation_id="job-1")
    )


async def ledger(postgres_url):
    """The accountant's journal, decoded."""
    units = await open_units(postgres_url, "accountant", SystemClock(), lambda: "")
    async with units.begin() as unit:
        entries = [json.loads(entry.body) for entry in await unit.read("ledger")]
    await units.close()
    return entries


@pytest.mark.parametrize("seed", [1, 2])
async def test_killing_any_service_at_any_event_changes_nothing(seed, tmp_path, amqp_url, postgres_url):
    print(f"seed {seed}")
    job = specification()
    async with running_federation(tmp_path, amqp_url, postgres_url) as (processes, tap, infrastructure):
        schedule = KillSchedule(processes, seed, kills=10, every=6)
        killer = asyncio.create_task(schedule.run())
        await submit(infrastructure, job)
        await tap.first(JobAccepted, 90)
        tap.watchers.append(schedule.watch)
        try:
            ended = await tap.first(JobEnded, 300)
        except TimeoutError:
            pytest.fail(f"no end after kills of {processes.killed}\n{processes.log_tails()}")
        schedule.stop()
        await killer
        assert ended.outcome == "completed", (ended.reason, processes.killed)
        assert len(processes.killed) >= 5
        assert not tap.of(RoundAborted)
        assert {event.number for event in tap.of(RoundCompleted)} == set(range(1, ROUNDS + 1))
        layout = layout_of(DIMENSION)
        assert await infrastructure.blobs.get(ended.adapter) == expected_adapter(job, layout)
        assert not await infrastructure.bus.dead_letters()
        codes = await processes.stop()
    # 0: drained; SIGTERM's own code: killed a moment ago, and stopped before it was up again.
    assert set(codes.values()) <= {0, -signal.SIGTERM}

    entries = await ledger(postgres_url)
    counted = Counter((e["client"], e["round"], e["outcome"]) for e in entries)
    wanted = {
        (client, f"job-1-r{number}", outcome): 1
        for client in CLIENTS
        for number in range(1, ROUNDS + 1)
        for outcome in ("reserved", "committed")
    }
    assert counted == wanted

    for number in range(1, ROUNDS + 1):
        trace = load(tmp_path / "traces.jsonl", f"job-1-r{number}")
        assert trace.whole, trace.verdict()
        assert {span.service for span in trace.spans} >= {*SERVICES, *CLIENTS}


async def test_a_round_goes_on_without_a_worker_that_died(tmp_path, amqp_url, postgres_url):
    job = specification(count=1, min_clients=3, deadline_s=12)
    async with running_federation(tmp_path, amqp_url, postgres_url) as (_, tap, infrastructure):
        running = {task.get_name(): task for task in asyncio.all_tasks()}
        tap.watchers.append(
            lambda event: running["worker dave"].cancel() if isinstance(event, SessionOpened) else None
        )
        await submit(infrastructure, job)
        ended = await tap.first(JobEnded, 120)
        assert ended.outcome == "completed", ended.reason
        (completed,) = tap.of(RoundCompleted)
        assert completed.contributors == ("alice", "bob", "carol")
        assert [left.client_id for left in completed.left_out] == ["dave"]
    outcomes = Counter((e["client"], e["outcome"]) for e in await ledger(postgres_url))
    assert outcomes["dave", "reserved"] == 1
    assert ("dave", "released") not in outcomes


async def test_a_round_survives_ten_seconds_without_a_broker(
    tmp_path, rabbitmq_server, amqp_url, postgres_url
):
    async with running_federation(tmp_path, amqp_url, postgres_url) as (_, tap, infrastructure):
        await submit(infrastructure, specification())
        await tap.first(RoundStarted, 90)
        await asyncio.to_thread(rabbitmq_server.control, "stop_app")
        await asyncio.sleep(10)  # the outage itself is what is tested
        await asyncio.to_thread(rabbitmq_server.control, "start_app")
        ended = await tap.first(JobEnded, 180)
        assert ended.outcome == "completed"
        layout = layout_of(DIMENSION)
        assert await infrastructure.blobs.get(ended.adapter) == expected_adapter(specification(), layout)
