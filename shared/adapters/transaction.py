"""What a transaction is wherever it is kept: its cause, what it publishes, and entries of its journals."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shared.core.chain import canonical, digest
from shared.errors import Unavailable
from shared.events.base import Envelope, Event, derived_event_id
from shared.ports import JournalEntry, S


class Transaction(ABC):
    """The part of `UnitOfWork` that asks no store."""

    def __init__(self, now: datetime, cause: Envelope | None, producer: str) -> None:
        self._now, self._cause, self._producer = now, cause, producer
        self.outgoing: list[Envelope] = []
        self.held_under: str | None = None
        self.released: tuple[str, ...] = ()
        self.moved_deadlines = False

    @property
    def now(self) -> datetime:
        """When handling began."""
        return self._now

    @property
    def trace(self) -> str:
        """See the port."""
        return self._cause.traceparent if self._cause else ""

    @abstractmethod
    async def find(self, kind: type[S], *key: str) -> S | None:
        """See the port."""

    async def load(self, kind: type[S], *key: str) -> S:
        """See the port."""
        state = await self.find(kind, *key)
        if state is None:
            raise Unavailable(f"no {kind.kind} {'/'.join(key)} yet")
        return state

    def publish(self, event: Event, *, correlation_id: str = "", trace: str = "") -> None:
        """See the port."""
        cause = self._cause
        self.outgoing.append(
            Envelope.wrap(
                event,
                event_id=derived_event_id(cause.event_id, event.type_name, len(self.outgoing))
                if cause
                else str(uuid.uuid4()),
                correlation_id=correlation_id or (cause.correlation_id if cause else ""),
                causation_id=cause.event_id if cause else "",
                traceparent=trace or (cause.traceparent if cause else ""),
                producer=self._producer,
            )
        )

    def hold(self, key: str) -> None:
        """See the port."""
        self.held_under = key

    def release(self, key: str) -> None:
        """See the port."""
        self.released = (*self.released, key)


def chained(stream: str, sequence: int, previous_sha256: str, body: Mapping[str, Any]) -> JournalEntry:
    """The entry of that number, after the one whose hash is `previous_sha256`."""
    content = canonical(body)
    return JournalEntry(
        stream, sequence, previous_sha256, digest(previous_sha256, sequence, content), content
    )
