"""A service's transactions in memory: for simulations, whose clients live as long as their process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.adapters.transaction import Transaction, chained
from shared.core.chain import GENESIS_SHA256
from shared.errors import Stale
from shared.events.base import DeadlinePassed, Envelope
from shared.ports import Clock, JournalEntry, S, State, UnitOfWork

Key = tuple[str, ...]


@dataclass(frozen=True)
class _Deadline:
    due_at: datetime
    envelope: Envelope


class MemoryUnits:
    """UnitsOfWork of one service with one replica: dictionaries, one transaction at a time."""

    def __init__(self, clock: Clock, producer: Callable[[], str]) -> None:
        self.clock, self.producer = clock, producer
        self.states: dict[tuple[str, Key], State] = {}
        self.journals: dict[str, list[JournalEntry]] = {}
        self.deadlines: dict[tuple[str, Key], _Deadline] = {}
        self._outbox: dict[str, Envelope] = {}
        self._handled: set[str] = set()
        self._held: dict[str, set[str]] = {}
        self._lock = asyncio.Lock()
        self._inside: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def begin(self, cause: Envelope | None = None) -> AsyncIterator[UnitOfWork]:
        """See the port. Raises: RuntimeError where a task would wait for its own transaction to end."""
        if self._inside is not None and self._inside is asyncio.current_task():
            raise RuntimeError("a transaction is open here already: use its unit of work")
        async with self._lock:
            self._inside = asyncio.current_task()
            try:
                unit = MemoryUnitOfWork(self, cause)
                if cause is not None:
                    self._expect_new(cause, unit)
                yield unit
                self._commit(unit, cause)
            finally:
                self._inside = None

    async def outgoing(self, limit: int = 256) -> Sequence[Envelope]:
        """See the port."""
        return list(self._outbox.values())[:limit]

    async def published(self, event_ids: Sequence[str]) -> None:
        """See the port."""
        for event_id in event_ids:
            self._outbox.pop(event_id, None)

    async def due(self, now: datetime) -> tuple[Sequence[Envelope], datetime | None]:
        """See the port."""
        by_time = sorted(self.deadlines.values(), key=lambda deadline: deadline.due_at)
        come = [deadline.envelope for deadline in by_time if deadline.due_at <= now]
        return come, by_time[len(come)].due_at if len(come) < len(by_time) else None

    async def healthy(self) -> bool:
        """See the port."""
        return True

    async def close(self) -> None:
        """Nothing to leave."""

    def _expect_new(self, cause: Envelope, unit: "MemoryUnitOfWork") -> None:
        if cause.type_name == DeadlinePassed.type_name:
            pending = (key for key, found in self.deadlines.items() if found.envelope is cause)
            key = next(pending, None)
            if key is None:
                raise Stale("this deadline was moved or has been handled")
            unit.rescheduled[key] = None
        elif not cause.ephemeral and cause.event_id in self._handled:
            raise Stale(f"{cause.type_name} {cause.event_id} was handled before")

    def _commit(self, unit: "MemoryUnitOfWork", cause: Envelope | None) -> None:
        _apply(unit.changed, self.states)
        _apply(unit.rescheduled, self.deadlines)
        for stream, entries in unit.appended.items():
            self.journals.setdefault(stream, []).extend(entries)
        self._outbox |= {envelope.event_id: envelope for envelope in unit.outgoing}
        if unit.held_under is not None and cause is not None:
            self._held.setdefault(unit.held_under, set()).add(cause.event_id)
        elif cause is not None and not cause.ephemeral:
            self._handled.add(cause.event_id)
        unit.released = tuple(one for key in unit.released for one in self._held.pop(key, ()))
        self._handled.update(unit.released)


class MemoryUnitOfWork(Transaction):
    """One transaction: changes are kept apart until it commits."""

    def __init__(self, units: MemoryUnits, cause: Envelope | None) -> None:
        super().__init__(units.clock.now(), cause, units.producer())
        self._units = units
        self.changed: dict[tuple[str, Key], State | None] = {}
        self.rescheduled: dict[tuple[str, Key], _Deadline | None] = {}
        self.appended: dict[str, list[JournalEntry]] = {}

    async def find(self, kind: type[S], *key: str) -> S | None:
        """See the port."""
        where = kind.kind, key
        found = self.changed[where] if where in self.changed else self._units.states.get(where)
        return found if isinstance(found, kind) else None

    async def find_all(self, kind: type[S], keys: Iterable[Key]) -> list[S]:
        """See the port."""
        found = [await self.find(kind, *key) for key in sorted(set(keys))]
        return [state for state in found if state is not None]

    async def select(self, kind: type[S], *prefix: str) -> list[S]:
        """See the port."""
        states = {**self._units.states, **self.changed}
        mine = {key: state for (name, key), state in states.items() if name == kind.kind}
        chosen = sorted((key for key in mine if key[: len(prefix)] == prefix), key="/".join)
        return [state for key in chosen if isinstance(state := mine[key], kind)]

    async def save(self, state: State) -> None:
        """See the port."""
        self.changed[state.kind, state.key] = state

    async def delete(self, state: State) -> None:
        """See the port."""
        self.changed[state.kind, state.key] = None

    async def schedule(self, name: str, subject: Key, at: datetime, trace: str = "") -> None:
        """See the port."""
        cause = self._cause
        envelope = Envelope.wrap(
            DeadlinePassed(name=name, subject=subject),
            event_id=str(uuid.uuid4()),
            correlation_id=cause.correlation_id if cause else "",
            traceparent=trace or (cause.traceparent if cause else ""),
        )
        self.rescheduled[name, subject] = _Deadline(at, envelope)
        self.moved_deadlines = True

    async def unschedule(self, name: str, subject: Key) -> None:
        """See the port."""
        self.rescheduled[name, subject] = None
        self.moved_deadlines = True

    async def append(self, stream: str, body: Mapping[str, Any]) -> JournalEntry:
        """See the port."""
        there = self.appended.get(stream) or self._units.journals.get(stream)
        sequence, previous = (there[-1].sequence, there[-1].entry_sha256) if there else (0, GENESIS_SHA256)
        entry = chained(stream, sequence + 1, previous, body)
        self.appended.setdefault(stream, []).append(entry)
        return entry

    async def read(self, stream: str, after: int = 0, limit: int = 100_000) -> list[JournalEntry]:
        """See the port."""
        entries = [*self._units.journals.get(stream, ()), *self.appended.get(stream, ())]
        return entries[after : after + limit]


def _apply(changes: dict[Any, Any], to: dict[Any, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            to.pop(key, None)
        else:
            to[key] = value
