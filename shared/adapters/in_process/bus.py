"""Queues, consumers and deliveries of the in-process bus."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shared.adapters.backoff import DELIVERY_LIMIT, delay_s
from shared.adapters.in_process.journal import MessageJournal
from shared.adapters.in_process.topics import Bindings
from shared.errors import Unavailable, Unroutable
from shared.events.base import Envelope
from shared.ports import Queue, Receiver

DEAD_QUEUE, DEAD_KEPT = "fl.dead", 10_000
log = structlog.get_logger()
_jitter = secrets.SystemRandom()


@dataclass(eq=False)
class _Message:
    envelope: Envelope
    attempt: int = 1
    row: int | None = None


@dataclass(eq=False)
class _Consumer:
    receive: Receiver
    prefetch: int
    in_flight: set[_Message] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    paused: bool = False


@dataclass(eq=False)
class _QueueState:
    queue: Queue
    messages: deque[_Message] = field(default_factory=deque)
    consumers: list[_Consumer] = field(default_factory=list)


class InProcessBus:
    """Topics, acknowledgement, redelivery, backoff and dead letters in one event loop.

    With a journal, whatever `publish` confirmed survives a killed process and is delivered again.
    """

    def __init__(self, journal: MessageJournal | None = None) -> None:
        self._journal = journal
        self._queues: dict[str, _QueueState] = {}
        self._bound = Bindings()
        self._dead: deque[tuple[Envelope, str]] = deque(maxlen=DEAD_KEPT)
        self._retries: set[asyncio.TimerHandle] = set()
        self._closed = False
        if journal is not None:
            self._dead.extend((envelope, reason) for _, _, reason, envelope in journal.take(DEAD_QUEUE))

    async def declare(self, queue: Queue) -> None:
        """See the port."""
        state = self._queues.get(queue.name)
        if state is not None:
            known = set(state.queue.bindings)
            added = tuple(binding for binding in queue.bindings if binding not in known)
            state.queue = Queue(**{**vars(queue), "bindings": state.queue.bindings + added})
            self._bound.add(queue.name, added)
            return
        state = self._queues[queue.name] = _QueueState(queue)
        self._bound.add(queue.name, queue.bindings)
        if self._journal is not None:
            left = self._journal.take(queue.name)
            state.messages.extend(_Message(envelope, attempt + 1, row) for row, attempt, _, envelope in left)

    async def publish(self, envelope: Envelope) -> None:
        """See the port."""
        if self._closed:
            raise Unavailable("the bus is closed")
        targets = [self._queues[name] for name in self._bound.queues(envelope.channel, envelope.routing_key)]
        if not targets:
            if envelope.mandatory:
                raise Unroutable(f"no queue takes {envelope.routing_key}")
            return
        rows: list[int] | list[None] = [None] * len(targets)
        if self._journal is not None and not envelope.ephemeral:
            rows = self._journal.add([state.queue.name for state in targets], envelope)
        for state, row in zip(targets, rows, strict=True):
            state.messages.append(_Message(envelope, row=row))
            self._dispatch(state)

    async def subscribe(self, queue: Queue, receive: Receiver) -> "InProcessSubscription":
        """See the port."""
        await self.declare(queue)
        state = self._queues[queue.name]
        consumer = _Consumer(receive, queue.prefetch)
        state.consumers.append(consumer)
        self._dispatch(state)
        return InProcessSubscription(self, state, consumer)

    async def dead_letters(self, limit: int = 100) -> Sequence[tuple[Envelope | None, str]]:
        """See the port."""
        return list(self._dead)[-limit:]

    def healthy(self) -> bool:
        """See the port."""
        return not self._closed

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        for retry in self._retries:
            retry.cancel()
        for state in self._queues.values():
            for consumer in list(state.consumers):
                await self._remove(state, consumer)
        if self._journal is not None:
            self._journal.close()

    def _dispatch(self, state: _QueueState) -> None:
        """Hand messages to consumers that have room; with `single_active`, to the first alone."""
        if self._closed:
            return
        consumers = state.consumers[:1] if state.queue.single_active else state.consumers
        while state.messages:
            free = [c for c in consumers if not c.paused and len(c.in_flight) < c.prefetch]
            if not free:
                return
            consumer = min(free, key=lambda c: len(c.in_flight))
            message = state.messages.popleft()
            consumer.in_flight.add(message)
            delivery = InProcessDelivery(self, state, consumer, message)
            task = asyncio.get_running_loop().create_task(_deliver(consumer.receive, delivery))
            consumer.tasks.add(task)
            task.add_done_callback(consumer.tasks.discard)

    def _settle(self, state: _QueueState, consumer: _Consumer, message: _Message) -> bool:
        """Take the message out of flight; False when a verdict comes too late to count."""
        if message not in consumer.in_flight:
            return False
        consumer.in_flight.discard(message)
        self._dispatch(state)
        return True

    def _acknowledge(self, message: _Message) -> None:
        if self._journal is not None and message.row is not None and not self._closed:
            self._journal.forget(message.row)

    def _retry(self, state: _QueueState, message: _Message, reason: str) -> None:
        if message.attempt >= DELIVERY_LIMIT:
            self._put_aside(message, f"after {message.attempt} attempts: {reason}")
            return
        wait_s = delay_s(message.attempt, _jitter.random())
        message.attempt += 1
        handle: asyncio.TimerHandle

        def again() -> None:
            self._retries.discard(handle)
            state.messages.append(message)
            self._dispatch(state)

        handle = asyncio.get_running_loop().call_later(wait_s, again)
        self._retries.add(handle)

    def _put_aside(self, message: _Message, reason: str) -> None:
        self._dead.append((message.envelope, reason))
        if self._journal is not None and message.row is not None and not self._closed:
            self._journal.move(message.row, DEAD_QUEUE, reason)

    async def _remove(self, state: _QueueState, consumer: _Consumer) -> None:
        """Drop the consumer; what it has not answered goes back to the front."""
        if consumer in state.consumers:
            state.consumers.remove(consumer)
        current = asyncio.current_task()
        tasks = [task for task in consumer.tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for message in consumer.in_flight:
            if message.attempt >= DELIVERY_LIMIT:
                self._put_aside(message, f"after {message.attempt} attempts: its consumers went away")
            else:
                message.attempt += 1
                state.messages.appendleft(message)
        consumer.in_flight.clear()
        self._dispatch(state)


class InProcessSubscription:
    """A running consumer."""

    def __init__(self, bus: InProcessBus, state: _QueueState, consumer: _Consumer) -> None:
        self._bus, self._state, self._consumer = bus, state, consumer

    async def pause(self) -> None:
        """See the port."""
        self._consumer.paused = True

    async def cancel(self) -> None:
        """See the port."""
        await self._bus._remove(self._state, self._consumer)


class InProcessDelivery:
    """One attempt."""

    def __init__(self, bus: InProcessBus, state: _QueueState, consumer: _Consumer, message: _Message) -> None:
        self._bus, self._state, self._consumer, self._message = bus, state, consumer, message
        self._attempt = message.attempt

    @property
    def envelope(self) -> Envelope:
        """The message."""
        return self._message.envelope

    @property
    def attempt(self) -> int:
        """See the port."""
        return self._attempt

    async def ack(self) -> None:
        """See the port."""
        if self._bus._settle(self._state, self._consumer, self._message):
            self._bus._acknowledge(self._message)

    def forget_body(self) -> None:
        """See the port. The queue itself lives in this process and has the only copy."""

    async def retry(self, reason: str) -> None:
        """See the port."""
        if self._bus._settle(self._state, self._consumer, self._message):
            self._bus._retry(self._state, self._message, reason)

    async def dead_letter(self, reason: str) -> None:
        """See the port."""
        if self._bus._settle(self._state, self._consumer, self._message):
            self._bus._put_aside(self._message, reason)


async def _deliver(receive: Receiver, delivery: InProcessDelivery) -> None:
    try:
        await receive(delivery)
    except Exception as error:
        log.exception("receiver failed", event_id=delivery.envelope.event_id)
        await delivery.retry(f"{type(error).__name__}: {error}")


async def open_in_process(journal: Path | None = None) -> InProcessBus:
    """A bus for this process, with what an earlier one left in `journal`."""
    return InProcessBus(None if journal is None else MessageJournal(journal))
