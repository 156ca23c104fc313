"""The one loop of every service: decode, deduplicate, handle, commit, acknowledge, publish."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog

from shared.adapters.backoff import longest_delay_s
from shared.adapters.infrastructure import Infrastructure
from shared.adapters.telemetry import bind
from shared.errors import Rejected, Stale, Unavailable
from shared.events.base import Channel, DeadlinePassed, Envelope, Event
from shared.outbox_relay import OutboxRelay
from shared.ports import Delivery, Queue, QueueKind, UnitOfWork

C = TypeVar("C")
Handlers = Mapping[type[Event], Callable[[Any, UnitOfWork, C], Awaitable[None]]]
log = structlog.get_logger()

DRAIN_S = 30.0


def queue_for(
    name: str,
    handlers: Iterable[type[Event]],
    *,
    prefetch: int = 64,
    single_active: bool = False,
    shards: Iterable[int] | None = None,
) -> Queue:
    """The service's queue; its bindings follow from the events that it handles. Of sharded ones it takes
    `shards`, or all."""
    return Queue(name, _bindings(handlers, "*", shards), prefetch=prefetch, single_active=single_active)


def inbox_for(client_id: str, handlers: Iterable[type[Event]]) -> Queue:
    """One client's inbox: what is directed to it, and nothing else."""
    return Queue(f"{client_id}.inbox", _bindings(handlers, client_id), kind=QueueKind.INBOX, prefetch=16)


def _bindings(
    handlers: Iterable[type[Event]], client_id: str, shards: Iterable[int] | None = None
) -> tuple[tuple[Channel, str], ...]:
    wanted = (None,) if shards is None else tuple(shards)
    return tuple(
        (kind.channel, kind.binding(client_id, shard))
        for kind in handlers
        if kind is not DeadlinePassed
        for shard in (wanted if kind.sharded else (None,))
    )


class Service(Generic[C]):
    """A queue, a table of handlers and their context, run against an infrastructure.

    A handler's outcome is an exception (shared/errors.py): Stale is acknowledged, Unavailable is
    delivered again, Rejected is dead-lettered; anything else is a defect, logged and delivered
    again until the queue's delivery limit puts it aside.
    """

    def __init__(
        self,
        name: str,
        queue: Queue,
        handlers: Handlers[C],
        context: C,
        infrastructure: Infrastructure,
    ) -> None:
        self.name = name
        self.context = context
        self.infrastructure = infrastructure
        self._queue, self._handlers = queue, handlers
        self._bus, self._units = infrastructure.bus, infrastructure.units
        self._telemetry, self._clock = infrastructure.telemetry, infrastructure.clock
        self._held: defaultdict[str, list[Delivery]] = defaultdict(list)
        self._in_flight: set[asyncio.Future[None]] = set()
        self._acknowledging: set[asyncio.Task[None]] = set()
        self._deadline_moved = asyncio.Event()
        self._failed_deadlines: dict[str, tuple[int, datetime]] = {}  # failures, and when to try again
        self._relay = OutboxRelay(self._bus, self._units, self._clock)
        self._running = False
        self.alongside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext  # while it runs

    def ready(self) -> bool:
        """Whether messages are being taken and the broker answers."""
        return self._running and self._bus.healthy()

    async def run(self, stop: asyncio.Event, started: asyncio.Event | None = None) -> None:
        """Work until `stop`; then finish what is in flight, publish what was committed, and return."""
        async with self.alongside():
            await self._run(stop, started)

    async def _run(self, stop: asyncio.Event, started: asyncio.Event | None) -> None:
        subscription = await self._bus.subscribe(self._queue, self._receive)
        loops = [asyncio.create_task(self._relay.run()), asyncio.create_task(self._watch_deadlines())]
        self._running = True
        if started is not None:
            started.set()
        log.info("started", service=self.name, queue=self._queue.name)
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self._running = False
            await subscription.pause()
            if self._in_flight:
                await asyncio.wait(self._in_flight, timeout=DRAIN_S)
            for loop in loops:
                loop.cancel()
            ended = await asyncio.gather(*loops, return_exceptions=True)
            await self._relay.flush()
            if self._acknowledging:
                await asyncio.wait(self._acknowledging, timeout=DRAIN_S)
            await subscription.cancel()
            log.info("stopped", service=self.name)
        for failure in ended:
            if isinstance(failure, Exception):  # a defect: whoever supervises the process restarts it
                raise failure

    async def transact(self, work: Callable[[UnitOfWork], Awaitable[None]]) -> None:
        """A transaction outside any message. What it publishes goes out at once.

        Raises: RuntimeError within a handler on SQLite: the handler's own transaction is open.
        """
        async with self._units.begin() as unit:
            await work(unit)
        self._wake(unit)

    def _wake(self, unit: UnitOfWork) -> None:
        self._relay.committed(unit.outgoing)
        if unit.moved_deadlines:
            self._deadline_moved.set()

    async def _receive(self, delivery: Delivery) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight.add(done)
        try:
            with bind(self.name, delivery.envelope):
                await self._answer(delivery)
        finally:
            self._in_flight.discard(done)
            done.set_result(None)

    async def _answer(self, delivery: Delivery) -> None:
        """Handle one message and give its verdict."""
        envelope = delivery.envelope
        if envelope.event_id in self._held:
            # A copy of an upload that is held: whoever releases it acknowledges both.
            self._held[envelope.event_id].append(delivery)
            return
        self._telemetry.count("messages", type=envelope.type_name)
        try:
            await self._handle(envelope, delivery)
        except Stale as outcome:
            log.debug("stale", reason=str(outcome))
            await delivery.ack()
        except Unavailable as outcome:
            log.info("unavailable", reason=str(outcome), attempt=delivery.attempt)
            await delivery.retry(str(outcome))
        except Rejected as outcome:
            log.warning("rejected", reason=str(outcome))
            self._telemetry.count("dead_letters", type=envelope.type_name)
            await delivery.dead_letter(str(outcome))
        except Exception as error:
            log.exception("handler failed", attempt=delivery.attempt)
            await delivery.retry(f"{type(error).__name__}: {error}")

    async def _handle(self, envelope: Envelope, delivery: Delivery | None) -> None:
        """One event in one transaction, then the acknowledgements that its commit allows."""
        event = envelope.open()
        handler = self._handlers.get(type(event))
        if handler is None:
            raise Rejected(f"{self.name} does not handle {envelope.type_name}")
        with self._telemetry.process(envelope):
            try:
                async with self._units.begin(envelope) as unit:
                    await handler(event, unit, self.context)
                    if unit.held_under is not None and delivery is not None:
                        # Before the commit: whoever releases the key after it must find this delivery.
                        self._held[envelope.event_id].append(delivery)
            except BaseException:
                await self._let_go(envelope.event_id, delivery)
                raise
            self._wake(unit)
            if unit.held_under is None and delivery is not None:
                await delivery.ack()
            elif delivery is not None:
                delivery.forget_body()
            released = [held for event_id in unit.released for held in self._held.pop(event_id, [])]
            if released:
                task = asyncio.create_task(self._acknowledge(released))
                self._acknowledging.add(task)
                task.add_done_callback(self._acknowledging.discard)

    async def _acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """After what the commit published is out: nobody waits for these. One that is lost comes again,
        and is known to the inbox."""
        await self._relay.caught_up()
        for delivery in deliveries:
            await delivery.ack()

    async def _let_go(self, event_id: str, delivery: Delivery | None) -> None:
        """After a failed hold: its redelivery is handled anew, and copies that joined it come again."""
        for held in self._held.pop(event_id, []):
            if held is not delivery:
                await held.retry("the transaction that held its twin failed")

    async def _watch_deadlines(self) -> None:
        """Handle each deadline when it comes."""
        unread = 0
        while True:
            self._deadline_moved.clear()
            following: datetime | None
            try:
                due, following = await self._units.due(self._clock.now())
                unread = 0
            except Unavailable as error:
                log.warning("deadlines not read", reason=str(error))
                unread += 1
                following = self._clock.now() + timedelta(seconds=longest_delay_s(unread))
            else:
                for envelope in due:
                    await self._fire(envelope)
                known = {envelope.event_id for envelope in due}
                self._failed_deadlines = {k: v for k, v in self._failed_deadlines.items() if k in known}
            moments = [again for _, again in self._failed_deadlines.values()]
            await self._sleep_until(min([*moments, *([following] if following else [])], default=None))

    async def _fire(self, envelope: Envelope) -> None:
        """Handle a deadline that has come, or try again later what failed."""
        failures, again = self._failed_deadlines.get(envelope.event_id, (0, None))
        if again is not None and self._clock.now() < again:
            return
        try:
            with bind(self.name, envelope):
                await self._fire_once(envelope)
            self._failed_deadlines.pop(envelope.event_id, None)
        except Exception as error:
            if isinstance(error, Unavailable):
                log.info("deadline postponed", reason=str(error))
            else:
                log.exception("deadline handler failed", attempt=failures + 1)
            wait = timedelta(seconds=longest_delay_s(failures + 1))
            self._failed_deadlines[envelope.event_id] = failures + 1, self._clock.now() + wait

    async def _fire_once(self, envelope: Envelope) -> None:
        """Handle a deadline; one without effect is forgotten in a transaction of its own."""
        try:
            await self._handle(envelope, None)
        except (Stale, Rejected) as outcome:
            log.debug("deadline without effect", reason=str(outcome))
            with suppress(Stale):  # it was moved, or another replica has handled it
                async with self._units.begin(envelope):
                    pass

    async def _sleep_until(self, moment: datetime | None) -> None:
        """Until `moment`, or until a transaction may have moved a deadline."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._deadline_moved.wait())]
        if moment is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep_until(moment)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
