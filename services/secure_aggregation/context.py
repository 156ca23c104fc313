"""What the service's handlers share: keys, ports, and the sessions in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.secure_aggregation.parties.others import Others
from services.secure_aggregation.pieces import Pieces
from services.secure_aggregation.protocols import PROTOCOLS
from services.secure_aggregation.protocols.base import Keys, Running
from services.secure_aggregation.state import Session
from shared.core.secagg import sealing
from shared.errors import Stale, Unavailable
from shared.events.base import shard_of
from shared.events.values import BlobRef
from shared.ports import BlobStore, RandomSource, Telemetry, UnitOfWork
from shared.sessions.terms import SessionTerms

Work = Callable[[UnitOfWork], Awaitable[None]]
Key = tuple[str, ...]


@dataclass
class Gathered:
    """What one session has received.

    Attributes:
        terms: on which `running` was begun.
        refused: who is not waited for any more; may be uncommitted.
        seconds: from the session's opening to each complete upload, as this process saw it.
        relaying: one relay at a time.
        talking: with the other parties, one conversation at a time.
    """

    terms: BlobRef
    running: Running
    pieces: Pieces = field(default_factory=Pieces)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    relaying: bool = False
    talking: asyncio.Task[None] | None = None

    @property
    def received_bytes(self) -> int:
        """Of complete uploads, sealed as they came; they are all of one size."""
        return len(self.pieces.complete) * (self.running.upload_bytes + sealing.OVERHEAD_BYTES)


@dataclass
class Aggregation:
    """The handlers' context."""

    keys: Keys
    blobs: BlobStore
    random: RandomSource
    telemetry: Telemetry
    rebuilt_at: datetime  # until then the broker may still be delivering held messages again
    shards: tuple[int, ...] | None = None  # of all sessions; None: every one
    gathered: dict[Key, Gathered] = field(default_factory=dict)
    others: Others | None = None  # the parties 1 and 2, where there are any
    transact: Callable[[Work], Awaitable[None]] | None = None
    closed: set[Key] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def serves(self, group_id: str) -> bool:
        """Whether the group's session is this replica's."""
        return self.shards is None or shard_of(group_id) in self.shards

    async def of(self, session: Session) -> Gathered:
        """What the session has received so far; nothing yet after a restart, nor where the commit that opened
        it on other terms was lost."""
        known = self.gathered.get(session.key)
        if known is None or known.terms != session.terms:
            terms = SessionTerms.from_bytes(await self.blobs.get(session.terms))
            running = await asyncio.to_thread(PROTOCOLS[session.protocol], terms, self.keys)
            found = self.gathered.get(session.key)
            if found is not None and found.terms == session.terms:
                return found  # another handler was faster
            known = self.gathered[session.key] = Gathered(session.terms, running)
        return known

    def close(self, session: Session) -> None:
        """Drop what earlier sessions received; this one's is kept until its commit is certain: a lost
        commit is handled again from the same sum."""
        for key in [key for key in self.closed if key != session.key]:
            self.gathered.pop(key, None)
            self.closed.discard(key)
        self.closed.add(session.key)

    def later(self, work: Work) -> None:
        """Do `work` in a transaction after the one in progress is over."""
        if self.transact is not None:
            self.beside(self._quietly(work))

    def beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do `work` outside any transaction; a stopping service cuts it short."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    @asynccontextmanager
    async def tasks_ended(self) -> AsyncIterator[None]:
        """What is done beside transactions ends with the block."""
        try:
            yield
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            if self.others is not None:
                await self.others.links.aclose()

    async def _quietly(self, work: Work) -> None:
        if self.transact is not None:
            try:
                await self.transact(work)
            except (Stale, Unavailable):
                return  # the deadline settles the session
