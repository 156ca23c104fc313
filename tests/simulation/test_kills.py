"""kill -9 at any event, on RabbitMQ and PostgreSQL: the same aggregate, one ledger entry a client."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack

import numpy as np
import pytest

from fedlora.topology import declare_all
from fedlora.trace import load
from services.coordinator.adapter import initial as global_adapter
from shared.adapters.clock import SystemClock
from shared.adapters.database import open_units
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.core.lora import flatten, from_safetensors, to_safetensors, unflatten
from shared.core.secagg.encoding import Encoding, predicted_error
from shared.core.secagg.oneshot import encoding as oneshot_encoding
from shared.events import (
    JobAccepted,
    JobEnded,
    JobSubmitted,
    LedgerExtended,
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
DIMENSION, ROUNDS, BOUND = 2_000, 3, 8.0
OPENED = 'allowed_secure_protocols = ["oneshot", "none"]'  # what an owner must write to allow `none`


def specification(secure="oneshot", **rounds):
    encoded = {"bound": BOUND, "stage_s": 20} if secure == "oneshot" else {}
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
            "aggregation": {"secure": secure, **encoded},
            # What the server remembers must survive, too; and be counted once.
            "server": {"optimizer": "fedavgm", "momentum": 0.5} if secure == "none" else {},
        }
    )


def expected_adapter(job, layout):
    names = [tensor.name for tensor in layout.trainable]
    position = flatten(from_safetensors(global_adapter.initial(job, layout)), names)
    momentum = np.zeros(DIMENSION)
    kept = job.server.momentum if job.server.optimizer == "fedavgm" else 0.0
    for number in range(1, ROUNDS + 1):
        momentum = kept * momentum + mean_of(CLIENTS, number, DIMENSION).astype(np.float64)
        position = (position.astype(np.float64) + momentum).astype(np.float32)
    return to_safetensors(unflatten(position, [(tensor.name, tensor.shape) for tensor in layout.trainable]))


async def assert_expected(infrastructure, job, ended):
    """The adapter is the one of plain means: to the bit under `none`, within the predicted error else."""
    layout = layout_of(DIMENSION)
    found = await infrastructure.blobs.get(ended.adapter)
    expected = expected_adapter(job, layout)
    if job.aggregation.secure == "none":
        assert found == expected
        return
    names = [tensor.name for tensor in layout.trainable]
    values = [flatten(from_safetensors(one), names).astype(np.float64) for one in (found, expected)]
    encoding = Encoding(dimension=DIMENSION, bits=16, bound=BOUND)
    noise = encoding.step * oneshot_encoding.predicted_error(len(CLIENTS), 1024)
    of_a_mean = np.hypot(predicted_error(encoding, len(CLIENTS)), noise) / len(CLIENTS)
    error = values[0] - values[1]
    assert np.abs(error).max() <= 7 * of_a_mean * np.sqrt(ROUNDS)
    assert error.std() == pytest.approx(of_a_mean * np.sqrt(ROUNDS), rel=0.2)


@contextlib.asynccontextmanager
async def running_federation(tmp_path, amqp_url, postgres_url, trained=ScriptedTrainer, policies=None):
    """Services as processes, workers in this process under `policies`, and a tap; yields (processes, tap,
    infrastructure)."""
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
            trainer, policy = trained(client_id, DIMENSION), (policies or {}).get(client_id, OPENED)
            await stack.enter_async_context(worker(client_id, endpoints, tmp_path, trainer, policy))
        yield processes, tap, infrastructure


async def submit(infrastructure, job):
    """Publish the job as the gateway would."""
    await infrastructure.bus.publish(
        Envelope.wrap(JobSubmitted(job_id="job-1", specification=job), correlation_id="job-1")
    )


async def end_of(job, infrastructure, tap, schedule, processes):
    """Submit the job and kill by the schedule until it ends, with everything running again."""
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
    return ended


async def ledger(postgres_url):
    """The accountant's journal, decoded."""
    units = await open_units(postgres_url, "accountant", SystemClock(), lambda: "")
    async with units.begin() as unit:
        entries = [json.loads(entry.body) for entry in await unit.read("ledger")]
    await units.close()
    return entries


def committed(tap):
    return {(e.client_id, e.round_id) for e in tap.of(LedgerExtended) if e.outcome == "committed"}


@pytest.mark.parametrize(
    ("seed", "secure", "at_release"), [(1, "oneshot", 2), (2, "oneshot", 0), (2, "none", 0)]
)
async def test_killing_any_service_at_any_event_changes_nothing(
    seed, secure, at_release, tmp_path, amqp_url, postgres_url
):
    print(f"seed {seed}")
    job = specification(secure)
    async with running_federation(tmp_path, amqp_url, postgres_url) as (processes, tap, infrastructure):
        schedule = KillSchedule(processes, seed, kills=10, every=6, at_release=at_release)
        ended = await end_of(job, infrastructure, tap, schedule, processes)
        assert ended.outcome == "completed", (ended.reason, processes.killed)
        assert len(processes.killed) >= 5
        assert len(schedule.released) == at_release
        assert not tap.of(RoundAborted)
        assert {event.number for event in tap.of(RoundCompleted)} == set(range(1, ROUNDS + 1))
        await assert_expected(infrastructure, job, ended)
        assert not await infrastructure.bus.dead_letters()
        # An accountant that was killed a moment ago has yet to hear what the last round cost.
        await tap.until(lambda: len(committed(tap)) == len(CLIENTS) * ROUNDS, 90)
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
    job = specification(count=1, min_clients=3, clients_per_round=4, gather_s=90, deadline_s=12)
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
        await assert_expected(infrastructure, specification(), ended)
