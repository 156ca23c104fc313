"""Publishes what transactions committed: at once from memory, after a failure or a start from the outbox."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from shared.errors import Unavailable, Unroutable
from shared.events.base import Channel, Envelope
from shared.ports import Bus, Clock, UnitsOfWork

log = structlog.get_logger()

BACKOFF_S = (0.05, 0.2, 1.0, 3.0)
FORGET_AFTER_S = 0.1  # confirmed rows are deleted together; a crash before that publishes them again
LOOK_EVERY_S = 10.0  # for rows that a replica which died has left
UNROUTABLE_FOR = timedelta(hours=1)  # an inbox that is gone that long does not come back


class OutboxRelay:
    """At-least-once publication of one service's outbox; its repeats carry the same event_id."""

    def __init__(self, bus: Bus, units: UnitsOfWork, clock: Clock) -> None:
        self._bus, self._units, self._clock = bus, units, clock
        self._fresh: list[Envelope] = []
        self._confirmed: list[str] = []
        self._in_memory: set[str] = set()  # fresh, or confirmed and still in the table
        self._woken, self._caught_up = asyncio.Event(), asyncio.Event()
        self._unroutable_since: dict[str, datetime] = {}

    def committed(self, envelopes: Sequence[Envelope]) -> None:
        """Publish these rows soon; they are in the outbox already."""
        if envelopes:
            self._fresh.extend(envelopes)
            self._in_memory.update(envelope.event_id for envelope in envelopes)
            self._caught_up.clear()
            self._woken.set()

    async def run(self) -> None:
        """Relay until cancelled."""
        failures, stored = 0, True
        while True:
            left = False
            try:
                if stored:
                    await self._forget()
                    left = await self._publish_stored()
                while self._fresh:
                    left |= not await self._publish_fresh()
                self._caught_up.set()
                stored = left
            except Unavailable as error:
                log.warning("outbox not reached", reason=str(error))
                left = stored = True
            failures = failures + 1 if left else 0
            if left:
                await self._wait(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
            else:
                if self._confirmed and not await self._wait(FORGET_AFTER_S):
                    with suppress(Unavailable):
                        await self._forget()
                if not self._fresh and not await self._wait(LOOK_EVERY_S):
                    stored = True

    async def caught_up(self) -> None:
        """Return once what was committed so far has been tried."""
        await self._caught_up.wait()

    async def flush(self) -> None:
        """Publish what can be published now, once; the rest stays in the outbox for the next start."""
        with suppress(Unavailable):
            while self._fresh:
                await self._publish_fresh()
            await self._forget()
        self._caught_up.set()

    async def _wait(self, longest_s: float) -> bool:
        """Whether something was committed within `longest_s`."""
        try:
            async with asyncio.timeout(longest_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def _publish_fresh(self) -> bool:
        envelopes, self._fresh = self._fresh, []
        return await self._publish(envelopes)

    async def _publish_stored(self) -> bool:
        """Whether rows are left."""
        left = False
        while not left:
            stored = [row for row in await self._units.outgoing() if row.event_id not in self._in_memory]
            if not stored:
                break
            left = not await self._publish(stored)
            await self._forget()
        return left

    async def _publish(self, envelopes: Sequence[Envelope]) -> bool:
        """Whether all of them may be forgotten."""
        gone = await asyncio.gather(*(self._publish_one(envelope) for envelope in envelopes))
        self._confirmed += [e.event_id for e, done in zip(envelopes, gone, strict=True) if done]
        self._in_memory.difference_update(
            e.event_id for e, done in zip(envelopes, gone, strict=True) if not done
        )
        return all(gone)

    async def _publish_one(self, envelope: Envelope) -> bool:
        try:
            await self._bus.publish(envelope)
        except Unroutable:
            return self._given_up(envelope)
        except Unavailable as error:
            log.info("not published", reason=str(error), message=envelope.type_name)
            return False
        self._unroutable_since.pop(envelope.event_id, None)
        return True

    def _given_up(self, envelope: Envelope) -> bool:
        """A client whose inbox stays away loses its message; a service's queue is waited for."""
        now = self._clock.now()
        if envelope.event_id not in self._unroutable_since:
            log.info("no queue takes it yet", message=envelope.type_name, routing_key=envelope.routing_key)
        since = self._unroutable_since.setdefault(envelope.event_id, now)
        if envelope.channel is Channel.DOWN and now - since > UNROUTABLE_FOR:
            log.warning("dropped: no inbox", message=envelope.type_name, routing_key=envelope.routing_key)
            del self._unroutable_since[envelope.event_id]
            return True
        return False

    async def _forget(self) -> None:
        confirmed, self._confirmed = self._confirmed, []
        if confirmed:
            try:
                await self._units.published(confirmed)
            except Unavailable:
                self._confirmed = confirmed + self._confirmed
                raise
            self._in_memory.difference_update(confirmed)
