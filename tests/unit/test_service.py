"""The service loop: every event counts once, whatever fails in between."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import ClassVar

import pytest

from shared.adapters import backoff
from shared.adapters.clock import SystemClock, SystemRandom
from shared.adapters.database import open_units
from shared.adapters.in_process.bus import InProcessBus
from shared.adapters.infrastructure import Infrastructure
from shared.adapters.no_telemetry import NoTelemetry
from shared.errors import Rejected, Stale, Unavailable
from shared.events import JobCancelled
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
    async with asyncio.timeout(5):
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
