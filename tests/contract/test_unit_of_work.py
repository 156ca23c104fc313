"""One contract for transactions over SQLite, PostgreSQL and memory."""

import asyncio
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from shared.adapters.database import DatabaseUnits, migrate, open_units
from shared.adapters.database.engine import database_at, release
from shared.adapters.database.tables import metadata
from shared.adapters.in_process.units import MemoryUnits
from shared.errors import Stale, Unavailable
from shared.events import ClientSeen, JobCancelled
from shared.events.base import DeadlinePassed, Envelope
from shared.ports import State
from tests.servers import postgres
from tests.servers.process import free_port

START = datetime(2026, 1, 1, tzinfo=UTC)
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
Open = Callable[..., Awaitable[DatabaseUnits]]


class Counter(State):
    kind: ClassVar[str] = "counter"
    name: str
    part: str = "x"
    value: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        return (self.name, self.part)


@dataclass
class FakeClock:
    moment: datetime = START

    def now(self) -> datetime:
        return self.moment

    async def sleep_until(self, moment: datetime) -> None:
        self.moment = max(self.moment, moment)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "memory", pytest.param("postgresql", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path) -> str:
    if request.param == "memory":
        if "units" not in inspect.signature(request.function).parameters:
            pytest.skip("one replica, which does not outlive its process")
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'units.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def open_replica(url: str, clock: FakeClock) -> AsyncIterator[Open]:
    opened: list[DatabaseUnits] = []

    async def open_(service: str = "service") -> DatabaseUnits:
        if url == "memory://":
            return MemoryUnits(clock, lambda: "producer")
        units = await open_units(url, service, clock, lambda: "producer")
        opened.append(units)
        return units

    yield open_
    for units in opened:
        await units.close()


@pytest.fixture
async def units(open_replica: Open) -> DatabaseUnits:
    return await open_replica()


def cause(job_id: str = "j1", **fields: str) -> Envelope:
    return Envelope.wrap(JobCancelled(job_id=job_id), **fields)


async def eventually(work: Callable[[], Awaitable[None]]) -> None:
    """As the service loop does: again after Unavailable, done after Stale."""
    for _ in range(200):
        try:
            return await work()
        except Stale:
            return None
        except Unavailable:
            await asyncio.sleep(0)
    raise AssertionError("always unavailable")


async def value_of(units: DatabaseUnits, name: str) -> int:
    async with units.begin() as unit:
        return (await unit.load(Counter, name, "x")).value


async def test_a_state_comes_back_as_it_was_saved(units: DatabaseUnits) -> None:
    state = Counter(name="a", value=3)
    async with units.begin() as unit:
        assert await unit.find(Counter, "a", "x") is None
        await unit.save(state)
        assert await unit.load(Counter, "a", "x") == state
    async with units.begin() as unit:
        await unit.save(state.replace(value=4))  # not read before
    async with units.begin() as unit:
        assert await unit.load(Counter, "a", "x") == state.replace(value=4)
        await unit.delete(state)
        assert await unit.find(Counter, "a", "x") is None
    with pytest.raises(Unavailable, match="no counter a/x yet"):
        async with units.begin() as unit:
            await unit.load(Counter, "a", "x")


async def test_many_are_found_at_once_those_that_exist_in_the_order_of_their_keys(
    units: DatabaseUnits,
) -> None:
    saved = [Counter(name=f"n{number:05}", value=number) for number in range(0, 12_000, 3)]
    async with units.begin() as unit:
        for state in saved:
            await unit.save(state)
    keys = [(f"n{number:05}", "x") for number in reversed(range(24_000))]
    async with units.begin() as unit:
        assert await unit.find_all(Counter, keys) == saved
        assert await unit.find_all(Counter, [("n00003", "x"), ("n00003", "y"), ("n00003", "x")]) == [saved[1]]
        assert await unit.find_all(Counter, []) == []


async def test_a_transaction_sees_its_own_writes_in_every_order(units: DatabaseUnits) -> None:
    async with units.begin() as unit:
        await unit.save(Counter(name="old"))
        await unit.save(Counter(name="read"))
    async with units.begin() as unit:
        await unit.find_all(Counter, [("read", "x"), ("new", "x")])
        wanted = [Counter(name=name, value=1) for name in ("new", "old", "read")]
        for state in wanted:
            await unit.save(state.replace(value=7))
            await unit.save(state)
        assert await unit.find_all(Counter, [("old", "x"), ("new", "x")]) == wanted[:2]
        await unit.save(wanted[2].replace(value=2))
        assert (await unit.load(Counter, "read", "x")).value == 2
        await unit.save(wanted[2])
        assert await unit.select(Counter) == wanted
        await unit.save(Counter(name="gone"))
        await unit.delete(Counter(name="gone"))
        assert await unit.find(Counter, "gone", "x") is None
        await unit.delete(wanted[0])
        await unit.save(wanted[0].replace(value=3))
        entry = await unit.append("s", {"n": 1})
        assert await unit.read("s") == [entry]
        await unit.append("s", {"n": 2})
    async with units.begin() as unit:
        assert [one.value for one in await unit.select(Counter)] == [3, 1, 1]
        assert [one.sequence for one in await unit.read("s")] == [1, 2]


async def test_select_takes_whole_words_of_a_prefix_in_order(units: DatabaseUnits) -> None:
    names = [("a", "z"), ("a", "b"), ("ab", "c"), ("a-b", "d"), ("a0", "e"), ("b", "f"), ("A", "g")]
    async with units.begin() as unit:
        for name, part in names:
            await unit.save(Counter(name=name, part=part))
    async with units.begin() as unit:
        assert [s.part for s in await unit.select(Counter, "a")] == ["b", "z"]
        assert [s.part for s in await unit.select(Counter, "a", "b")] == ["b"]
        everything = [f"{s.name}/{s.part}" for s in await unit.select(Counter)]
        assert everything == sorted(f"{name}/{part}" for name, part in names)


async def test_services_do_not_see_each_other(open_replica: Open) -> None:
    one, two = await open_replica("one"), await open_replica("two")
    handled = cause()
    async with one.begin(handled) as unit:
        await unit.save(Counter(name="a"))
        unit.publish(JobCancelled(job_id="j"))
        await unit.schedule("d", ("s",), START)
    async with two.begin(handled) as unit:
        assert await unit.find(Counter, "a", "x") is None
    assert await two.outgoing() == []
    assert await two.due(START) == ([], None)


async def test_an_error_leaves_no_trace_of_the_transaction(units: DatabaseUnits) -> None:
    event = cause()
    with pytest.raises(ZeroDivisionError):
        async with units.begin(event) as unit:
            await unit.save(Counter(name="a"))
            unit.publish(JobCancelled(job_id="j"))
            await unit.schedule("d", ("s",), START)
            await unit.append("stream", {"n": 1})
            raise ZeroDivisionError
    assert await units.outgoing() == []
    assert await units.due(START) == ([], None)
    async with units.begin(event) as unit:
        assert await unit.find(Counter, "a", "x") is None
        assert (await unit.append("stream", {"n": 2})).sequence == 1


async def test_an_event_is_handled_once(units: DatabaseUnits) -> None:
    event = cause()
    async with units.begin(event):
        pass
    with pytest.raises(Stale):
        async with units.begin(event):
            raise AssertionError("entered")


async def test_an_ephemeral_event_is_not_remembered(units: DatabaseUnits) -> None:
    event = Envelope.wrap(ClientSeen(client_id="a"))
    for _ in range(2):
        async with units.begin(event):
            pass


async def test_what_is_published_waits_in_order_until_it_is_confirmed(units: DatabaseUnits) -> None:
    event = cause(correlation_id="j1-r1", traceparent=TRACE)
    async with units.begin(event) as unit:
        for n in range(3):
            unit.publish(JobCancelled(job_id=f"j{n}"))
    waiting = await units.outgoing()
    assert waiting == unit.outgoing
    assert [e.open().job_id for e in waiting] == ["j0", "j1", "j2"]
    for envelope in waiting:
        assert envelope.correlation_id == "j1-r1"
        assert envelope.causation_id == event.event_id
        assert envelope.traceparent == TRACE
        assert envelope.producer == "producer"
    assert len({e.event_id for e in waiting}) == 3
    await units.published([waiting[0].event_id])
    assert await units.outgoing() == waiting[1:]
    assert await units.outgoing(limit=1) == waiting[1:2]


async def test_handling_again_after_a_failure_publishes_the_same_ids(units: DatabaseUnits) -> None:
    event, ids = cause(), []
    for failure in (ZeroDivisionError, None):
        with suppress(ZeroDivisionError):
            async with units.begin(event) as unit:
                unit.publish(JobCancelled(job_id="a"))
                unit.publish(JobCancelled(job_id="b"))
                ids.append([e.event_id for e in unit.outgoing])
                if failure is not None:
                    raise failure
    assert ids[0] == ids[1]


async def test_a_replica_adopts_what_another_has_left(open_replica: Open, clock: FakeClock) -> None:
    first, second = await open_replica(), await open_replica()
    assert await first.outgoing() == await second.outgoing() == []  # both have started
    async with first.begin() as unit:
        unit.publish(JobCancelled(job_id="j"))
    assert await second.outgoing() == []
    clock.moment += timedelta(seconds=11)
    assert await second.outgoing() == unit.outgoing
    third = await open_replica()
    assert await third.outgoing() == unit.outgoing, "a starting replica looks at everything"


async def test_deadlines_come_when_due_and_once(units: DatabaseUnits, clock: FakeClock) -> None:
    event = cause(correlation_id="j1-r1", traceparent=TRACE)
    async with units.begin(event) as unit:
        await unit.schedule("late", ("j", "r"), START + timedelta(seconds=20))
        await unit.schedule("soon", (), START + timedelta(seconds=5), trace="")
    assert unit.moved_deadlines
    assert await units.due(START) == ([], START + timedelta(seconds=5))
    now = START + timedelta(seconds=10)
    [soon], following = await units.due(now)
    assert soon.open() == DeadlinePassed(name="soon", subject=())
    assert (soon.correlation_id, soon.traceparent) == ("j1-r1", TRACE)
    assert following == START + timedelta(seconds=20)
    with pytest.raises(ZeroDivisionError):
        async with units.begin(soon):
            raise ZeroDivisionError
    assert (await units.due(now))[0] == [soon], "a failed handling keeps the deadline"
    async with units.begin(soon):
        pass
    assert (await units.due(now))[0] == []
    with pytest.raises(Stale):
        async with units.begin(soon):
            pass


async def test_a_moved_deadline_replaces_the_old_one(units: DatabaseUnits) -> None:
    async with units.begin() as unit:
        await unit.schedule("d", ("j",), START)
    [old], _ = await units.due(START)
    async with units.begin() as unit:
        await unit.schedule("d", ("j",), START + timedelta(hours=1))
    assert await units.due(START) == ([], START + timedelta(hours=1))
    with pytest.raises(Stale):
        async with units.begin(old):
            pass
    async with units.begin() as unit:
        await unit.unschedule("d", ("j",))
    assert await units.due(START + timedelta(days=1)) == ([], None)


async def test_a_handled_deadline_may_schedule_itself_again(units: DatabaseUnits) -> None:
    async with units.begin() as unit:
        await unit.schedule("tick", ("j",), START)
    [tick], _ = await units.due(START)
    async with units.begin(tick) as unit:
        await unit.schedule("tick", ("j",), START + timedelta(seconds=1))
    assert await units.due(START) == ([], START + timedelta(seconds=1))


async def test_the_journal_is_a_chain_without_gaps(units: DatabaseUnits) -> None:
    for n in range(3):
        async with units.begin() as unit:
            await unit.append("ledger", {"n": n, "ü": [1.5, None]})
            await unit.append("ledger", {"n": n, "second": True})
            await unit.append("another", {"n": n})
    async with units.begin() as unit:
        entries = await unit.read("ledger")
        assert await unit.read("ledger", after=4, limit=1) == entries[4:5]
        assert len(await unit.read("another")) == 3
    previous = "0" * 64
    for sequence, entry in enumerate(entries, start=1):
        digest = hashlib.sha256(bytes.fromhex(previous) + sequence.to_bytes(8, "big") + entry.body)
        assert (entry.sequence, entry.previous_sha256) == (sequence, previous)
        assert entry.entry_sha256 == digest.hexdigest()
        previous = entry.entry_sha256
    assert json.loads(entries[0].body) == {"n": 0, "ü": [1.5, None]}


@pytest.mark.parametrize(
    "statement", ["UPDATE journal SET body = 'x'", "DELETE FROM journal", "TRUNCATE journal"]
)
async def test_the_database_refuses_to_rewrite_the_journal(
    units: DatabaseUnits, url: str, statement: str
) -> None:
    if url == "memory://":
        pytest.skip("no statement reaches it")
    if url.startswith("sqlite") and statement.startswith("TRUNCATE"):
        pytest.skip("SQLite has no TRUNCATE")
    async with units.begin() as unit:
        entry = await unit.append("ledger", {"n": 1})
    database = database_at(url)
    try:
        with pytest.raises((sa.exc.DBAPIError, Unavailable)) as caught:
            async with database.transaction() as connection:
                await connection.execute(sa.text(statement))
        chain = [caught.value, caught.value.__cause__]
        assert any("append-only" in str(error) for error in chain)
    finally:
        await release(database)
    async with units.begin() as unit:
        assert await unit.read("ledger") == [entry]


async def test_a_held_event_is_recorded_when_its_key_is_released(units: DatabaseUnits) -> None:
    held, other, releasing = cause("a"), cause("b"), cause("c")
    for event, key in ((held, "group-1"), (other, "group-2")):
        async with units.begin(event) as unit:
            unit.hold(key)
        assert unit.held_under == key
    async with units.begin(held) as unit:  # not recorded: a crash here would have it delivered again
        unit.hold("group-1")
    async with units.begin(releasing) as unit:
        unit.release("group-1")
    assert unit.released == (held.event_id,)
    with pytest.raises(Stale):
        async with units.begin(held):
            pass
    async with units.begin(other) as unit:
        unit.hold("group-2")


async def test_a_release_that_fails_releases_nothing(units: DatabaseUnits) -> None:
    held = cause("a")
    async with units.begin(held) as unit:
        unit.hold("g")
    with pytest.raises(ZeroDivisionError):
        async with units.begin(cause("b")) as unit:
            unit.release("g")
            raise ZeroDivisionError
    async with units.begin(cause("c")) as unit:
        unit.release("g")
    assert unit.released == (held.event_id,)


async def test_a_hold_that_fails_is_not_released(units: DatabaseUnits) -> None:
    held = cause("a")
    with pytest.raises(ZeroDivisionError):
        async with units.begin(held) as unit:
            unit.hold("g")
            raise ZeroDivisionError
    async with units.begin(cause("b")) as unit:
        unit.release("g")
    assert unit.released == ()
    async with units.begin(held):
        pass


async def test_one_transaction_may_hold_and_release(units: DatabaseUnits) -> None:
    first, last = cause("a"), cause("b")
    async with units.begin(first) as unit:
        unit.hold("g")
    async with units.begin(last) as unit:
        unit.hold("g")
        unit.release("g")
    assert set(unit.released) == {first.event_id, last.event_id}
    for event in (first, last):
        with pytest.raises(Stale):
            async with units.begin(event):
                pass


@pytest.mark.parametrize("at_once", [False, True])
async def test_replicas_that_count_together_lose_no_count(open_replica: Open, at_once: bool) -> None:
    replicas = [await open_replica(), await open_replica()]
    events = [cause(f"j{n}") for n in range(40)]

    async def count(units: DatabaseUnits, event: Envelope) -> None:
        async with units.begin(event) as unit:
            if at_once:
                found = await unit.find_all(Counter, [("n", "x"), ("m", "x")])
            else:
                found = [one for name in ("m", "n") if (one := await unit.find(Counter, name, "x"))]
            await asyncio.sleep(0)
            # Another replica may commit between two reads: what was not there then is made anew, and refused.
            known = {one.name: one for one in found}
            for name in ("n", "m"):
                state = known.get(name) or Counter(name=name)
                await unit.save(state.replace(value=state.value + 1))
            unit.publish(JobCancelled(job_id="j"))
            await unit.append("counts", {"event": event.event_id})

    # Both replicas get every event, as after a redelivery.
    await asyncio.gather(
        *(
            eventually(lambda units=units, event=event: count(units, event))
            for event in events
            for units in replicas
        )
    )
    assert await value_of(replicas[0], "n") == await value_of(replicas[1], "m") == len(events)
    assert len(await (await open_replica()).outgoing()) == len(events)
    async with replicas[1].begin() as unit:
        entries = await unit.read("counts")
    assert [entry.sequence for entry in entries] == list(range(1, len(events) + 1))
    assert {json.loads(entry.body)["event"] for entry in entries} == {e.event_id for e in events}
    for before, after in zip(entries, entries[1:], strict=False):
        assert after.previous_sha256 == before.entry_sha256


async def test_replicas_fire_a_deadline_once(open_replica: Open) -> None:
    replicas = [await open_replica(), await open_replica()]
    async with replicas[0].begin() as unit:
        await unit.save(Counter(name="n"))
        await unit.schedule("d", (), START)
    [deadline], _ = await replicas[1].due(START)

    async def fire(units: DatabaseUnits) -> None:
        async with units.begin(deadline) as unit:
            state = await unit.load(Counter, "n", "x")
            await unit.save(state.replace(value=state.value + 1))

    await asyncio.gather(*(eventually(lambda units=units: fire(units)) for units in replicas * 3))
    assert await value_of(replicas[0], "n") == 1


async def test_everything_survives_a_restart(url: str, clock: FakeClock) -> None:
    units = await open_units(url, "service", clock, str)
    event = cause()
    async with units.begin(event) as unit:
        await unit.save(Counter(name="a", value=7))
        unit.publish(JobCancelled(job_id="j"))
        await unit.schedule("d", (), START)
        entry = await unit.append("s", {"n": 1})
    outgoing = unit.outgoing
    await units.close()
    units = await open_units(url, "service", clock, str)
    assert await units.outgoing() == outgoing
    assert len((await units.due(START))[0]) == 1
    assert await value_of(units, "a") == 7
    async with units.begin() as unit:
        assert await unit.read("s") == [entry]
    with pytest.raises(Stale):
        async with units.begin(event):
            pass
    await units.close()


async def test_processes_that_start_together_migrate_once(url: str) -> None:
    await asyncio.gather(*(migrate(url) for _ in range(5)))
    database = database_at(url)
    try:
        async with database.transaction() as connection:
            differences: list[object] = []

            def compare(sync: sa.Connection) -> None:
                differences.extend(compare_metadata(MigrationContext.configure(sync), metadata))

            await connection.run_sync(compare)
        assert differences == [], "the migrations make the tables that the code expects"
    finally:
        await release(database)


async def test_a_database_that_is_away_is_unavailable(clock: FakeClock) -> None:
    with pytest.raises(Unavailable):
        await open_units(f"postgresql+asyncpg://fedlora@127.0.0.1:{free_port()}/d", "s", clock, str)


async def test_a_lost_connection_is_unavailable_and_the_next_one_works(
    postgres_url: str, clock: FakeClock
) -> None:
    units = await open_units(postgres_url, "service", clock, str)
    server, _, name = postgres_url.rpartition("/")
    with pytest.raises(Unavailable):
        async with units.begin() as unit:
            await unit.save(Counter(name="a"))
            await postgres.execute(
                server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            )
            await unit.save(Counter(name="b"))
    async with units.begin() as unit:
        assert await unit.select(Counter) == []
    await units.close()


async def test_a_healthy_database_says_so(units: DatabaseUnits) -> None:
    assert await units.healthy()
