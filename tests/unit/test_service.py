"""The service loop: every event counts once, whatever fails in between."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import ClassVar

import pytest

from shared.adapters import backoff
from shared.adapters.clock import SystemClock, SystemRandom
from shared.adapters.database import DatabaseUnits, open_units
from shared.adapters.database.unit_of_work import DatabaseUnitOfWork
from shared.adapters.in_process.bus import InProcessBus, InProcessDelivery
from shared.adapters.infrastructure import Infrastructure
from shared.adapters.no_telemetry import NoTelemetry
from shared.errors import Rejected, Stale, Unavailable
from shared.events import BudgetRefused, ClientSeen, JobCancelled
from shared.events.base import DeadlinePassed, Envelope
from shared.ports import State
from shared.service import Service, queue_for


class Count(State):
    kind: ClassVar[str] = "count"
    value: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        return ("n",)


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - polls the bus
            await asyncio.sleep(0.001)


class FailsOnce:
    """Units whose next commit fails."""

    def __init__(self, units) -> None:
        self.inner, self.commits_to_fail = units, 1

    def __getattr__(self, name):
        return getattr(self.inner, name)

    @asynccontextmanager
    async def begin(self, cause=None):
        async with self.inner.begin(cause) as unit:
            yield unit
            if cause is not None and self.commits_to_fail:
                self.commits_to_fail -= 1

                async def fail() -> None:
                    raise Unavailable("commit failed")

                unit.flush = fail


class World:
    """One database and one bus, on which services start and stop."""

    def __init__(self, url: str) -> None:
        self.url, self.bus, self.calls = url, InProcessBus(), []

    @asynccontextmanager
    async def running(self, handlers, wrap=lambda units: units):
        units = wrap(await open_units(self.url, "s", SystemClock(), str))
        infrastructure = Infrastructure(
            self.bus, units, None, None, SystemClock(), SystemRandom(), NoTelemetry()
        )
        service = Service("s", queue_for("s", handlers), handlers, self, infrastructure)
        stop, started = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(service.run(stop, started))
        await started.wait()
        try:
            yield service
        finally:
            stop.set()
            await task
            await units.close()

    async def send(self, job_id: str = "j1") -> Envelope:
        envelope = Envelope.wrap(JobCancelled(job_id=job_id))
        await self.bus.publish(envelope)
        return envelope

    def unanswered(self) -> int:
        state = self.bus._queues["s"]
        return len(state.messages) + sum(len(c.in_flight) for c in state.consumers) + len(self.bus._retries)


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(backoff, "FIRST_RETRY_S", 0.0)
    return World(f"sqlite+aiosqlite:///{tmp_path / 's.sqlite'}")


async def count(event, unit, world) -> None:
    world.calls.append(event.job_id)
    state = await unit.find(Count, "n") or Count()
    await unit.save(state.replace(value=state.value + 1))


async def hold(event, unit, world) -> None:
    world.calls.append(event.job_id)
    unit.release("g") if event.job_id == "release" else unit.hold("g")


async def test_a_hold_whose_commit_failed_is_handled_again(world) -> None:
    async with world.running({JobCancelled: hold}, FailsOnce):
        await world.send()
        await until(lambda: world.calls == ["j1", "j1"])
        await world.send("release")
        await until(lambda: world.unanswered() == 0)
    assert world.calls == ["j1", "j1", "release"]


async def test_held_messages_come_back_after_a_restart_until_released(world) -> None:
    async with world.running({JobCancelled: hold}):
        await world.send()
        await until(lambda: world.calls == ["j1"])
        assert world.unanswered() == 1
        world.bus._queues["s"].consumers[0].paused = True
    async with world.running({JobCancelled: hold}):
        await until(lambda: world.calls == ["j1", "j1"])
        await world.send("release")
        await until(lambda: world.unanswered() == 0)


@pytest.mark.parametrize(
    ("error", "calls", "dead"),
    [(Stale, 1, 0), (Rejected, 1, 1), (Unavailable, 20, 1), (ZeroDivisionError, 20, 1)],
)
async def test_an_outcome_decides_what_becomes_of_the_message(world, error, calls, dead) -> None:
    async def fail(event, unit, world) -> None:
        world.calls.append(event.job_id)
        raise error("no")

    async with world.running({JobCancelled: fail}):
        await world.send()
        await until(lambda: len(world.calls) == calls and world.unanswered() == 0)
        assert len(await world.bus.dead_letters()) == dead


async def test_duplicates_and_a_failed_commit_count_once(world) -> None:
    async with world.running({JobCancelled: count}, FailsOnce) as service:
        envelope = await world.send()
        await world.bus.publish(envelope)
        await world.send("j2")
        await until(lambda: world.unanswered() == 0)
        async with service.infrastructure.units.begin() as unit:
            assert (await unit.load(Count, "n")).value == 2


@pytest.mark.parametrize(
    ("errors", "calls"), [([], 1), ([Stale], 1), ([Rejected], 1), ([ZeroDivisionError], 2)]
)
async def test_a_deadline_is_gone_unless_its_handler_fails_unexpectedly(world, errors, calls) -> None:
    async def fire(event, unit, world) -> None:
        world.calls.append(event.name)
        if errors and len(world.calls) == 1:
            raise errors[0]("no")

    async with world.running({DeadlinePassed: fire}) as service:
        now = SystemClock().now()

        async def plan(unit) -> None:
            await unit.schedule("d", (), now)
            await unit.schedule("moved", (), now)
            await unit.schedule("moved", (), now + timedelta(hours=1))
            await unit.schedule("cancelled", (), now)
            await unit.unschedule("cancelled", ())

        await service.transact(plan)
        await until(lambda: len(world.calls) == calls)
    assert world.calls == ["d"] * calls


async def test_transact_within_a_handler_is_a_clear_error(world) -> None:
    async with world.running({JobCancelled: count}) as service:

        async def nested(unit) -> None:
            await service.transact(nested)

        with pytest.raises(RuntimeError, match="a transaction is open here already"):
            await service.transact(nested)


async def test_a_stop_waits_for_what_is_in_flight(world) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event, unit, world) -> None:
        entered.set()
        await go_on.wait()
        world.calls.append(event.job_id)

    async with world.running({JobCancelled: slow}):
        await world.send()
        await entered.wait()
        asyncio.get_running_loop().call_later(0.01, go_on.set)
    assert world.calls == ["j1"]
    assert world.unanswered() == 0


async def test_an_ephemeral_event_leaves_no_inbox_row(world) -> None:
    async def see(event, unit, world) -> None:
        world.calls.append(event.client_id)

    envelope = Envelope.wrap(ClientSeen(client_id="a"))
    async with world.running({ClientSeen: see}):
        for _ in range(2):
            await world.bus.publish(envelope)
        await until(lambda: world.calls == ["a", "a"] and world.unanswered() == 0)
    with sqlite3.connect(world.url.removeprefix("sqlite+aiosqlite:///")) as connection:
        assert connection.execute("SELECT count(*) FROM inbox").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("broken", ["nothing", "handler", "flush", "ack", "publish", "published"])
async def test_a_failure_anywhere_counts_once_and_publishes_one_id(world, monkeypatch, broken) -> None:
    failures, received = ([] if broken == "nothing" else [broken]), []

    def fails_once(owner, name) -> None:
        original = getattr(owner, name)

        async def method(self, *arguments):
            if failures == [broken] and not (broken == "publish" and arguments[0].causation_id == ""):
                failures.clear()
                raise Unavailable(f"{name} failed")
            return await original(self, *arguments)

        monkeypatch.setattr(owner, name, method)

    owners = {"flush": DatabaseUnitOfWork, "ack": InProcessDelivery, "publish": InProcessBus}
    owners["published"] = DatabaseUnits
    if broken in owners:
        fails_once(owners[broken], broken)

    async def handle(event, unit, world) -> None:
        await count(event, unit, world)
        unit.publish(BudgetRefused.model_construct(job_id=event.job_id))
        if failures == ["handler"]:
            failures.clear()
            raise Unavailable("handler failed")

    async def receive(delivery) -> None:
        received.append(delivery.envelope.event_id)
        await delivery.ack()

    # Nobody has declared the outgoing event's queue yet: the outbox waits for it, across a restart.
    async with world.running({JobCancelled: handle}):
        for job_id in ("j1", "j2"):
            await world.send(job_id)
        await until(lambda: world.unanswered() == 0)
    await world.bus.subscribe(queue_for("out", [BudgetRefused]), receive)
    async with world.running({JobCancelled: handle}) as service:
        await until(lambda: len(set(received)) == 2 and not failures)
        async with service.infrastructure.units.begin() as unit:
            assert (await unit.load(Count, "n")).value == 2
    assert len(set(received)) == 2


@pytest.mark.parametrize("order", [("j1", "j2", "j3"), ("j3", "j1", "j2"), ("j2", "j3", "j1")])
async def test_duplicates_in_any_order_give_the_same_state(world, order) -> None:
    envelopes = {job_id: Envelope.wrap(JobCancelled(job_id=job_id)) for job_id in order}
    async with world.running({JobCancelled: count}) as service:
        for job_id in (*order, *reversed(order)):
            await world.bus.publish(envelopes[job_id])
        await until(lambda: world.unanswered() == 0)
        async with service.infrastructure.units.begin() as unit:
            assert (await unit.load(Count, "n")).value == 3


async def test_a_handler_that_transacts_is_told_why_it_may_not(world) -> None:
    async def nothing(unit) -> None:
        pass

    async def handle(event, unit, world) -> None:
        await service.transact(nothing)

    async with world.running({JobCancelled: handle}) as service:
        await world.send()
        await until(lambda: world.bus._dead)
        [(_, reason)] = await world.bus.dead_letters()
    assert "a transaction is open here already" in reason
