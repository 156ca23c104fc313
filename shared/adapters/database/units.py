"""A service's transactions, its outbox and its deadlines."""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from shared.adapters.database.engine import Connection, Database, database_at, migrate, release
from shared.adapters.database.tables import deadlines, inbox, outbox
from shared.adapters.database.unit_of_work import SEPARATOR, DatabaseUnitOfWork
from shared.errors import Stale, Unavailable
from shared.events.base import Channel, DeadlinePassed, Envelope, unpack
from shared.ports import Clock, UnitOfWork

ADOPT_AFTER_S = 10.0  # rows that their replica has not published by then are published by another
REMEMBER_EVENTS = timedelta(days=7)
_SEEN = sa.select(inbox.c.event_id).where(
    inbox.c.service == sa.bindparam("of_service"), inbox.c.event_id == sa.bindparam("of_event")
)


class DatabaseUnits:
    """UnitsOfWork of one service on one database."""

    def __init__(self, database: Database, service: str, clock: Clock, producer: Callable[[], str]) -> None:
        self._database, self._service, self._clock, self._producer = database, service, clock, producer
        self._owner = str(uuid.uuid4())
        self._adopted = False  # a starting replica first takes over whatever its predecessor left
        self._held: dict[str, set[str]] = {}
        self._purged_at: datetime | None = None

    @asynccontextmanager
    async def begin(self, cause: Envelope | None = None) -> AsyncIterator[UnitOfWork]:
        """See the port."""
        held_now: str | None = None
        try:
            async with self._database.transaction() as connection:
                if cause is not None:
                    await self._expect_new(connection, cause)
                unit = DatabaseUnitOfWork(
                    connection=connection,
                    service=self._service,
                    now=self._clock.now(),
                    cause=cause,
                    producer=self._producer(),
                    owner=self._owner,
                )
                yield unit
                await unit.flush()
                if unit.held_under is not None and cause is not None:
                    # Before the commit: whoever releases the key after it must find this event.
                    held_now = unit.held_under
                    self._held.setdefault(held_now, set()).add(cause.event_id)
                elif cause is not None and not cause.ephemeral:
                    await self._record(connection, [cause.event_id], unit.now)
                done = [event_id for key in unit.released for event_id in self._held.get(key, ())]
                if done:
                    await self._record(connection, done, unit.now)
                    unit.released = tuple(done)
                else:
                    unit.released = ()
                released = unit.released
        except BaseException:
            if held_now is not None and cause is not None:
                self._held[held_now].discard(cause.event_id)
            raise
        for key in [key for key, ids in self._held.items() if ids <= set(released)]:
            del self._held[key]

    async def outgoing(self, limit: int = 256) -> Sequence[Envelope]:
        """See the port."""
        query = sa.select(outbox.c.envelope).where(outbox.c.service == self._service)
        if self._adopted:
            abandoned = self._clock.now().timestamp() - ADOPT_AFTER_S
            query = query.where(sa.or_(outbox.c.owner == self._owner, outbox.c.created_at < abandoned))
        async with self._database.transaction() as connection:
            rows = (await connection.execute(query.order_by(outbox.c.id).limit(limit))).scalars().all()
        if not rows:
            self._adopted = True
        envelopes = [_envelope(row) for row in rows]
        return envelopes

    async def published(self, event_ids: Sequence[str]) -> None:
        """See the port."""
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.delete(outbox).where(
                    outbox.c.service == self._service, outbox.c.event_id.in_(list(event_ids))
                )
            )

    async def due(self, now: datetime) -> tuple[Sequence[Envelope], datetime | None]:
        """See the port."""
        mine = deadlines.c.service == self._service
        async with self._database.transaction() as connection:
            rows = (
                (
                    await connection.execute(
                        sa.select(deadlines)
                        .where(mine, deadlines.c.due_at <= now.timestamp())
                        .order_by(deadlines.c.due_at)
                    )
                )
                .mappings()
                .all()
            )
            following = (
                await connection.execute(
                    sa.select(sa.func.min(deadlines.c.due_at)).where(
                        mine, deadlines.c.due_at > now.timestamp()
                    )
                )
            ).scalar()
            if self._purged_at is None or now - self._purged_at > timedelta(hours=1):
                forgotten = (now - REMEMBER_EVENTS).timestamp()
                await connection.execute(
                    sa.delete(inbox).where(inbox.c.service == self._service, inbox.c.handled_at < forgotten)
                )
                self._purged_at = now
        envelopes = [
            Envelope.wrap(
                DeadlinePassed(
                    name=row["name"], subject=tuple(row["subject"].split(SEPARATOR)) if row["subject"] else ()
                ),
                event_id=row["event_id"],
                correlation_id=row["correlation_id"],
                traceparent=row["traceparent"],
            )
            for row in rows
        ]
        return envelopes, None if following is None else datetime.fromtimestamp(following, UTC)

    async def healthy(self) -> bool:
        """See the port."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute(sa.select(1))
        except Unavailable:
            return False
        return True

    async def close(self) -> None:
        """See the port."""
        await release(self._database)

    async def _expect_new(self, connection: Connection, cause: Envelope) -> None:
        """Raise Stale when `cause` was handled; a deadline is handled when its row is gone."""
        if cause.type_name == DeadlinePassed.type_name:
            gone = await connection.execute(
                sa.delete(deadlines).where(
                    deadlines.c.service == self._service, deadlines.c.event_id == cause.event_id
                )
            )
            if gone.rowcount == 0:
                raise Stale("this deadline was moved or has been handled")
        elif not cause.ephemeral:
            named = {"of_service": self._service, "of_event": cause.event_id}
            if (await connection.execute(_SEEN, named)).first() is not None:
                raise Stale(f"{cause.type_name} {cause.event_id} was handled before")

    async def _record(self, connection: Connection, event_ids: list[str], now: datetime) -> None:
        insert = (sqlite if self._database.sqlite else postgresql).insert(inbox)
        rows = [
            {"service": self._service, "event_id": event_id, "handled_at": now.timestamp()}
            for event_id in event_ids
        ]
        if len(rows) == 1:
            # A plain insert: two replicas with the same event cannot both commit.
            await connection.execute(sa.insert(inbox), rows)
        else:
            await connection.execute(insert.on_conflict_do_nothing(), rows)


def _envelope(row: bytes) -> Envelope:
    fields = unpack(row)
    return Envelope(**{**fields, "channel": Channel(fields["channel"])})


async def open_units(url: str, service: str, clock: Clock, producer: Callable[[], str]) -> DatabaseUnits:
    """The service's units on the database at `url`, whose tables are made or brought up to date."""
    await migrate(url)
    return DatabaseUnits(database_at(url), service, clock, producer)
