"""From the last upload to the published aggregate: `python benchmarks/round_latency.py`.

A private RabbitMQ and PostgreSQL, the secure-aggregation and robust-aggregator processes as deployed,
and a committee of real key holders in one process. The clients are simulated, what they send is not: each
encrypts, shares, seals and signs. The clock runs from before the last client's last chunk is published until
the aggregate's event is back: broker, stores, committee and all. Every process shares the machine.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.client.sessions.oneshot import Encrypted
from services.key_holder.__main__ import build
from services.key_holder.settings import KeyHolderSettings
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.core.secagg import chunks, sealing
from shared.errors import Unavailable
from shared.events import (
    GroupFailed,
    GroupSummed,
    SessionOpened,
    SessionRequested,
    StageBegun,
    UpdateAggregated,
    UpdateSubmitted,
)
from shared.events.base import Envelope, unpack
from shared.events.plans import SessionPlan
from shared.events.values import Member
from shared.ports import Queue
from shared.sessions.terms import SessionTerms
from tests.servers.postgres import execute, postgres_server
from tests.servers.rabbitmq import rabbitmq_server

SERVICES = ("secure_aggregation", "robust_aggregator")
TAPPED = (SessionOpened, StageBegun, GroupSummed, GroupFailed, UpdateAggregated)


async def _hold(endpoints: Endpoints, names: list[str]) -> None:
    async with AsyncExitStack() as stack:
        for name in names:
            home = endpoints.home / name
            own = endpoints.model_copy(update={"home": home, "database": ""})
            infrastructure = await open_infrastructure(name, own)
            stack.push_async_callback(infrastructure.close)
            holder = await build(infrastructure, KeyHolderSettings(holder_id=name, home=home))
            asyncio.create_task(holder.run(asyncio.Event()))
        await asyncio.Event().wait()


def hold(endpoints: Endpoints, names: list[str]) -> None:
    """The body of the process in which key holders live."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(_hold(endpoints, names))


@dataclass
class Driver:
    """Coordinator and clients, in one process."""

    infrastructure: Infrastructure
    dimension: int
    keys: dict[str, Ed25519PrivateKey]
    holders: tuple[str, ...]
    pause_s: float
    heard: dict[type, asyncio.Queue] = field(
        default_factory=lambda: {kind: asyncio.Queue() for kind in TAPPED}
    )
    relayed: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Tap what the services publish, and what one key holder is told."""
        client_of = {StageBegun: self.holders[0]}
        bindings = tuple((kind.channel, kind.binding(client_of.get(kind, "*"))) for kind in TAPPED)

        async def hear(delivery) -> None:
            event = delivery.envelope.open()
            if isinstance(event, StageBegun):
                self.relayed |= unpack(event.payload).get("shares", {}).keys()
                self.changed.set()
            await self.heard[type(event)].put((perf_counter(), event))
            await delivery.ack()

        await self.infrastructure.bus.subscribe(Queue("driver", bindings), hear)

    async def round(self, number: int) -> tuple[float, float]:
        """Seconds from the last upload to the aggregate, and to the sum."""
        terms = await self.open(f"job-r{number}")
        update = np.random.default_rng(number).normal(scale=0.01, size=self.dimension).astype(np.float32)
        *early, last = self.keys
        self.relayed.clear()
        limit = asyncio.Semaphore(4)

        async def upload(client: str) -> None:
            async with limit:
                for envelope in await asyncio.to_thread(self.encrypted, client, terms, update):
                    await self.infrastructure.bus.publish(envelope)

        await asyncio.gather(*(upload(client) for client in early))
        while len(self.relayed) < len(early):
            self.changed.clear()
            await self.changed.wait()
        final = self.encrypted(last, terms, update)
        await asyncio.sleep(self.pause_s)
        for envelope in final[:-1]:
            await self.infrastructure.bus.publish(envelope)
        start = perf_counter()
        await self.infrastructure.bus.publish(final[-1])
        aggregated = asyncio.create_task(self.heard[UpdateAggregated].get())
        failed = asyncio.create_task(self.heard[GroupFailed].get())
        done, _ = await asyncio.wait({aggregated, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed in done:
            raise SystemExit(f"the group failed: {failed.result()[1].reason}")
        failed.cancel()
        at, event = aggregated.result()
        summed, _ = await self.heard[GroupSummed].get()
        got = np.frombuffer(await self.infrastructure.blobs.get(event.update), "<f4")
        error = float(np.abs(got - update).max())
        if len(event.weights) != len(self.keys) or error > 1e-3:
            raise SystemExit(f"{len(event.weights)} updates, error {error}")
        return at - start, summed - start

    async def open(self, round_id: str) -> SessionTerms:
        """Ask for a session."""
        event = SessionRequested(
            job_id="job",
            round_id=round_id,
            group_id=f"{round_id}-g1",
            members={
                name: Member(verify_key=key.public_key().public_bytes_raw())
                for name, key in self.keys.items()
            },
            plan=SessionPlan(
                protocol="oneshot", bits=16, bound=0.1, rotate=False, committee=self.holders, stage_s=60.0
            ),
            layout_sha256="0" * 64,
            dimension=self.dimension,
            deadline=datetime.now(UTC) + timedelta(hours=1),
        )
        while True:
            try:
                await self.infrastructure.bus.publish(Envelope.wrap(event, correlation_id=round_id))
                break
            except Unavailable:  # no queue yet: the service is starting
                await asyncio.sleep(0.2)
        _, opened = await self.heard[SessionOpened].get()
        return SessionTerms.from_bytes(await self.infrastructure.blobs.get(opened.terms))

    def encrypted(self, client: str, terms: SessionTerms, update: np.ndarray) -> list[Envelope]:
        """One client's upload, as a worker makes it."""
        key = self.keys[client]
        content = Encrypted(terms, client, key).encrypt(b"", update, os.urandom).content
        sender = terms.sender(client)
        envelopes = []
        for chunk in chunks.split(sealing.seal(content, terms.aggregation_keys[0], sender.info)):
            message = sealing.signing_message(sender, chunk.index, chunk.count, chunk.sha256, chunk.payload)
            event = UpdateSubmitted(
                **vars(sender),
                index=chunk.index,
                count=chunk.count,
                upload_sha256=chunk.sha256,
                payload=chunk.payload,
                signature=sealing.sign(key, message),
            )
            envelopes.append(Envelope.wrap(event, correlation_id=terms.round_id))
        return envelopes


def memory_mib(pid: int, field_name: str) -> float:
    """VmRSS or VmHWM of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(field_name))
    return int(line.split()[1]) / 1024


async def measure(options: argparse.Namespace, endpoints: Endpoints, pids: dict[str, int]) -> None:
    """Run the rounds and print what they took."""
    keys = {f"client-{n}": Ed25519PrivateKey.generate() for n in range(options.clients)}
    holders = tuple(f"holder-{n}" for n in range(options.holders))
    infrastructure = await open_infrastructure("driver", endpoints.model_copy(update={"database": ""}))
    driver = Driver(infrastructure, options.dimension, keys, holders, options.pause)
    await driver.listen()
    took, sums = [], []
    for number in range(options.rounds + 1):
        begin = perf_counter()
        aggregate_s, sum_s = await driver.round(number)
        resident = memory_mib(pids["secure_aggregation"], "VmRSS")
        peak = memory_mib(pids["secure_aggregation"], "VmHWM")
        print(
            f"round {number}: aggregate after {aggregate_s * 1e3:6.1f} ms, sum after {sum_s * 1e3:6.1f} ms; "
            f"whole round {perf_counter() - begin:5.1f} s; service {resident:.0f} MiB, peak {peak:.0f}",
            flush=True,
        )
        if number:  # the first one compiles
            took.append(aggregate_s * 1e3)
            sums.append(sum_s * 1e3)
    took.sort()
    p99 = took[min(len(took) - 1, int(0.99 * len(took)))]
    print(
        f"n = {options.clients}, d = {options.dimension}, C = {options.holders}, {len(took)} rounds: "
        f"p50 {statistics.median(took):.1f} ms, p99 {p99:.1f} ms (below 100 rounds: the largest); "
        f"to the sum p50 {statistics.median(sums):.1f} ms"
    )
    await infrastructure.close()


def main() -> None:
    """Start everything, measure, stop what was started."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=100_000)
    parser.add_argument("--holders", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds before the last upload, for the broker to write"
    )
    parser.add_argument("--logs", action="store_true", help="let the services log")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with ExitStack() as stack:
        server = stack.enter_context(rabbitmq_server())
        postgres = stack.enter_context(postgres_server())
        asyncio.run(execute(postgres, "CREATE DATABASE latency"))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="fedlora-latency-")))
        settings = {
            "bus": server.url(),
            "database": f"{postgres}/latency",
            "blobs": str(folder / "blobs"),
            "home": folder,
            "telemetry": "off",
        }
        environment = {f"FEDLORA_{name.upper()}": str(value) for name, value in settings.items()}
        environment["FEDLORA_SECURE_AGGREGATION_KEY_FILE"] = str(folder / "aggregation.key")
        pids = {}
        for name in SERVICES:
            process = subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                env={**os.environ, **environment},
                stdout=None if options.logs else subprocess.DEVNULL,
                stderr=None if options.logs else subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            pids[name] = process.pid
        endpoints = Endpoints(**settings)
        names = [f"holder-{n}" for n in range(options.holders)]
        context = multiprocessing.get_context("spawn")
        committee = context.Process(target=hold, args=(endpoints, names), daemon=True)
        committee.start()
        stack.callback(committee.terminate)
        asyncio.run(measure(options, endpoints, pids))


if __name__ == "__main__":
    main()
