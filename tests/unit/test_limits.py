"""The limits of a federation: what they refuse, who may raise them, and the log that says so."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import ValidationError

from services.accountant.limits import AUDIT, Ceilings, bounds, record_configuration
from services.accountant.settings import AccountantSettings
from services.accountant.state import Denied, Limits, Terms
from services.coordinator.cohort.gathering import with_ready
from services.coordinator.limits import largest_delta_times_records, on_limit_raised
from shared.adapters.database import open_units
from shared.adapters.telemetry import OpenTelemetry
from shared.core.chain import Line
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.ledger import verify
from shared.core.privacy.limits import LimitChange, in_force
from shared.errors import Stale
from shared.events import BudgetRefused, BudgetRequested, BudgetReserved, BudgetRunningLow, LimitRaised
from shared.events.base import decode, encode, pack, unpack
from tests.accountant_at_work import START, Accountant, Crash, SetClock, report, request
from tests.unit.test_rounds import job_of, ready

DELTA = 1e-5
TERMS = Terms(job_id="j", epsilon=8, delta=DELTA)


def after(steps, delta=DELTA):
    return epsilon([Mechanism(0.1, 1.0, steps)], delta)


def raised(limit="client-epsilon", value=12.0, client=None, reason="agreed with her"):
    return LimitRaised(limit=limit, client_id=client, value=value, reason=reason, raised_by="op")


def ceilings(**settings):
    return Ceilings(AccountantSettings(**settings).limits)


async def log_of(accountant):
    async with accountant.units.begin() as unit:
        return await unit.read(AUDIT)


async def changes(accountant):
    return [
        LimitChange.of(one.sequence, one.entry_sha256, json.loads(one.body))
        for one in await log_of(accountant)
    ]


async def configure(accountant, **settings):
    async with accountant.units.begin() as unit:
        await record_configuration(unit, AccountantSettings(**settings))


def reasons(said):
    return {one.client_id: one.reason for one in said[-1].refused}


async def test_delta_is_at_most_a_tenth_of_one_over_a_clients_records(accountant):
    asked = request(clients=("a", "b", "c")).model_copy(update={"records": {"a": 10_000, "b": 10_001}})
    said = await accountant.handle(asked)
    assert [one.client_id for one in said[-1].reservations] == ["a", "c"]
    assert reasons(said) == {"b": "delta 1e-05 is over 1 / (10 x 10001 declared records) = 1e-05"}


def test_a_request_of_an_older_coordinator_names_no_records():
    body = unpack(encode(request()))
    del body["records"]
    assert decode(BudgetRequested.type_name, pack(body)) == request()
    assert request().records == {}


def test_over_all_jobs_delta_follows_the_records_too():
    found = bounds(TERMS.replace(delta=1e-6), "a", 50_000, ceilings())
    assert found == Limits(8, 1e-6, 10, pytest.approx(2e-6))


async def test_a_job_keeps_the_terms_of_its_first_request_or_stricter_ones(accountant):
    await accountant.handle(request(1, epsilon=6.0))
    for weaker in (request(2, epsilon=6.5), request(2, epsilon=5.0, delta=1.1e-5)):
        [refused] = await accountant.handle(weaker)
        assert isinstance(refused, BudgetRefused)
        assert refused.refused[0].reason.startswith("the job began with epsilon 6 at delta 1e-05; ")
    [stricter] = await accountant.handle(request(2, epsilon=5.0))
    assert {one.epsilon_limit for one in stricter.reservations} == {5.0}
    [refused] = await accountant.handle(request(3, epsilon=6.0))
    assert reasons([refused])["a"] == "the job began with epsilon 5 at delta 1e-05; 6 at 1e-05 is weaker"
    [again] = await accountant.handle(request(1, epsilon=6.0))  # its reservations stand
    assert {one.epsilon_limit for one in again.reservations} == {6.0}


async def test_a_client_with_limits_of_its_own_spends_no_more_than_they_allow(tmp_path):
    own = {"a": {"epsilon": after(5, 1e-6), "delta": 1e-6}}
    accountant = await Accountant.open(f"sqlite+aiosqlite:///{tmp_path}/accountant.db", clients=own)
    *_, reserved = await accountant.handle(request(1))
    of_a, of_b = reserved.reservations
    assert (of_a.epsilon_after, of_a.epsilon_limit, of_a.delta) == (after(4, 1e-6), after(5, 1e-6), 1e-6)
    assert (of_b.epsilon_after, of_b.epsilon_limit, of_b.delta) == (after(4), 8.0, DELTA)
    *_, second = await accountant.handle(request(2))
    assert [one.client_id for one in second.reservations] == ["b"]
    await accountant.handle(report(1, "a", 3))
    assert verify(await accountant.export()).faults == ()
    await accountant.units.close()


def test_a_client_may_have_a_limit_above_everyones_and_the_others_are_refused():
    held = ceilings(largest_epsilon=5.0, clients={"a": {"epsilon": 9.0}})
    assert bounds(TERMS, "a", None, held).epsilon == 8
    assert isinstance(bounds(TERMS, "b", None, held), Denied)


async def test_a_raise_holds_for_later_reservations_and_its_reason_is_logged(tmp_path):
    accountant = await Accountant.open(f"sqlite+aiosqlite:///{tmp_path}/a.db", client_epsilon=after(5))
    await accountant.handle(request(1))
    await accountant.handle(request(2))
    before = await accountant.export()
    await accountant.handle(raised(value=after(9), client="a"))
    assert await accountant.export() == before
    [third] = await accountant.handle(request(3))
    assert [one.client_id for one in third.reservations] == ["a"]
    assert "over all jobs" in reasons([third])["b"]
    [entry] = await changes(accountant)
    assert (entry.limit, entry.client, entry.by, entry.reason) == (
        "client-epsilon",
        "a",
        "op",
        "agreed with her",
    )
    assert (entry.old, entry.new, entry.at) == (after(5), after(9), START.isoformat())
    await accountant.units.close()


async def test_each_limit_that_refused_a_request_lets_it_pass_once_it_is_raised(accountant):
    await accountant.handle(raised("client-epsilon", 100.0))
    for limit, value, asked in (
        ("epsilon", 20.0, request(1, job="x", epsilon=15.0)),
        ("delta", 1e-4, request(1, job="y", delta=1e-4)),
        (
            "delta-times-records",
            0.5,
            request(1, job="z").model_copy(update={"records": {"a": 40_000, "b": 1}}),
        ),
    ):
        said = await accountant.handle(asked)
        assert "a" in reasons(said)
        await accountant.handle(raised(limit, value))
        [reserved] = await accountant.handle(asked)
        assert isinstance(reserved, BudgetReserved)
        assert reasons([reserved]) == {}


async def test_a_raise_to_no_more_than_what_holds_changes_nothing(accountant):
    await accountant.handle(raised(value=12.0))
    for value in (12.0, 11.0):
        with pytest.raises(Stale, match="is 12 already"):
            await accountant.handle(raised(value=value))
    assert len(await changes(accountant)) == 1


async def test_a_raise_that_is_delivered_twice_or_dies_is_logged_once(accountant):
    with pytest.raises(Crash):
        await accountant.handle(raised(), event_id="e", crash=True)
    assert await changes(accountant) == []
    await accountant.handle(raised(), event_id="e")
    with pytest.raises(Stale):
        await accountant.handle(raised(), event_id="e")
    assert len(await changes(accountant)) == 1


@pytest.mark.parametrize("reason", ["", "  \n "])
def test_a_raise_without_a_reason_is_refused(reason):
    with pytest.raises(ValidationError, match="reason"):
        raised(reason=reason)


@pytest.mark.parametrize(("limit", "value"), [("delta", 1.0), ("epsilon", 0.0), ("epsilon", float("inf"))])
def test_a_limit_without_meaning_is_refused(limit, value):
    with pytest.raises(ValidationError):
        raised(limit, value)


@pytest.mark.parametrize(
    "above", [{"largest_epsilon": 10.1}, {"largest_delta": 2e-5}, {"clients": {"a": {"epsilon": 11}}}]
)
def test_the_environment_cannot_go_beyond_what_needs_a_reason(above):
    with pytest.raises(ValidationError, match="fedlora limits raise"):
        AccountantSettings(**above)


async def test_the_log_says_which_limits_are_in_force_and_what_set_each(accountant):
    await configure(accountant, clients={"a": {"epsilon": 4}})
    await accountant.handle(raised("epsilon", 6.0, "a"))
    await configure(accountant, clients={"a": {"epsilon": 4}})  # a restart undoes nothing
    found = {(one.limit, one.client): (one.new, one.by) for one in in_force(await changes(accountant))}
    assert found == {
        ("epsilon", ""): (10.0, "configuration"),
        ("epsilon", "a"): (6.0, "op"),
        ("delta", ""): (1e-5, "configuration"),
        ("delta-times-records", ""): (0.1, "configuration"),
        ("client-epsilon", ""): (10.0, "configuration"),
    }
    await configure(accountant, client_epsilon=9)  # an environment that changed sets anew
    found = {(one.limit, one.client): one.new for one in in_force(await changes(accountant))}
    assert ("epsilon", "a") not in found
    assert found["client-epsilon", ""] == 9


async def test_a_changed_entry_of_the_log_breaks_its_chain(accountant):
    await configure(accountant)
    entries = await log_of(accountant)
    assert [one.sequence for one in entries] == [1, 2, 3, 4]
    for one in entries:
        body = json.loads(one.body)
        line = Line(one.sequence, one.previous_sha256, one.entry_sha256, body)
        assert line.digest() == one.entry_sha256
        changed = Line(one.sequence, one.previous_sha256, one.entry_sha256, {**body, "reason": "other"})
        assert changed.digest() != one.entry_sha256


async def test_each_crossing_of_the_warning_line_warns_once(accountant):
    limit = after(20)
    line = next(steps for steps in range(1, 20) if after(steps) >= 0.8 * limit)

    async def warned(number, steps, job_limit=limit):
        mechanism = report_mechanism(steps)
        said = await accountant.handle(request(number, ("a",), mechanism=mechanism, epsilon=job_limit))
        return sum(isinstance(one, BudgetRunningLow) for one in said)

    assert await warned(1, line - 1) == 0
    assert await warned(2, 1) == 1
    assert await warned(3, 1) == 0
    await accountant.handle(report(2, "a", 0))
    await accountant.handle(report(3, "a", 0))  # below the line again
    assert await warned(4, 1) == 1
    assert await warned(5, 1) == 0


async def test_stricter_terms_that_move_the_warning_line_below_what_is_spent_warn(accountant):
    def asked(number, epsilon_):
        return request(number, ("a",), mechanism=report_mechanism(1), epsilon=epsilon_)

    assert [type(one) for one in await accountant.handle(asked(1, 8.0))] == [BudgetReserved]
    warned = [type(one) for one in await accountant.handle(asked(2, after(2) / 0.9))]
    assert warned == [BudgetRunningLow, BudgetReserved]
    assert [type(one) for one in await accountant.handle(asked(2, after(2) / 0.9))] == [BudgetReserved]


def report_mechanism(steps):
    return request().mechanism.model_copy(update={"steps": steps})


async def test_a_jobs_gauges_tell_what_is_spent_and_left_and_name_no_client(tmp_path):
    reader = InMemoryMetricReader()
    telemetry = OpenTelemetry("accountant", [], [reader])
    url = f"sqlite+aiosqlite:///{tmp_path}/accountant.db"
    accountant = await Accountant.open(url, telemetry=telemetry, clients={"bob": {"epsilon": after(5)}})
    await accountant.handle(request(1, ("alice", "bob", "carol")))
    await accountant.handle(report(1, "carol", 0))
    await accountant.handle(request(2, ("alice",)))
    await accountant.pass_deadlines(START + timedelta(seconds=61))
    points = [
        (metric.name, dict(point.attributes), point.value)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    ]
    assert {name: value for name, _, value in points} == {
        "budget_epsilon_spent_most": after(8),
        "budget_epsilon_left_least": pytest.approx(after(5) - after(4)),
        "budget_clients": 3,
        "budget_clients_running_low": 1,
    }
    assert [attributes for _, attributes, _ in points] == [{"job_id": "j"}] * 4
    telemetry.shutdown()
    await accountant.units.close()


def test_the_coordinator_leaves_out_a_client_whose_records_are_too_many_for_the_jobs_delta():
    job = with_ready(job_of(), ready("a").model_copy(update={"records": 20_000}))
    assert "privacy.delta" in job.left_out["a"]
    assert job.records == {"a": 20_000}
    assert with_ready(job, ready("a").model_copy(update={"records": 20_000}), 0.2).left_out == {}


async def test_the_coordinator_heeds_a_raise_for_everyone_or_for_one_client(tmp_path):
    units = await open_units(f"sqlite:///{tmp_path}/c.db", "coordinator", SetClock(), lambda: "")
    for event in (
        raised("delta-times-records", 0.2),
        raised("delta-times-records", 0.5, "a"),
        raised("delta-times-records", 0.3, "a"),
        raised("epsilon", 12.0),
    ):
        with suppress(Stale):
            async with units.begin() as unit:
                await on_limit_raised(event, unit, None)
    async with units.begin() as unit:
        found = [await largest_delta_times_records(name, unit) for name in ("a", "b")]
    assert found == [0.5, 0.2]
    await units.close()
