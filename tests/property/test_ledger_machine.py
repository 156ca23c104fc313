"""Whatever happens in whatever order, no budget is passed, and the ledger says exactly what was spent."""

import asyncio
import itertools
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.ledger import verify
from shared.errors import Rejected, Stale
from shared.events import BudgetReserved
from shared.events.base import Envelope
from shared.events.values import PoissonGaussian
from tests.accountant_at_work import START, Accountant, Crash, SetClock, report, request

DELTA = 1e-5
JOBS, CLIENTS, ROUNDS = ("x", "y"), ("a", "b"), (1, 2, 3)


def cost(steps):
    return epsilon([Mechanism(0.1, 1.0, steps)], DELTA)


JOB_LIMIT, OVERALL_LIMIT = cost(7), cost(9)
jobs, rounds, clients = st.sampled_from(JOBS), st.sampled_from(ROUNDS), st.sampled_from(CLIENTS)
crashes = st.sampled_from([False, False, False, True])


class LedgerMachine(RuleBasedStateMachine):
    """Two replicas over one database against what a careful reader of their messages would count."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner, self.clock = asyncio.Runner(), SetClock()
        self.replicas = [self.started(), self.started()]
        self.counted = {}  # (job, round, client): [reserved steps, steps that count, status, expires at]
        self.expiry = {}  # (job, round): when
        self.handled = []  # (envelope, event): what may be delivered again

    def started(self):
        url = f"sqlite+aiosqlite:///{Path(self.folder.name) / 'accountant.db'}"
        return self.runner.run(Accountant.open(url, self.clock, client_epsilon=OVERALL_LIMIT))

    def deliver(self, replica, event, crash):
        envelope = Envelope.wrap(event)
        said = self.runner.run(self.replicas[replica].handle_envelope(envelope, event, crash))
        self.handled.append((envelope, event))
        return said

    @rule(
        replica=st.integers(0, 1),
        job=jobs,
        number=rounds,
        who=st.lists(clients, min_size=1, max_size=3),
        steps=st.integers(1, 4),
        crash=crashes,
    )
    def ask(self, replica, job, number, who, steps, crash):
        mechanism = PoissonGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=steps)
        after_s = (self.clock.time - START).total_seconds() + 60
        event = request(number, tuple(who), job, mechanism, JOB_LIMIT, DELTA, after_s)
        try:
            *_, said = self.deliver(replica, event, crash)  # warnings come before the answer
        except Crash:
            return
        if not isinstance(said, BudgetReserved):
            return
        self.expiry[job, number] = event.expires_at
        for one in said.reservations:
            known = self.counted.setdefault(
                (job, number, one.client_id), [one.mechanism.steps, one.mechanism.steps, "reserved"]
            )
            assert known[2] != "released", "what was released is handed out again"

    @rule(
        replica=st.integers(0, 1),
        job=jobs,
        number=rounds,
        client=clients,
        steps=st.integers(0, 5),
        crash=crashes,
    )
    def tell(self, replica, job, number, client, steps, crash):
        known = self.counted.get((job, number, client))
        try:
            self.deliver(replica, report(number, client, steps, job), crash)
        except Crash:
            return
        except Stale:
            assert known[2] != "reserved"
            return
        except Rejected:
            assert known is None or steps > known[0]
            return
        assert known[2] == "reserved"
        assert steps <= known[0]
        known[1], known[2] = steps, "committed" if steps else "released"

    @rule(replica=st.integers(0, 1), which=st.integers(0, 1_000))
    def repeat(self, replica, which):
        if self.handled:
            envelope, event = self.handled[which % len(self.handled)]
            try:
                self.runner.run(self.replicas[replica].handle_envelope(envelope, event))
            except Stale:
                return
            raise AssertionError(f"{event} was handled twice")

    @rule(replica=st.integers(0, 1), seconds=st.sampled_from([10, 61]))
    def wait(self, replica, seconds):
        self.runner.run(self.replicas[replica].pass_deadlines(self.clock.time + timedelta(seconds=seconds)))
        for (job, number), at in list(self.expiry.items()):
            if at <= self.clock.time:
                del self.expiry[job, number]
                for (of_job, of_round, _), known in self.counted.items():
                    if (of_job, of_round) == (job, number) and known[2] == "reserved":
                        known[2] = "expired"

    @rule(replica=st.integers(0, 1))
    def restart(self, replica):
        self.runner.run(self.replicas[replica].units.close())
        self.replicas[replica] = self.started()

    @invariant()
    def no_budget_is_passed(self):
        for client in CLIENTS:
            total = {
                job: sum(k[1] for (j, _, c), k in self.counted.items() if (j, c) == (job, client))
                for job in JOBS
            }
            assert all(cost(steps) <= JOB_LIMIT + 1e-9 for steps in total.values())
            assert cost(sum(total.values())) <= OVERALL_LIMIT + 1e-9

    def teardown(self):
        try:
            self.compare_with_the_ledger()
        finally:
            for one in self.replicas:
                self.runner.run(one.units.close())
            self.runner.close()
            self.folder.cleanup()

    def compare_with_the_ledger(self):
        exported = self.runner.run(self.replicas[0].export())
        lines = exported.splitlines(keepends=True)
        verdicts = [verify(b"".join(lines[:count])) for count in range(len(lines) + 1)]
        assert [verdict.faults for verdict in verdicts] == [()] * len(verdicts)
        ledger = {(one.job_id, one.client_id): one.epsilon() for one in verdicts[-1].spending}
        counted = {
            (job, client): cost(sum(k[1] for (j, _, c), k in self.counted.items() if (j, c) == (job, client)))
            for job, _, client in self.counted
        }
        assert ledger == counted


LedgerMachine.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, print_blob=True
)
TestLedger = LedgerMachine.TestCase


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
