"""One event's transaction over an open connection."""

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects import postgresql, sqlite

from shared.adapters.database.engine import Connection
from shared.adapters.database.tables import deadlines, journal, outbox, states
from shared.adapters.transaction import Transaction, chained
from shared.core.chain import GENESIS_SHA256
from shared.errors import FedloraError
from shared.events.base import Envelope, pack, unpack
from shared.ports import JournalEntry, S, State

SEPARATOR = "/"
PREFIX_END = "0"  # the character after the separator
MOST_KEYS = 10_000  # in one query; databases take some 32,000 parameters

# Parameters must not be named as columns are.
_NEW: dict[str, sa.BindParameter[Any]] = {
    name: sa.bindparam(f"new_{name}") for name in ("service", "kind", "key", "body")
}
_INSERT = sa.insert(states).values(_NEW)
_UPDATE = sa.update(states).values(body=_NEW["body"])
_UPDATE = _UPDATE.where(*(states.c[name] == _NEW[name] for name in ("service", "kind", "key")))
# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_FIND = sa.select(states.c.body).where(
    *(states.c[name] == sa.bindparam(f"of_{name}") for name in ("service", "kind", "key"))
)
_FIND_LOCKED = _FIND.with_for_update()


def _upsert(insert: sqlite.Insert | postgresql.Insert) -> sa.Executable:
    upsert: sa.Executable = insert.on_conflict_do_update(
        index_elements=["service", "kind", "key"], set_={"body": insert.excluded.body}
    )
    return upsert


_UPSERT_SQLITE = _upsert(sqlite.insert(states).values(_NEW))
_UPSERT_POSTGRESQL = _upsert(postgresql.insert(states).values(_NEW))


class UnreadableState(FedloraError):
    """Stored bytes are not a valid state of their class: written by another version."""


class DatabaseUnitOfWork(Transaction):
    """Reads and writes of one service in one transaction.

    States, journals' entries and what is to be published are written together: at the end by `flush`, or
    before a query that might see them. A thousand rows in one go cost a tenth of a thousand statements.
    """

    def __init__(  # noqa: PLR0913 - made in one place, by DatabaseUnits
        self,
        *,
        connection: Connection,
        service: str,
        now: datetime,
        cause: Envelope | None,
        producer: str,
        owner: str,
    ) -> None:
        super().__init__(now, cause, producer)
        self._connection, self._service, self._owner = connection, service, owner
        self._sqlite = connection.dialect.name == "sqlite"
        self._known: dict[tuple[str, str], bool] = {}
        self._unsaved: dict[tuple[str, str], bytes] = {}
        self._unwritten: list[JournalEntry] = []
        self._journal_heads: dict[str, tuple[int, str]] = {}

    async def find(self, kind: type[S], *key: str) -> S | None:
        """See the port."""
        joined = SEPARATOR.join(key)
        body = self._unsaved.get((kind.kind, joined))
        if body is None:
            query = _FIND if self._sqlite else _FIND_LOCKED
            named = {"of_service": self._service, "of_kind": kind.kind, "of_key": joined}
            body = (await self._connection.execute(query, named)).scalar()
            self._known[kind.kind, joined] = body is not None
        return None if body is None else _read(kind, body)

    async def find_all(self, kind: type[S], keys: Iterable[tuple[str, ...]]) -> list[S]:
        """See the port."""
        await self._write_states()
        joined = sorted({SEPARATOR.join(key) for key in keys})
        found: list[S] = []
        for start in range(0, len(joined), MOST_KEYS):
            some = joined[start : start + MOST_KEYS]
            query = sa.select(states.c.key, states.c.body).where(
                states.c.service == self._service, states.c.kind == kind.kind, states.c.key.in_(some)
            )
            query = query.order_by(states.c.key)
            if not self._sqlite:
                query = query.with_for_update()
            rows = (await self._connection.execute(query)).mappings().all()
            there = {row["key"] for row in rows}
            self._known |= {(kind.kind, key): key in there for key in some}
            found += [_read(kind, row["body"]) for row in rows]
        return found

    async def select(self, kind: type[S], *prefix: str) -> list[S]:
        """See the port."""
        await self._write_states()
        query = sa.select(states.c.body).where(states.c.service == self._service, states.c.kind == kind.kind)
        if prefix:
            joined = SEPARATOR.join(prefix)
            query = query.where(
                sa.or_(
                    states.c.key == joined,
                    sa.and_(states.c.key > joined + SEPARATOR, states.c.key < joined + PREFIX_END),
                )
            )
        rows = (await self._connection.execute(query.order_by(states.c.key))).scalars()
        return [_read(kind, body) for body in rows]

    async def save(self, state: State) -> None:
        """See the port."""
        self._unsaved[state.kind, SEPARATOR.join(state.key)] = pack(state.model_dump(mode="python"))

    async def delete(self, state: State) -> None:
        """See the port."""
        key = SEPARATOR.join(state.key)
        self._unsaved.pop((state.kind, key), None)
        await self._connection.execute(sa.delete(states).where(*self._row(state.kind, key)))
        self._known[state.kind, key] = False

    async def schedule(self, name: str, subject: tuple[str, ...], at: datetime, trace: str = "") -> None:
        """See the port."""
        await self.unschedule(name, subject)
        cause = self._cause
        await self._connection.execute(
            sa.insert(deadlines).values(
                service=self._service,
                name=name,
                subject=SEPARATOR.join(subject),
                due_at=at.timestamp(),
                event_id=str(uuid.uuid4()),
                correlation_id=cause.correlation_id if cause else "",
                traceparent=trace or (cause.traceparent if cause else ""),
            )
        )

    async def unschedule(self, name: str, subject: tuple[str, ...]) -> None:
        """See the port."""
        self.moved_deadlines = True
        await self._connection.execute(
            sa.delete(deadlines).where(
                deadlines.c.service == self._service,
                deadlines.c.name == name,
                deadlines.c.subject == SEPARATOR.join(subject),
            )
        )

    async def append(self, stream: str, body: Mapping[str, Any]) -> JournalEntry:
        """See the port."""
        sequence, previous = await self._journal_head(stream)
        entry = chained(stream, sequence + 1, previous, body)
        self._unwritten.append(entry)
        self._journal_heads[stream] = entry.sequence, entry.entry_sha256
        return entry

    async def read(self, stream: str, after: int = 0, limit: int = 100_000) -> list[JournalEntry]:
        """See the port."""
        await self._write_journals()
        query = (
            sa.select(journal)
            .where(journal.c.stream == stream, journal.c.sequence > after)
            .order_by(journal.c.sequence)
            .limit(limit)
        )
        return [JournalEntry(**row) for row in (await self._connection.execute(query)).mappings()]

    async def flush(self) -> None:
        """Write what is not written yet, and the outbox."""
        await self._write_states()
        await self._write_journals()
        if self.outgoing:
            rows = [
                {
                    "service": self._service,
                    "event_id": envelope.event_id,
                    "owner": self._owner,
                    "created_at": self._now.timestamp(),
                    "envelope": pack(vars(envelope)),
                }
                for envelope in self.outgoing
            ]
            await self._connection.execute(sa.insert(outbox), rows)

    async def _write_states(self) -> None:
        groups: dict[bool | None, list[dict[str, Any]]] = {}
        for (kind, key), body in sorted(self._unsaved.items()):  # replicas do not wait in a circle
            row = {"new_service": self._service, "new_kind": kind, "new_key": key, "new_body": body}
            groups.setdefault(self._known.get((kind, key)), []).append(row)
        self._known |= dict.fromkeys(self._unsaved, True)
        self._unsaved.clear()
        upsert = _UPSERT_SQLITE if self._sqlite else _UPSERT_POSTGRESQL
        for known, rows in groups.items():
            # The plain insert of what was not there fails when a replica was faster.
            statement = {True: _UPDATE, False: _INSERT, None: upsert}[known]
            await self._connection.execute(statement, rows)

    async def _write_journals(self) -> None:
        rows = [vars(entry) for entry in self._unwritten]
        self._unwritten.clear()
        if rows:
            await self._connection.execute(sa.insert(journal), rows)

    async def _journal_head(self, stream: str) -> tuple[int, str]:
        if stream not in self._journal_heads:
            if not self._sqlite:
                lock = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big", signed=True)
                await self._connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
            query = (
                sa.select(journal.c.sequence, journal.c.entry_sha256)
                .where(journal.c.stream == stream)
                .order_by(journal.c.sequence.desc())
                .limit(1)
            )
            row = (await self._connection.execute(query)).mappings().first()
            self._journal_heads[stream] = (
                (row["sequence"], row["entry_sha256"]) if row else (0, GENESIS_SHA256)
            )
        return self._journal_heads[stream]

    def _row(self, kind: str, key: str) -> tuple[sa.ColumnElement[bool], ...]:
        return states.c.service == self._service, states.c.kind == kind, states.c.key == key


def _read(kind: type[S], body: bytes) -> S:
    try:
        return kind.model_validate(unpack(body))
    except ValidationError as error:
        raise UnreadableState(f"stored {kind.kind} does not fit this version: {error}") from error
