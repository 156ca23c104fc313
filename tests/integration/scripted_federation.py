"""An embedded federation whose clients are scripts: they sign and seal real updates without training."""

import asyncio
import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.accountant.__main__ import build as build_accountant
from services.accountant.settings import AccountantSettings
from services.coordinator.__main__ import build as build_coordinator
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.state import Client
from services.robust_aggregator.__main__ import build as build_robust
from services.secure_aggregation.__main__ import build as build_secure
from services.secure_aggregation.settings import SecureAggregationSettings
from shared.adapters.cache import MemoryCache
from shared.adapters.infrastructure import Endpoints, open_bus, open_infrastructure
from shared.core.compression import compress
from shared.core.lora import flatten, unflatten
from shared.core.secagg import chunks, fixed_point, sealing
from shared.events import (
    BudgetSpent,
    ClientDeclined,
    ClientJoined,
    ClientReady,
    ClientReinstated,
    ClientSuspended,
    GroupFailed,
    GroupSummed,
    JobAnnounced,
    JobClosed,
    JobEnded,
    JobSubmitted,
    JobWaiting,
    LedgerExtended,
    RoundAborted,
    RoundClosed,
    RoundCompleted,
    RoundOpened,
    RoundStarted,
    UpdateAggregated,
    UpdateSubmitted,
)
from shared.events.base import Envelope
from shared.events.values import Layout, TensorSpec
from shared.job.specification import JobSpecification
from shared.ports import Queue
from shared.sessions.contents import Contents
from shared.sessions.terms import SessionTerms

OBSERVED = (
    JobEnded, RoundCompleted, RoundAborted, RoundOpened, LedgerExtended, GroupSummed, GroupFailed,
    UpdateAggregated, ClientSuspended, ClientReinstated, JobWaiting,
)  # fmt: skip


def layout_of(dimension):
    return Layout(tensors=(TensorSpec(name="w.lora_B.weight", shape=(dimension,), trainable=True),))


def update_of(client_id, number, dimension):
    seed = int.from_bytes(hashlib.sha256(f"{client_id}/{number}".encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=dimension).astype(np.float32)


def mean_of(clients, number, dimension):
    total = sum(fixed_point.encode(update_of(c, number, dimension)).astype(np.int64) for c in clients)
    return np.asarray(fixed_point.decode(total) / len(clients), dtype=np.float32)


def padded_to(rank, name, values):
    """Zero beyond the first `rank` columns of B, or rows of A."""
    kept = np.zeros_like(values)
    part = (slice(None), slice(rank)) if ".lora_B." in name else (slice(rank), slice(None))
    kept[part] = values[part]
    return kept


@dataclass
class ScriptedClient:
    """Answers each announcement and each round at once; `silent` and `declines` make it misbehave."""

    client_id: str
    bus: object
    blobs: object
    dimension: int = 8
    silent: bool = False
    declines: bool | tuple[int, ...] = False  # or in rounds of these numbers
    garbage: bool = False
    copies: int = 1
    gate: asyncio.Event | None = None  # uploads wait for it
    sends: object = update_of  # (client_id, number, dimension) -> (dimension,) float32, or bytes as they are
    layout_dimension: int | None = None
    layout: Layout | None = None  # in place of one tensor of `dimension`
    rank: int | None = None
    started: list = field(default_factory=list)
    closed: list = field(default_factory=list)

    def __post_init__(self):
        seed = hashlib.sha256(self.client_id.encode()).digest()
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.said, self.handled = 0, set()

    async def say(self, event, correlation_id=""):
        self.said += 1
        envelope = Envelope.wrap(
            event, event_id=f"{self.client_id}-{self.said}", correlation_id=correlation_id
        )
        for _ in range(self.copies):
            await self.bus.publish(envelope)

    async def start(self):
        kinds = (JobAnnounced, RoundStarted, RoundClosed, JobClosed)
        bindings = tuple((kind.channel, kind.binding(self.client_id)) for kind in kinds)
        self.subscription = await self.bus.subscribe(Queue(f"{self.client_id}.inbox", bindings), self.receive)
        await self.say(
            ClientJoined(client_id=self.client_id, verify_key=self.key.public_key().public_bytes_raw())
        )

    async def receive(self, delivery):
        event = delivery.envelope.open()
        if delivery.envelope.event_id in self.handled:
            await delivery.ack()
            return
        self.handled.add(delivery.envelope.event_id)
        if isinstance(event, JobAnnounced):
            layout = self.layout or layout_of(self.layout_dimension or self.dimension)
            self.job = event.specification
            ready = ClientReady(
                client_id=self.client_id, job_id=event.job_id, layout=layout, records=50, rank=self.rank
            )
            await self.say(ready)
        elif isinstance(event, RoundStarted):
            self.started.append(event)
            await self.train(event)
        else:
            self.closed.append(event)
        await delivery.ack()

    def content(self, event):
        if self.layout is None:
            return self.sends(self.client_id, event.number, self.dimension)
        contents = Contents.of(self.job, self.layout, event.completed, event.round_id)
        update = self.sends(self.client_id, event.number, contents.dimension)
        if self.rank is not None:
            whole = unflatten(update, contents.shapes)
            small = {name: padded_to(self.rank, name, values) for name, values in whole.items()}
            update = flatten(small, [name for name, _ in contents.shapes])
        return update if contents.compression is None else compress(contents.compression, update)

    async def train(self, event):
        if self.silent:
            return
        if self.gate is not None:
            await self.gate.wait()
        if self.declines is True or (self.declines and event.number in self.declines):
            await self.say(
                ClientDeclined(
                    client_id=self.client_id,
                    job_id=event.job_id,
                    round_id=event.round_id,
                    group_id=event.group_id,
                    reason="policy",
                )
            )
            return
        context = sealing.UploadContext(event.job_id, event.round_id, event.group_id, self.client_id)
        content = self.content(event)
        if not isinstance(content, bytes):
            content = fixed_point.to_bytes(fixed_point.encode(content))
        content = b"junk" if self.garbage else content
        terms = SessionTerms.from_bytes(await self.blobs.get(event.terms))
        for chunk in chunks.split(sealing.seal(content, terms.aggregation_keys[0], context.info)):
            message = sealing.signing_message(context, chunk.index, chunk.count, chunk.sha256, chunk.payload)
            await self.say(
                UpdateSubmitted(
                    **vars(context), index=chunk.index, count=chunk.count, upload_sha256=chunk.sha256,
                    payload=chunk.payload, signature=sealing.sign(self.key, message),
                ),
                event.round_id,
            )  # fmt: skip
        await self.say(
            BudgetSpent(
                client_id=self.client_id, job_id=event.job_id, round_id=event.round_id,
                reservation_id=event.reservation.reservation_id, steps=event.reservation.mechanism.steps,
            ),
            event.round_id,
        )  # fmt: skip


def specification(**changes):
    body = {
        "name": "scripted",
        "model": {"base": "minilm", "task": "causal-lm"},
        "data": {"text": "text"},
        "training": {"local_steps": 2},
        "privacy": {"noise_multiplier": 2.0, "sampling_rate": 0.1},
        "aggregation": {"secure": "none"},
        "rounds": {"count": 2, "min_clients": 2, "deadline_s": 20, "gather_s": 5},
    }
    for section, values in changes.items():
        body[section] = {**body.get(section, {}), **values}
    return JobSpecification.model_validate(body)


@dataclass
class Federation:
    """The services, the clients, and everything that observers were told."""

    bus: object
    blobs: object
    services: dict
    restart: object
    clients: dict
    seen: list
    changed: asyncio.Condition

    async def submit(self, job, job_id="job", event_id="submission"):
        event = JobSubmitted(job_id=job_id, specification=job)
        await self.bus.publish(Envelope.wrap(event, event_id=event_id, correlation_id=job_id))

    async def registered(self):
        """Return once the coordinator knows every client."""
        count = 0

        async def look(unit):
            nonlocal count
            count = len(await unit.select(Client))

        async with asyncio.timeout(20):
            while count < len(self.clients):
                await self.services["coordinator"].transact(look)
                await asyncio.sleep(0.01)

    async def until(self, kind, count=1, timeout_s=60, job_id="job"):
        def found():
            events = {str(e): e for e in self.seen if isinstance(e, kind) and e.job_id == job_id}
            return list(events.values())

        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(lambda: len(found()) >= count)
        return found()

    def of(self, kind):
        return [event for event in self.seen if isinstance(event, kind)]


@asynccontextmanager
async def federation(
    folder,
    names,
    *,
    bus_url="memory://",
    wrap=lambda bus: bus,
    settings=None,
    accountant=None,
    services=None,
    **options,
):
    """Everything but the gateway, on one bus, with SQLite in `folder`; `services` replace or add to its own."""
    async with AsyncExitStack() as stack:
        endpoints = Endpoints(home=folder, bus=bus_url, telemetry="off")
        folder.mkdir(parents=True, exist_ok=True)
        bus = await open_bus(endpoints)
        stack.push_async_callback(bus.close)
        cache, more, services, running = MemoryCache(), services or {}, {}, {}
        settings = settings or CoordinatorSettings(look_again_s=0.2)
        plan = {
            "coordinator": lambda i: build_coordinator(i, settings),
            "accountant": lambda i: build_accountant(i, accountant or AccountantSettings()),
            "secure_aggregation": lambda i: build_secure(
                i, SecureAggregationSettings(key_file=folder / "key", rebuild_s=0)
            ),
            "robust_aggregator": build_robust,
            **more,
        }

        async def start(name):
            infrastructure = await open_infrastructure(name, endpoints, bus=wrap(bus), cache=cache)
            services[name] = await plan[name](infrastructure)
            stop, started = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(services[name].run(stop, started))
            await started.wait()
            running[name] = (infrastructure, stop, task)

        async def finish(name):
            infrastructure, stop, task = running.pop(name)
            stop.set()
            await task
            await infrastructure.close()

        async def restart(name):
            await finish(name)
            await start(name)

        async def finish_all():
            for name in list(running):
                await finish(name)

        stack.push_async_callback(finish_all)
        for name in plan:
            await start(name)
        blobs = running["coordinator"][0].blobs
        result = Federation(bus, blobs, services, restart, {}, [], asyncio.Condition())

        async def observe(delivery):
            async with result.changed:
                result.seen.append(delivery.envelope.open())
                result.changed.notify_all()
            await delivery.ack()

        bindings = tuple((kind.channel, kind.binding()) for kind in OBSERVED)
        await bus.subscribe(Queue("observer", bindings), observe)
        for name in names:
            client = ScriptedClient(name, wrap(bus), blobs, **options.get(name, options.get("every", {})))
            result.clients[name] = client
            await client.start()
        await result.registered()
        yield result
