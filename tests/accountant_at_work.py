"""The accountant's handlers over real transactions, on a clock that tests set."""

import json
from datetime import UTC, datetime, timedelta

from services.accountant.context import Accounting
from services.accountant.handlers import HANDLERS, LEDGER
from services.accountant.settings import AccountantSettings
from services.accountant.state import Held
from shared.adapters.database import open_units
from shared.adapters.no_telemetry import NoTelemetry
from shared.core.chain import Line, export
from shared.events import BudgetRequested, BudgetSpent
from shared.events.base import Envelope, derived_event_id
from shared.events.values import PoissonSampled

START = datetime(2026, 1, 1, tzinfo=UTC)
ROUND = PoissonSampled(sampling_rate=0.1, noise_multiplier=1.0, steps=4)


class SetClock:
    """Time that moves when a test moves it."""

    def __init__(self):
        self.time = START

    def now(self):
        return self.time


class Accountant:
    """One replica. `published` holds what it has said, in order."""

    def __init__(self, units, clock, context):
        self.units, self.clock, self.context, self.published = units, clock, context, []

    @classmethod
    async def open(cls, url, clock=None, telemetry=None, **settings):
        clock = clock or SetClock()
        units = await open_units(url, "accountant", clock, lambda: "accountant")
        return cls(units, clock, Accounting(AccountantSettings(**settings), telemetry or NoTelemetry()))

    async def handle(self, event, event_id=None, crash=None):
        """Handle an event in a transaction of its own.

        `crash` ends it before the commit: True at the very end, a number when so many states were saved.
        """
        envelope = Envelope.wrap(event, **({"event_id": event_id} if event_id else {}))
        return await self.handle_envelope(envelope, event, crash)

    async def handle_envelope(self, envelope, event, crash=None):
        async with self.units.begin(envelope) as unit:
            used = Dying(unit, crash) if type(crash) is int else unit
            await HANDLERS[type(event)](event, used, self.context)
            if crash is not None:
                raise Crash
            said = [one.open() for one in unit.outgoing]
        self.published += said
        return said

    async def pass_deadlines(self, moment):
        self.clock.time = moment
        due, _ = await self.units.due(moment)
        for envelope in due:
            await self.handle_envelope(envelope, envelope.open())

    async def export(self):
        async with self.units.begin() as unit:
            entries = await unit.read(LEDGER)
        return export(as_line(entry) for entry in entries)

    async def reservations(self, round_id):
        async with self.units.begin() as unit:
            return {one.client_id: one for one in await unit.select(Held, round_id)}


class Crash(Exception):
    """The process dies."""


class Dying:
    """A unit of work whose process dies when it wants to save once more."""

    def __init__(self, unit, saves):
        self._unit, self._saves = unit, saves

    def __getattr__(self, name):
        return getattr(self._unit, name)

    async def save(self, state):
        if not self._saves:
            raise Crash
        self._saves -= 1
        await self._unit.save(state)


def as_line(entry):
    return Line(entry.sequence, entry.previous_sha256, entry.entry_sha256, json.loads(entry.body))


def request(number=1, clients=("a", "b"), job="j", mechanism=ROUND, epsilon=8.0, delta=1e-5, after_s=60):
    return BudgetRequested(
        job_id=job, round_id=f"{job}-r{number}", clients=clients, mechanism=mechanism, planned_rounds=3,
        epsilon=epsilon, delta=delta, expires_at=START + timedelta(seconds=after_s),
    )  # fmt: skip


def report(number=1, client="a", steps=4, job="j"):
    round_id = f"{job}-r{number}"
    return BudgetSpent(
        client_id=client, job_id=job, round_id=round_id, steps=steps,
        reservation_id=derived_event_id(round_id, client, 0),
    )  # fmt: skip
