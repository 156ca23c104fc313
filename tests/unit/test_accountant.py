"""The accountant's decisions over real transactions: reserve, commit, release, expire, refuse."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from services.accountant.state import (
    Asking,
    Denied,
    Granted,
    Held,
    Ledger,
    Limits,
    Spending,
    decide_all,
    settle,
)
from shared.adapters import database
from shared.adapters.database.tables import states
from shared.core.privacy import AdaptiveClipping, Mechanism, epsilon
from shared.core.privacy.accountants import forget
from shared.core.privacy.filters import LIFETIME_ORDER, RenyiFilter
from shared.core.privacy.ledger import verify
from shared.errors import Rejected, Stale
from shared.events import BudgetRefused, BudgetReserved, BudgetRunningLow, LedgerExtended
from shared.events.base import pack
from tests.accountant_at_work import ROUND, START, Accountant, Crash, report, request

DELTA = 1e-5


def after(steps):
    return epsilon([Mechanism(0.1, 1.0, steps)], DELTA)


async def outcomes(accountant):
    lines = (await accountant.export()).decode().splitlines()
    return [
        (body["outcome"], body["client"], body["mechanism"]["steps"])
        for body in (json.loads(line)["body"] for line in lines)
    ]


def decide(in_job, overall, asked, limits):
    return decide_all({"a": Asking(in_job, overall, limits, asked)})["a"]


def limits(job=8.0, overall=10.0):
    return Limits(job, DELTA, overall, DELTA)


def test_a_budget_may_be_spent_exactly_and_not_a_step_further():
    spent = Spending(mechanisms=(ROUND,))
    exact = limits(job=after(8))
    granted = decide(spent, spent, ROUND, exact)
    assert isinstance(granted, Granted)
    assert granted.epsilon_after == after(8)
    assert isinstance(decide(spent, spent, ROUND, limits(job=after(8) - 1e-10)), Denied)
    more = ROUND.model_copy(update={"steps": 5})
    denied = decide(spent, spent, more, exact)
    assert isinstance(denied, Denied)
    assert denied.reason == (
        f"epsilon {after(4):.3f} is spent of {after(8):g}; this round would make it {after(9):.3f}"
    )


def test_other_jobs_count_against_a_client():
    elsewhere = Spending(mechanisms=(ROUND.model_copy(update={"steps": 40}),))
    denied = decide(Spending(), elsewhere, ROUND, limits(overall=after(42)))
    assert isinstance(denied, Denied)
    assert denied.reason.startswith(f"over all jobs epsilon would be {after(44):.3f}")


def test_a_second_job_needs_the_room_of_a_filter_and_one_job_only_that_of_its_plan():
    """What the second asks may follow from the first one's result: the composition's own epsilon is no cap."""
    steps = 40
    spent = Spending(mechanisms=(ROUND.model_copy(update={"steps": steps}),))
    tight = limits(job=10.0, overall=after(steps + 4))
    assert isinstance(decide(spent, spent, ROUND, tight), Granted)
    denied = decide(Spending(), spent, ROUND, tight)
    assert isinstance(denied, Denied)
    assert "filter" in denied.reason
    budget = RenyiFilter(1.0, DELTA, LIFETIME_ORDER)
    needed = next(
        e / 100 for e in range(100, 2000)
        if RenyiFilter(e / 100, DELTA, LIFETIME_ORDER).limit >= budget.spent([Mechanism(0.1, 1.0, steps + 4)])
    )  # fmt: skip
    assert needed > after(steps + 4)
    assert isinstance(decide(Spending(), spent, ROUND, limits(job=10.0, overall=needed)), Granted)


def held(**changes):
    return Held(
        reservation_id="s", job_id="j", round_id="j-r1", client_id="a", mechanism=ROUND, epsilon_after=1,
        epsilon_rdp_after=1, epsilon_limit=8, delta=DELTA, expires_at=START,
    ).replace(**changes)  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "status", "unused"), [(4, "committed", None), (3, "committed", 1), (0, "released", 4)]
)
def test_what_was_not_used_comes_back(steps, status, unused):
    settled, left = settle(held(), steps)
    assert (settled.status, settled.mechanism.steps) == (status, steps)
    assert (left and left.steps) == unused


@pytest.mark.parametrize("status", ["committed", "released", "expired"])
def test_a_settled_reservation_is_not_settled_again(status):
    with pytest.raises(Stale, match=f"s is {status}"):
        settle(held(status=status), 1)


async def test_a_cohort_is_reserved_in_one_transaction(accountant):
    with pytest.raises(Crash):
        await accountant.handle(request(clients=("a", "b", "c")), crash=True)
    assert await outcomes(accountant) == []
    [reserved] = await accountant.handle(request(clients=("c", "a", "b")))
    assert isinstance(reserved, BudgetReserved)
    assert [one.client_id for one in reserved.reservations] == ["a", "b", "c"]
    assert {one.epsilon_after for one in reserved.reservations} == {after(4)}
    assert len(await outcomes(accountant)) == 3


async def test_a_repeated_request_is_given_the_same_reservations_and_costs_nothing(accountant):
    [first] = await accountant.handle(request(), event_id="e1")
    [again] = await accountant.handle(request(), event_id="e2")
    assert again == first
    assert len(await outcomes(accountant)) == 2
    with pytest.raises(Stale):
        await accountant.handle(request(), event_id="e1")


async def test_a_client_named_twice_is_charged_once(accountant):
    [reserved] = await accountant.handle(request(clients=("a", "a")))
    assert [one.epsilon_after for one in reserved.reservations] == [after(4)]
    assert await outcomes(accountant) == [("reserved", "a", 4)]


async def test_a_report_of_fewer_steps_gives_the_rest_back(accountant):
    await accountant.handle(request())
    [told] = await accountant.handle(report(steps=1))
    assert isinstance(told, LedgerExtended)
    assert (told.outcome, told.epsilon) == ("committed", after(1))
    assert told.epsilon_rdp == epsilon([Mechanism(0.1, 1.0, 1)], DELTA, "rdp")
    [reserved] = await accountant.handle(request(2))
    assert [one.epsilon_after for one in reserved.reservations] == [after(5), after(8)]


async def test_a_released_reservation_costs_nothing_and_cannot_be_used_later(accountant):
    await accountant.handle(request())
    [told] = await accountant.handle(report(steps=0))
    assert (told.outcome, told.epsilon) == ("released", 0)
    [again] = await accountant.handle(request())
    assert [one.client_id for one in again.reservations] == ["b"]
    [(left_out, reason)] = [(one.client_id, one.reason) for one in again.refused]
    assert left_out == "a"
    assert "released" in reason


async def test_an_expired_reservation_stays_spent_whatever_comes_later(accountant):
    await accountant.handle(request())
    await accountant.handle(report(client="b", steps=4))
    await accountant.pass_deadlines(START + timedelta(seconds=61))
    with pytest.raises(Stale, match="is expired"):
        await accountant.handle(report(steps=0))
    [reserved] = await accountant.handle(request(2))
    assert [one.epsilon_after for one in reserved.reservations] == [after(8), after(8)]
    assert (await outcomes(accountant))[2:4] == [("committed", "b", 4), ("expired", "a", 4)]


@pytest.mark.parametrize(
    "false",
    [
        report(steps=5),
        report(number=2),
        report(client="stranger"),
        report(job="other"),
        report().model_copy(update={"reservation_id": "s"}),
        report().model_copy(update={"job_id": "other"}),
    ],
    ids=["too-many-steps", "round", "client", "job", "reservation", "job-of-the-round"],
)
async def test_a_report_without_a_reservation_that_covers_it_is_rejected(accountant, false):
    await accountant.handle(request())
    with pytest.raises(Rejected):
        await accountant.handle(false)
    assert [one for one, _, _ in await outcomes(accountant)] == ["reserved", "reserved"]


async def test_a_budget_is_shared_by_rounds_that_overlap(accountant):
    limit = after(8)
    for number in (1, 2):
        await accountant.handle(request(number, epsilon=limit))
    [refused] = await accountant.handle(request(3, epsilon=limit))
    assert isinstance(refused, BudgetRefused)
    assert [one.client_id for one in refused.refused] == ["a", "b"]
    await accountant.handle(report(1, "a", steps=0))
    [reserved] = await accountant.handle(request(4, epsilon=limit))
    assert [one.client_id for one in reserved.reservations] == ["a"]
    assert [one.client_id for one in reserved.refused] == ["b"]


async def test_all_jobs_of_a_client_share_its_overall_budget(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/accountant.db"
    accountant = await Accountant.open(url, client_epsilon=after(9))
    await accountant.handle(request(job="one"))
    await accountant.handle(request(job="two"))
    [refused] = await accountant.handle(request(job="three", clients=("a", "new")))
    assert [one.client_id for one in refused.refused] == ["a"]
    assert "over all jobs" in refused.refused[0].reason
    assert [one.client_id for one in refused.reservations] == ["new"]
    await accountant.units.close()


@pytest.mark.parametrize(("epsilon_", "delta"), [(10.5, 1e-5), (8.0, 1e-4)], ids=["epsilon", "delta"])
async def test_no_job_passes_the_federations_ceiling(accountant, epsilon_, delta):
    [refused] = await accountant.handle(request(epsilon=epsilon_, delta=delta))
    assert isinstance(refused, BudgetRefused)
    assert all("over this federation's limit of 10 at 1e-05" in one.reason for one in refused.refused)
    assert await outcomes(accountant) == []


async def test_crossing_80_percent_warns_once(accountant):
    limit = after(20)
    warned = []
    for number in range(1, 6):
        said = await accountant.handle(request(number, clients=("a",), epsilon=limit))
        warned += [number for one in said if isinstance(one, BudgetRunningLow)]
    crossing = next(n for n in range(1, 6) if after(4 * n) >= 0.8 * limit)
    assert warned == [crossing]


async def test_the_ledger_states_the_standing_after_each_entry_and_verifies(accountant):
    await accountant.handle(request(1))
    await accountant.handle(request(2))
    await accountant.handle(report(1, "a", steps=2))
    await accountant.handle(report(2, "a", steps=4))  # all of it, after the first round shrank
    await accountant.pass_deadlines(START + timedelta(seconds=61))
    verdict = verify(await accountant.export())
    assert verdict.faults == ()
    assert {one.client_id: one.epsilon() for one in verdict.spending} == pytest.approx(
        {"a": after(6), "b": after(8)}, abs=1e-6
    )


async def test_a_cohort_of_many_histories_and_deltas_is_decided_at_once_and_verifies(accountant):
    names = [f"c{number}" for number in range(8)]
    for number in range(1, 6):
        mechanism = ROUND.model_copy(update={"noise_multiplier": 1 + number / 10})
        await accountant.handle(request(number, names[number:], job=f"j{number % 2}", mechanism=mechanism))
    await accountant.handle(report(2, "c5", steps=1, job="j0"))
    forget()
    records = {"c6": 20_000, "c7": 30_000}  # over all jobs these are held to a delta of their own
    asking = request(6, names, job="j0", delta=1e-6)
    said = await accountant.handle(asking.model_copy(update={"records": records}))
    [reserved] = [one for one in said if isinstance(one, BudgetReserved)]
    assert [one.client_id for one in reserved.reservations] == names
    verdict = verify(await accountant.export())
    assert verdict.faults == ()
    assert len({(one.job_id, one.mechanisms) for one in verdict.spending}) == 7


async def test_adaptive_clipping_keeps_its_bits_and_composes_with_itself(accountant):
    adaptive = ROUND.model_copy(update={"bits_noise_multiplier": 10.0})
    for number in (1, 2):
        [reserved] = await accountant.handle(request(number, ("a",), mechanism=adaptive))
        assert [one.mechanism for one in reserved.reservations] == [adaptive]
    await accountant.handle(report(1, "a", steps=1))
    exported = await accountant.export()
    stated = [json.loads(line)["body"]["mechanism"] for line in exported.splitlines()]
    assert [(one["bits_noise_multiplier"], one["steps"]) for one in stated] == [(10, 4), (10, 4), (10, 1)]
    verdict = verify(exported)
    assert verdict.faults == ()
    [spent] = verdict.spending
    assert spent.mechanisms == (AdaptiveClipping(0.1, 1.0, 5, bits_noise_multiplier=10.0),)
    async with accountant.units.begin() as unit:
        [overall] = await unit.select(Ledger, "client", "a")
    assert overall.spending.mechanisms == (adaptive.model_copy(update={"steps": 5}),)


def at_revision(connection, revision):
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_a_ledger_written_with_all_clients_in_one_row_is_taken_over(tmp_path):
    file = tmp_path / "accountant.db"
    reserved = held(client_id="a", reservation_id=report().reservation_id)
    spending = {"mechanisms": [ROUND.model_dump()]}
    old = {
        ("ledger", "job/j"): {"job_id": "j", "clients": {"a": spending}},
        ("ledger", "all"): {"job_id": "", "clients": {"a": spending, "b": spending}},
        ("reservation", "j-r1/a"): reserved.model_dump(),
    }
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        at_revision(connection, "0001")
        for (kind, key), body in old.items():
            row = {"service": "accountant", "kind": kind, "key": key, "body": pack(body)}
            connection.execute(sa.insert(states).values(row))
    engine.dispose()
    accountant = await Accountant.open(f"sqlite+aiosqlite:///{file}", client_epsilon=after(7))
    [told] = await accountant.handle(report(steps=3))
    assert (told.outcome, told.epsilon) == ("committed", after(3))
    *_, reserved = await accountant.handle(request(2))
    assert [(one.client_id, one.epsilon_after) for one in reserved.reservations] == [("a", after(7))]
    assert "over all jobs" in reserved.refused[0].reason
    await accountant.units.close()


@pytest.mark.parametrize("crash", [0, 1, 2, 3, True])
async def test_own_mechanisms_and_epsilons_are_reserved_once_whenever_the_process_dies(tmp_path, crash):
    own = ROUND.model_copy(update={"noise_multiplier": 2.0})
    asked = request(clients=("a", "b"))
    asked = asked.model_copy(update={"mechanisms": {"b": own}, "epsilons": {"b": 2.0}})
    url = f"sqlite+aiosqlite:///{tmp_path / 'own.db'}"
    accountant = await Accountant.open(url)
    with pytest.raises(Crash):
        await accountant.handle(asked, event_id="e", crash=crash)
    assert not await accountant.reservations("j-r1")
    await accountant.units.close()
    accountant = await Accountant.open(url)
    await accountant.handle(asked, event_id="e")
    held_ = await accountant.reservations("j-r1")
    assert {name: one.mechanism for name, one in held_.items()} == {"a": ROUND, "b": own}
    (reserved,) = (one for one in accountant.published if isinstance(one, BudgetReserved))
    limits_ = {one.client_id: one.epsilon_limit for one in reserved.reservations}
    assert limits_ == {"a": 8.0, "b": 2.0}
    later = request(number=2, clients=("a", "b")).model_copy(update={"mechanisms": {"b": own}})
    await accountant.handle(later)
    assert {one.epsilon_limit for one in accountant.published[-1].reservations} == {8.0, 2.0}, "it stays"
    verdict = verify(await accountant.export())
    assert not verdict.faults
    assert {one.client_id: one.epsilon_limit for one in verdict.spending} == {"a": 8.0, "b": 2.0}
    await accountant.units.close()


async def test_a_round_that_passes_an_own_epsilon_is_refused_for_that_client_alone(accountant):
    asked = request().model_copy(update={"epsilons": {"b": after(4) - 1e-3}})
    [reserved] = await accountant.handle(asked)
    assert [one.client_id for one in reserved.reservations] == ["a"]
    assert [one.client_id for one in reserved.refused] == ["b"]
