"""Whatever happens in whatever order, no budget is passed, and the ledger says exactly what was spent."""

import asyncio
import itertools
import tempfile
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.accountant.handlers import LEDGER
from services.accountant.limits import AUDIT
from services.accountant.state import Ledger
from shared.adapters.database import migrate
from shared.core.chain import export
from shared.core.privacy import Mechanism, composed, epsilon
from shared.core.privacy.ledger import verify
from shared.errors import Rejected, Stale, Unavailable
from shared.events import BudgetRequested, BudgetReserved, LedgerExtended, LimitRaised
from shared.events.base import Envelope, Event
from shared.events.values import PoissonSampled
from tests.accountant_at_work import START, Accountant, Crash, SetClock, as_line, report, request
from tests.servers import postgres

DELTA = 1e-5
JOBS, CLIENTS, ROUNDS = ("x", "y"), ("a", "b"), (1, 2, 3, 4, 5)
KEYS = [(job, f"{job}-r{number}", client) for job in JOBS for number in ROUNDS for client in CLIENTS]
REPLICAS, ATTEMPTS = 3, 100


def cost(steps):
    return epsilon([Mechanism(0.1, 1.0, steps)], DELTA)


JOB_STEPS, OVERALL_STEPS = 7, 9
OWN_STEPS = {"a": JOB_STEPS, "b": 5}  # b has a limit of its own in each job


@dataclass(frozen=True)
class Wait:
    """Time passes, and a replica looks at its deadlines."""

    seconds: int


@dataclass(frozen=True)
class Delivery:
    """An event, how many replicas get it at the same moment, and when the first of them dies."""

    event: Event
    copies: int
    crash: int | bool | None


@dataclass(frozen=True)
class Tell:
    """A report on one of the reservations that are open, or, of none or `any_`, on any that can be."""

    which: int
    steps: int
    any_: bool


@dataclass
class Known:
    """What a careful reader of the messages counts for one reservation."""

    reserved: int
    steps: int
    status: str = "reserved"


def asked(job, number, who, steps):
    mechanism = PoissonSampled(sampling_rate=0.1, noise_multiplier=1.0, steps=steps)
    return request(number, tuple(who), job, mechanism, cost(JOB_STEPS), DELTA)


def raised(client, steps):
    return LimitRaised(
        limit="client-epsilon", client_id=client, value=cost(steps), reason="asked", raised_by="op"
    )


jobs, rounds, clients = st.sampled_from(JOBS), st.sampled_from(ROUNDS), st.sampled_from(CLIENTS)
crashes = st.sampled_from([None, None, None, True, 0, 1, 2, 3])
cohorts = st.lists(clients, min_size=1, max_size=3)
asks = st.builds(asked, jobs, rounds, cohorts, st.integers(1, 4))
tells = st.builds(Tell, st.integers(0, 19), st.integers(0, 5), st.sampled_from([False, False, False, True]))
raises = st.builds(raised, clients, st.integers(8, 12))
deliveries = st.builds(
    Delivery,
    event=st.one_of(asks, asks, tells, tells, tells, raises),
    copies=st.sampled_from([1, 1, 1, 2]),
    crash=crashes,
)
waits = st.builds(Wait, st.sampled_from([10, 61]))


class LedgerMachine(RuleBasedStateMachine):
    """Replicas over one database, several at a time, against what their messages say.

    `server` is a PostgreSQL with a migrated database `template`, or empty: then it is an SQLite file.
    """

    server = ""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner, self.clock = asyncio.Runner(), SetClock()
        self.name = f"d{uuid.uuid4().hex[:12]}"
        if self.server:
            create = f"CREATE DATABASE {self.name} TEMPLATE template"
            self.runner.run(postgres.execute(self.server, create))
        self.replicas = [self.started(number) for number in range(REPLICAS)]
        self.counted = {}  # (job, round, client): Known
        self.expiry = {}  # (job, round): when
        self.overall_steps = dict.fromkeys(CLIENTS, OVERALL_STEPS)
        self.raises = 0
        self.handled = []  # envelopes that may be delivered again
        self.exported = b""

    def started(self, number):
        own = {"b": {"epsilon": cost(OWN_STEPS["b"])}}
        url = f"sqlite+aiosqlite:///{Path(self.folder.name) / 'accountant.db'}"
        if self.server:  # the option makes an engine of its own for each replica
            url = f"{self.server}/{self.name}?prepared_statement_cache_size={100 + number}"
        opening = Accountant.open(url, self.clock, client_epsilon=cost(OVERALL_STEPS), clients=own)
        return self.runner.run(opening)

    async def attempt(self, replica, envelope, event, crash=None):
        """What was published, or how it ended; a lost race is delivered again, as a broker does."""
        for _ in range(ATTEMPTS):
            try:
                return await self.replicas[replica].handle_envelope(envelope, event, crash)
            except Unavailable:
                continue
            except (Stale, Rejected, Crash) as outcome:
                return outcome
        raise AssertionError(f"{event} lost {ATTEMPTS} races")

    async def deliver(self, replica, delivery):
        """The event as it was sent, and each copy's outcome."""
        event = self.as_event(delivery.event)
        envelope = Envelope.wrap(event)
        crashes = [delivery.crash, *[None] * (delivery.copies - 1)]
        outcomes = await asyncio.gather(
            *(
                self.attempt((replica + copy) % REPLICAS, envelope, event, crash)
                for copy, crash in enumerate(crashes)
            )
        )
        successes = [one for one in outcomes if isinstance(one, list)]
        assert len(successes) <= 1, "one event was handled twice"
        if successes:
            self.handled.append((envelope, event))
        return event, outcomes

    def as_event(self, doing):
        if isinstance(doing, Tell):
            open_ = [key for key, one in sorted(self.counted.items()) if one.status == "reserved"]
            possible = open_ if open_ and not doing.any_ else KEYS
            job, round_id, client = possible[doing.which % len(possible)]
            return report(int(round_id.rpartition("-r")[2]), client, doing.steps, job)
        if isinstance(doing, BudgetRequested):
            return doing.model_copy(update={"expires_at": self.clock.time + timedelta(seconds=60)})
        return doing

    async def look(self, replica):
        """Handle the deadlines that have come; another replica may be doing the same."""
        due, _ = await self.replicas[replica].units.due(self.clock.time)
        return None, [await self.attempt(replica, envelope, envelope.open()) for envelope in due]

    @rule(
        numbers=st.sets(rounds, min_size=1),
        steps=st.integers(1, 2),
        used=st.integers(0, 2),
        late=st.booleans(),
        crash=crashes,
    )
    def crowd(self, numbers, steps, used, late, crash):
        """Rounds of every job ask while every open reservation is reported, perhaps at its deadline."""
        asking = [Delivery(asked(job, number, CLIENTS, steps), 1, None) for number in numbers for job in JOBS]
        telling = [Delivery(Tell(which, used, any_=False), 1, crash) for which in range(len(self.counted))]
        pairs = itertools.zip_longest(telling, [Wait(61)] * REPLICAS * late + asking)
        self.together_from(0, [doing for pair in pairs for doing in pair if doing])

    @rule(first=st.integers(0, REPLICAS - 1), doings=st.lists(deliveries | waits, min_size=1, max_size=5))
    def together(self, first, doings):
        self.together_from(first, doings)

    def together_from(self, first, doings):
        self.clock.time += timedelta(seconds=sum(one.seconds for one in doings if isinstance(one, Wait)))

        async def all_of_them():
            return await asyncio.gather(
                *(
                    self.look((first + place) % REPLICAS)
                    if isinstance(doing, Wait)
                    else self.deliver((first + place) % REPLICAS, doing)
                    for place, doing in enumerate(doings)
                )
            )

        self.count(self.runner.run(all_of_them()))

    @rule(replica=st.integers(0, REPLICAS - 1))
    def expire(self, replica):
        self.clock.time += timedelta(seconds=61)
        self.count([self.runner.run(self.look(replica))])
        late = [key for key, one in self.counted.items() if one.status == "reserved"]
        assert late == [], "a reservation outlived its deadline"

    @rule(which=st.integers(0, 1_000))
    def repeat(self, which):
        if self.handled:
            envelope, event = self.handled[which % len(self.handled)]
            outcome = self.runner.run(self.attempt(which % REPLICAS, envelope, event))
            assert isinstance(outcome, Stale), "an event was handled twice"

    @rule(replica=st.integers(0, REPLICAS - 1))
    def restart(self, replica):
        self.runner.run(self.replicas[replica].units.close())
        self.replicas[replica] = self.started(replica)

    def count(self, results):
        """Take in what happened at the same time, in the one order that explains it: reserved, settled."""
        before = {key: one.status for key, one in self.counted.items()}
        overall_before = dict(self.overall_steps)
        said = [
            (event, one)
            for event, outcomes in results
            for outcome in outcomes
            if isinstance(outcome, list)
            for one in outcome
        ]
        for _, one in said:
            if isinstance(one, BudgetReserved):
                self.reserved(one, before)
        for event, one in said:
            if isinstance(one, LedgerExtended):
                self.settled(event, one)
        for event, outcomes in results:
            if isinstance(event, LimitRaised) and any(isinstance(one, list) for one in outcomes):
                steps = next(steps for steps in range(8, 13) if cost(steps) == event.value)
                assert steps > overall_before[event.client_id], "a raise raised nothing"
                self.overall_steps[event.client_id] = max(self.overall_steps[event.client_id], steps)
                self.raises += 1
            for outcome in outcomes:
                if event is not None and event.type_name == "budget.spent.v1":
                    self.explained(event, outcome, before)

    def reserved(self, said, before):
        for one in said.reservations:
            key = (said.job_id, said.round_id, one.client_id)
            assert before.get(key) != "released", "what was released is handed out again"
            steps = one.mechanism.steps
            known = self.counted.setdefault(key, Known(steps, steps))
            if key not in before:
                known.reserved = known.steps = max(known.reserved, steps)

    def settled(self, event, said):
        known = self.counted[said.job_id, said.round_id, said.client_id]
        assert known.status == "reserved", "a reservation was settled twice"
        known.status = said.outcome
        if said.outcome != "expired":
            assert event.steps <= known.reserved
            known.steps = event.steps

    def explained(self, event, outcome, before):
        key = (event.job_id, event.round_id, event.client_id)
        if isinstance(outcome, Stale):
            assert self.counted[key].status != "reserved"
        if isinstance(outcome, Rejected):
            assert key not in before or event.steps > self.counted[key].reserved

    @invariant()
    def no_budget_is_passed(self):
        for client in CLIENTS:
            total = {job: self.counted_steps(job, client) for job in JOBS}
            assert all(steps <= OWN_STEPS[client] for steps in total.values())
            assert sum(total.values()) <= self.overall_steps[client]

    def counted_steps(self, job, client):
        return sum(k.steps for (j, _, c), k in self.counted.items() if (j, c) == (job, client))

    @invariant()
    def the_states_are_what_the_ledger_replays_to(self):
        exported, states, audit = self.runner.run(self.stored())
        assert exported.startswith(self.exported), "a line was changed or lost"
        self.exported = exported
        verdict = verify(exported)
        assert verdict.faults == ()
        replayed = {(one.job_id, one.client_id): one.mechanisms for one in verdict.spending}
        for client in {client for _, client in replayed}:
            replayed["", client] = composed(
                mechanism for (_, of), spent in replayed.items() if of == client for mechanism in spent
            )
        assert states == replayed
        counted = {(job, client): self.counted_steps(job, client) for job, _, client in self.counted}
        assert counted == {key: sum(one.steps for one in spent) for key, spent in replayed.items() if key[0]}
        assert audit == self.raises

    async def stored(self):
        """The ledger's export, each client's spending by (job, client), and how long the log of limits is."""
        async with self.replicas[0].units.begin() as unit:
            entries, rows = await unit.read(LEDGER), await unit.select(Ledger)
            audit = await unit.read(AUDIT)
        states = {(one.job_id, one.client_id): one.spending.core() for one in rows}
        return export(as_line(entry) for entry in entries), states, len(audit)

    def teardown(self):
        try:
            lines = self.exported.splitlines(keepends=True)
            prefixes = (b"".join(lines[:count]) for count in range(len(lines) + 1))
            assert all(verify(prefix).faults == () for prefix in prefixes)
        finally:
            for one in self.replicas:
                self.runner.run(one.units.close())
            if self.server:
                drop = f"DROP DATABASE {self.name} WITH (FORCE)"
                self.runner.run(postgres.execute(self.server, drop))
            self.runner.close()
            self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, print_blob=True
)
TestLedger = LedgerMachine.TestCase


@pytest.fixture(scope="module")
def migrated_server(postgres_server):
    """A PostgreSQL whose database `template` has every table."""

    async def prepare():
        await postgres.execute(postgres_server, "CREATE DATABASE template")
        await migrate(f"{postgres_server}/template")

    asyncio.run(prepare())
    return postgres_server


def test_replicas_on_one_postgresql_pass_no_budget_and_count_nothing_twice(migrated_server):
    class OnPostgreSQL(LedgerMachine):
        server = migrated_server

    run_state_machine_as_test(
        OnPostgreSQL,
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            deadline=None,
            print_blob=True,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a race shrinks for minutes
        ),
    )


def an_export():
    async def lived():
        with tempfile.TemporaryDirectory() as folder:
            accountant = await Accountant.open(f"sqlite+aiosqlite:///{folder}/accountant.db")
            await accountant.handle(request(1))
            await accountant.handle(report(1, "a", 1))
            await accountant.pass_deadlines(START + timedelta(seconds=61))
            exported = await accountant.export()
            await accountant.units.close()
            return exported

    return asyncio.run(lived())


EXPORT = an_export()


@given(position=st.integers(0, len(EXPORT) - 1), byte=st.none() | st.integers(0, 255))
@settings(max_examples=400, deadline=None)
def test_any_byte_changed_or_lost_is_reported_with_its_line(position, byte):
    if byte == EXPORT[position]:
        byte = byte ^ 1
    changed = EXPORT[:position] + (b"" if byte is None else bytes([byte])) + EXPORT[position + 1 :]
    line = EXPORT[:position].count(b"\n") + 1
    assert verify(changed).faults[0].line == line


def test_the_untouched_export_has_no_fault_and_prefixes_differ():
    lines = EXPORT.splitlines(keepends=True)
    heads = [verify(b"".join(lines[:count])).head_sha256 for count in range(len(lines) + 1)]
    assert len(set(heads)) == len(lines) + 1 == 5
    assert all(a != b for a, b in itertools.pairwise(heads))
