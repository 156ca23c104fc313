"""Connections: one engine a database and event loop, and its migrations."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import create_async_engine

from shared.errors import Unavailable

MIGRATION_LOCK = 0x6665646C  # "fedl"
_ENGINES: dict[tuple[int, str], "Database"] = {}


class Connection(Protocol):
    """What a transaction needs of a connection."""

    @property
    def dialect(self) -> sa.Dialect:
        """Which database it is."""
        ...

    async def execute(self, statement: sa.Executable, parameters: Any = None, /) -> sa.CursorResult[Any]:  # noqa: ANN401 - rows of any table
        """Run one statement; the result is buffered."""
        ...

    async def run_sync(self, work: Callable[[sa.Connection], None], /) -> None:
        """Run synchronous code on the connection."""
        ...


class InLoopConnection:
    """SQLite on the event loop's thread: a statement takes some 20 us, a hop to a thread and back 150."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> sa.Dialect:
        """See the protocol."""
        return self._connection.dialect

    async def execute(self, statement: sa.Executable, parameters: Any = None, /) -> sa.CursorResult[Any]:  # noqa: ANN401
        """See the protocol."""
        return self._connection.execute(statement, parameters)

    async def run_sync(self, work: Callable[[sa.Connection], None], /) -> None:
        """See the protocol."""
        work(self._connection)


class Database:
    """An engine, and for SQLite the lock that makes its one writer wait in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sqlite = url.startswith("sqlite")
        self.users = 0
        self._lock = asyncio.Lock()
        self._inside: asyncio.Task[Any] | None = None  # the task whose SQLite transaction is open
        if self.sqlite:
            self._sqlite = sa.create_engine(url.replace("sqlite+aiosqlite:", "sqlite:", 1))
            sa.event.listen(self._sqlite, "connect", _on_sqlite_connect)
            sa.event.listen(self._sqlite, "begin", _on_sqlite_begin)
        else:
            self._server = create_async_engine(url, pool_size=8, max_overflow=8, pool_pre_ping=True)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Commit at the end.

        Raises: Unavailable on a lost race or when the database is away; RuntimeError where a task
            would wait for its own transaction to end (SQLite has one writer).
        """
        if self._inside is not None and self._inside is asyncio.current_task():
            raise RuntimeError("a transaction is open here already: use its unit of work")
        try:
            if self.sqlite:
                async with self._lock:
                    self._inside = asyncio.current_task()
                    try:
                        with self._sqlite.begin() as in_loop:
                            yield InLoopConnection(in_loop)
                    finally:
                        self._inside = None
            else:
                async with self._server.begin() as connection:
                    yield connection
        except IntegrityError as error:
            raise Unavailable("another replica was faster") from error
        except (OperationalError, InterfaceError, PoolExhausted, OSError) as error:
            raise Unavailable(f"the database is away: {type(error).__name__}") from error
        except DBAPIError as error:
            # Serialisation failures, deadlocks and a server that shuts down (SQLSTATE 40xxx, 57xxx).
            state = str(getattr(error.orig, "sqlstate", "") or "")
            if error.connection_invalidated or state[:2] in {"40", "57", "53", "08"}:
                raise Unavailable(f"the database is away: {state or type(error).__name__}") from error
            raise

    async def dispose(self) -> None:
        """Close all connections."""
        if self.sqlite:
            self._sqlite.dispose()
        else:
            await self._server.dispose()


def database_at(url: str) -> Database:
    """The database at `url`, shared by all services of this process and event loop."""
    key = (id(asyncio.get_running_loop()), url)
    if key not in _ENGINES:
        _ENGINES[key] = Database(url)
    database = _ENGINES[key]
    database.users += 1
    return database


async def release(database: Database) -> None:
    """Close it when its last user has gone."""
    database.users -= 1
    if database.users == 0:
        for key in [key for key, value in _ENGINES.items() if value is database]:
            del _ENGINES[key]
        await database.dispose()


async def migrate(url: str) -> None:
    """Bring the database's tables to this version. Idempotent; safe when many processes start at once."""
    if url.startswith("sqlite"):
        path = sa.make_url(url).database
        if path and path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    database = database_at(url)
    try:
        async with database.transaction() as connection:
            if not database.sqlite:
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            await connection.run_sync(_upgrade)
    finally:
        await release(database)


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _on_sqlite_connect(connection: Any, record: Any) -> None:  # noqa: ANN401 - SQLAlchemy's listener
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, below
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
