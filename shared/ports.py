"""What services need from the world, as Protocols; adapters fulfil them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from shared.events.base import Channel, Envelope, Event
from shared.events.values import BlobRef


class Clock(Protocol):
    """Time, passed in."""

    def now(self) -> datetime:
        """The current time, timezone-aware, UTC."""
        ...

    async def sleep_until(self, moment: datetime) -> None:
        """Return at `moment`, at once when it has passed, or early: callers look at `now` again."""
        ...


class RandomSource(Protocol):
    """Cryptographic randomness; a seeded one exists in tests and simulations only."""

    def bytes(self, count: int) -> bytes:
        """`count` random bytes."""
        ...


class BlobStore(Protocol):
    """Content-addressed storage: a folder, or S3."""

    async def put(self, content: bytes) -> BlobRef:
        """Store and name `content`; storing the same content again changes nothing."""
        ...

    async def get(self, ref: BlobRef) -> bytes:
        """The content. Raises: Unavailable when absent or the store is away; Rejected when the
        stored bytes do not hash to `ref.sha256`."""
        ...


class Cache(Protocol):
    """Short-lived facts that may be lost: presence. In memory, or Redis."""

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """Remember `value` for `ttl_s` seconds."""
        ...

    async def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Those of `keys` that are remembered, with their values."""
        ...


class QueueKind(StrEnum):
    """Who owns a queue."""

    SERVICE = "service"  # shared by a service's replicas; retries go through a ladder of TTL queues
    INBOX = "inbox"  # one client's own; it may read it and nothing else


@dataclass(frozen=True)
class Queue:
    """A durable queue and the topics bound to it.

    Attributes:
        prefetch: deliveries in flight to one consumer.
        single_active: one consumer at a time gets everything; others stand by.
    """

    name: str
    bindings: tuple[tuple[Channel, str], ...]
    kind: QueueKind = QueueKind.SERVICE
    prefetch: int = 64
    single_active: bool = False


class Delivery(Protocol):
    """One attempt to deliver one message. Exactly one of the three verdicts is given, once."""

    @property
    def envelope(self) -> Envelope:
        """The message. Raises nothing: a message without valid headers never becomes a Delivery."""
        ...

    @property
    def attempt(self) -> int:
        """1 at first, one more for each retry or redelivery."""
        ...

    async def ack(self) -> None:
        """Done: the broker may forget it."""
        ...

    def forget_body(self) -> None:
        """The body was taken in and only `ack` will follow: free its memory."""
        ...

    async def retry(self, reason: str) -> None:
        """Deliver again after an exponential backoff with jitter; past the queue's delivery limit
        the message is dead-lettered with `reason`."""
        ...

    async def dead_letter(self, reason: str) -> None:
        """Put it aside, with the reason, where people look."""
        ...


Receiver = Callable[[Delivery], Awaitable[None]]


class Subscription(Protocol):
    """A running consumer."""

    async def pause(self) -> None:
        """Take no more messages; those in flight stay in flight."""
        ...

    async def cancel(self) -> None:
        """Stop; what is unanswered goes back to the queue."""
        ...


class Bus(Protocol):
    """Events from publishers to queues, at least once."""

    async def declare(self, queue: Queue) -> None:
        """Make the queue and its bindings; idempotent."""
        ...

    async def publish(self, envelope: Envelope) -> None:
        """Return once the broker has it safe.

        Raises: Unroutable when no queue takes a mandatory event; Unavailable when the broker is
            away. Either way the caller keeps the message and tries again.
        """
        ...

    async def subscribe(self, queue: Queue, receive: Receiver) -> Subscription:
        """Declare `queue` and call `receive` for its messages, up to `prefetch` at once."""
        ...

    async def dead_letters(self, limit: int = 100) -> Sequence[tuple[Envelope | None, str]]:
        """Look at what was put aside, with reasons, without removing it."""
        ...

    def healthy(self) -> bool:
        """Whether the broker answers at this moment."""
        ...

    async def close(self) -> None:
        """Leave; unanswered deliveries go back."""
        ...


class State(BaseModel):
    """A service's frozen, durable state. `kind` names the class; `key` tells instances apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]

    @property
    def key(self) -> tuple[str, ...]:
        """What identifies this instance, most general part first."""
        raise TypeError(f"{type(self).__name__} does not say what its key is")

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401 - validated field by field
        """A validated copy with `changes`."""
        return type(self).model_validate({**dict(self), **changes})


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class JournalEntry:
    """A line of an append-only, hash-chained journal.

    entry_sha256 = SHA-256(previous_sha256 || sequence as 8 bytes big-endian || body).
    """

    stream: str
    sequence: int  # from 1, without gaps
    previous_sha256: str
    entry_sha256: str
    body: bytes  # canonical JSON, UTF-8


class UnitOfWork(Protocol):
    """One event's transaction: what it reads, changes and publishes happens whole or not at all."""

    @property
    def now(self) -> datetime:
        """When handling began; the only clock a handler sees."""
        ...

    @property
    def trace(self) -> str:
        """traceparent of the root span of the event being handled, or empty."""
        ...

    async def load(self, kind: type[S], *key: str) -> S:
        """The state, locked until the end. Raises: Unavailable when it does not exist (yet)."""
        ...

    async def find(self, kind: type[S], *key: str) -> S | None:
        """As `load`, or None."""
        ...

    async def find_all(self, kind: type[S], keys: Iterable[tuple[str, ...]]) -> list[S]:
        """Those of `keys` that exist, locked until the end, in the order of their keys."""
        ...

    async def select(self, kind: type[S], *prefix: str) -> list[S]:
        """Every instance whose key starts with `prefix`, ordered by key; not locked."""
        ...

    async def save(self, state: State) -> None:
        """Insert or replace."""
        ...

    async def delete(self, state: State) -> None:
        """Forget."""
        ...

    def publish(self, event: Event, *, correlation_id: str = "", trace: str = "") -> None:
        """Put `event` in the outbox. Correlation and trace default to those of the event that is
        being handled; `trace` is the traceparent of a root span."""
        ...

    async def schedule(self, name: str, subject: tuple[str, ...], at: datetime, trace: str = "") -> None:
        """Handle DeadlinePassed(name, subject) at `at`; a repeat moves it."""
        ...

    async def unschedule(self, name: str, subject: tuple[str, ...]) -> None:
        """Forget the deadline."""
        ...

    async def append(self, stream: str, body: Mapping[str, Any]) -> JournalEntry:
        """Add a line to a journal, chained to the one before."""
        ...

    async def read(self, stream: str, after: int = 0, limit: int = 100_000) -> list[JournalEntry]:
        """Lines of a journal in order."""
        ...

    held_under: str | None  # set by `hold`; read by the service loop
    released: tuple[str, ...]  # after the commit: event_ids that `release` recorded
    outgoing: list[Envelope]  # what `publish` put in the outbox
    moved_deadlines: bool  # set by `schedule` and `unschedule`

    def hold(self, key: str) -> None:
        """Keep the delivery being handled unanswered, and unrecorded, until `release(key)` commits;
        after a crash the broker delivers it again. For uploads streamed into a sum."""
        ...

    def release(self, key: str) -> None:
        """At commit, record and acknowledge every delivery held under `key`."""
        ...


class UnitsOfWork(Protocol):
    """A service's durable side: transactions, and the rows that survive it."""

    def begin(self, cause: Envelope | None = None) -> AbstractAsyncContextManager[UnitOfWork]:
        """A transaction that commits when the block ends without an error.

        Raises: Stale on entry when `cause` was already handled; Unavailable on a lost race or when
            the database is away.
        """
        ...

    async def outgoing(self, limit: int = 256) -> Sequence[Envelope]:
        """Outbox rows that were committed and not yet published, oldest first."""
        ...

    async def published(self, event_ids: Sequence[str]) -> None:
        """Forget outbox rows that the broker has confirmed."""
        ...

    async def due(self, now: datetime) -> tuple[Sequence[Envelope], datetime | None]:
        """Deadlines that have come, as envelopes of DeadlinePassed, and when the next one comes.
        A deadline is gone once a transaction begun with its envelope commits."""
        ...

    async def healthy(self) -> bool:
        """Whether the database answers."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


class Telemetry(Protocol):
    """Spans and metrics, so that services need not know who collects them.

    The span in progress follows asyncio tasks and `asyncio.to_thread` (contextvars).
    """

    def process(self, envelope: Envelope) -> AbstractContextManager[None]:
        """The span of handling one message: child of the trace's root, linked to its producer."""
        ...

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[None]:  # noqa: ANN401
        """A piece of work within the span in progress; an error is recorded and passed on."""
        ...

    def resume(self, traceparent: str, name: str) -> AbstractContextManager[None]:
        """A span of work done outside any message's handling: a child of the root `traceparent`, which
        was kept in a state; the start of a trace of its own when that is empty."""
        ...

    def current(self) -> str:
        """traceparent of the span in progress, or empty."""
        ...

    def new_root(self) -> str:
        """The traceparent of a span that `export_root` will export when it is over."""
        ...

    def export_root(
        self, traceparent: str, name: str, start: datetime, end: datetime, attributes: Mapping[str, Any]
    ) -> None:
        """Export the root span that `new_root` promised: the parent of every span of its trace."""
        ...

    def count(self, name: str, value: float = 1, **attributes: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, value: float, **attributes: str) -> None:
        """Set what is true at this moment."""
        ...

    def observe(self, name: str, value: float, **attributes: str) -> None:
        """Record one value of a histogram; the unit is the name's suffix."""
        ...

    def shutdown(self) -> None:
        """Flush and stop."""
        ...
