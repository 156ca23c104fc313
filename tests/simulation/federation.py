"""A federation on real servers: each service a process that can be killed, clients that are real workers.

The workers run in the test's process with a scripted trainer, so that the adapter that must come out
is known: within the predicted error of the protocol, or to the bit where the owner's policy allows `none`.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from services.client.__main__ import build
from services.client.settings import ClientSettings
from services.client.trainer import Cancelled, Prepared, TrainingResult
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.errors import Rejected
from shared.events import Channel, Event, StageBegun
from shared.events.base import decode
from shared.sessions.holding import RELEASE
from tests.integration.scripted_federation import layout_of, update_of

SERVICES = ("coordinator", "accountant", "secure_aggregation", "robust_aggregator")
ROOT = Path(__file__).parents[2]


@dataclass
class ServiceProcesses:
    """The services as child processes that come back when they are killed."""

    environment: dict[str, str]
    folder: Path
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    async def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{name}",
                cwd=ROOT, env={**os.environ, **self.environment}, stdout=log, stderr=log,
            )  # fmt: skip

    async def kill(self, name: str) -> None:
        """kill -9, then start again."""
        self.running[name].send_signal(signal.SIGKILL)
        await self.running[name].wait()
        self.killed.append(name)
        await self.start(name)

    async def stop(self) -> dict[str, int]:
        """SIGTERM all; their exit codes."""
        for process in self.running.values():
            if process.returncode is None:
                process.terminate()
        return {name: await process.wait() for name, process in self.running.items()}

    def log_tails(self) -> str:
        """The end of each service's log, for a failing test's message."""
        tails = ((n, (self.folder / f"{n}.log").read_text("utf-8", "replace")[-3000:]) for n in self.running)
        return "\n".join(f"--- {name}\n{tail}" for name, tail in tails)


class Tap:
    """Sees every message on every exchange without taking part."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.watchers: list[Callable[[Event], None]] = []
        self._changed = asyncio.Condition()

    async def on_message(self, message: AbstractIncomingMessage) -> None:
        async with message.process():
            try:
                event = decode(str(message.type), message.body)
            except Rejected:
                return
            self.seen.append(event)
            for watcher in self.watchers:
                watcher(event)
            async with self._changed:
                self._changed.notify_all()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.seen if isinstance(event, kind)]

    async def first(self, kind: type[Event], timeout_s: float = 120) -> Event:
        await self.until(lambda: bool(self.of(kind)), timeout_s)
        return self.of(kind)[0]

    async def until(self, reached: Callable[[], bool], timeout_s: float = 120) -> None:
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(reached)


@asynccontextmanager
async def tapped(amqp_url: str) -> AsyncIterator[Tap]:
    """A tap on the three exchanges."""
    tap = Tap()
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await aio_pika.connect_robust(amqp_url))
        channel = await connection.channel()
        queue = await channel.declare_queue("tap", durable=True)
        for name in Channel:
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            await queue.bind(exchange, "#")
        await queue.consume(tap.on_message)
        yield tap
        await queue.delete(if_unused=False, if_empty=False)


@dataclass
class ScriptedTrainer:
    """Trains to a known update; `gate` holds it in training until set."""

    client_id: str
    dimension: int
    gate: asyncio.Event | None = None

    def prepare(self, job_id, specification, data, progress, start=b""):
        return Prepared(layout_of(self.dimension), 50, ())

    def train(self, task, progress, cancelled):
        if self.gate is not None:
            while not self.gate.is_set():
                if cancelled():
                    raise Cancelled("the round is over")
        number = int(task.round_id.rsplit("-r", 1)[1])
        return TrainingResult(
            update_of(self.client_id, number, self.dimension), task.mechanism.steps, 0.0, task.clip_norm
        )


@asynccontextmanager
async def worker(
    client_id: str, endpoints: Endpoints, folder: Path, trainer, policy: str = ""
) -> AsyncIterator[asyncio.Task]:
    """A real worker under its owner's `policy`, drained at the end."""
    home = folder / client_id
    home.mkdir(parents=True, exist_ok=True)
    (home / "worker.toml").write_text(policy)
    data = folder / f"{client_id}.txt"
    data.write_text("a record\n")
    own = endpoints.model_copy(update={"home": home, "database": ""})
    infrastructure = await open_infrastructure(client_id, own)
    settings = ClientSettings(client_id=client_id, home=home, data=data, heartbeat_s=1.0)
    service = await build(infrastructure, settings, trainer)
    stop, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(service.run(stop, started), name=f"worker {client_id}")
    await asyncio.wait({running, asyncio.ensure_future(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield running
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await infrastructure.close()


class KillSchedule:
    """At events that a seed chooses, kills services that the seed chooses, one after the other; and secure
    aggregation as soon as its survivor set is on the bus, in the first `at_release` rounds."""

    def __init__(
        self, processes: ServiceProcesses, seed: int, kills: int, every: int, at_release: int = 0
    ) -> None:
        self._processes, self._random, self._left = processes, random.Random(seed), kills
        self._at_release, self.released = at_release, set()
        self._every, self._count = every, 0
        self._due: asyncio.Queue[str | None] = asyncio.Queue()

    def watch(self, event: Event) -> None:
        if isinstance(event, StageBegun) and event.stage == RELEASE:
            self._release(event.round_id)
        if event.ephemeral or self._left == 0:
            return
        self._count += 1
        if self._random.randrange(self._every) == 0:
            self._left -= 1
            self._due.put_nowait(self._random.choice(SERVICES))

    def _release(self, round_id: str) -> None:
        if round_id not in self.released and len(self.released) < self._at_release:
            self.released.add(round_id)
            self._due.put_nowait("secure_aggregation")

    async def run(self) -> None:
        while (name := await self._due.get()) is not None:
            await self._processes.kill(name)

    def stop(self) -> None:
        """`run` returns after the kills that are due, everything running again."""
        self._left = 0
        self._due.put_nowait(None)
