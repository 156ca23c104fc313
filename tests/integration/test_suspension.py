"""Clients that keep being left out are suspended where everybody sees it, and come back when a person says so."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import structlog.testing

from services.coordinator.cohort.standing import Standing
from services.gateway.__main__ import build, gateway_of
from services.gateway.api import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.web import listen, serve
from shared.events import (
    ClientReinstated,
    ClientSuspended,
    JobEnded,
    JobWaiting,
    RoundCompleted,
    RoundOpened,
)
from tests.command_line import fedlora
from tests.integration.judged_federation import Cohort, clients, judged
from tests.integration.scripted_federation import ScriptedClient, federation

SEED = 20261124
SETTINGS = GatewaySettings(port=0, poll_s=0.01)


@pytest.fixture(autouse=True)
def log():
    """The services log to the standard output that the command line's is taken from."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@asynccontextmanager
async def observed(folder, cohort, **options):
    """A scripted federation with a gateway, and the gateway's address."""
    gateway = {"gateway": lambda infrastructure: build(infrastructure, SETTINGS)}
    async with federation(folder, cohort.names, services=gateway, **cohort.options(**options)) as fed:
        stop, listening = asyncio.Event(), listen(SETTINGS.host, 0)
        app = create_app(gateway_of(fed.services["gateway"], SETTINGS))
        serving = asyncio.create_task(serve(app, listening, stop))
        try:
            yield fed, f"http://{SETTINGS.host}:{listening.getsockname()[1]}"
        finally:
            stop.set()
            await serving


async def typed(url, *arguments):
    """What a person sees."""
    code, out, err = await asyncio.to_thread(fedlora, *arguments, "--gateway", url)
    assert code == 0, err
    return out


async def seen(url, what, *arguments):
    """The output of a command once it has `what`."""
    async with asyncio.timeout(20):
        while True:
            out = await typed(url, *arguments)
            if what in out:
                return out
            await asyncio.sleep(0.05)


def cohorts(fed):
    return {event.number: set(event.cohort) for event in fed.of(RoundOpened)}


async def test_two_that_flip_signs_are_suspended_in_sight_of_all_and_come_back_when_reinstated(tmp_path, log):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(10), 2)
    bad = set(cohort.malicious)
    job = judged("multi-krum", 2, 7, suspend_at=2.9, rounds={"count": 10})
    async with observed(tmp_path, cohort) as (fed, url):
        await fed.submit(job)
        suspensions = await fed.until(ClientSuspended, 2)
        assert {event.client_id for event in suspensions} == bad
        for event in suspensions:  # p = 0.2 in each of three rounds: 3 * 0.8 / sqrt(3 * 0.16)
            assert event.standing.score == pytest.approx(2 * 3**0.5)
            assert (
                "left out in 3 of 3 rounds, score 3.46 of 2.9; the last time: left out by multi-krum"
                in event.reason
            )
        assert [line["client"] for line in log if line["event"] == "suspended"] == sorted(bad)
        gate = fed.clients["client-00"].gate = asyncio.Event()  # the next round waits for it
        await fed.restart("coordinator")
        out = await seen(url, "suspended: left out in 3 of 3", "client", "list", "job")
        assert all(name in out for name in bad)

        name = min(bad)
        out = await typed(url, "client", "reinstate", "job", name, "--reason", "a broken disk")
        assert f"{name}: asked again from the next round on, with a new score" in out
        (event,) = await fed.until(ClientReinstated)
        assert (event.client_id, event.reason, event.before.judged) == (name, "a broken disk", 3)
        out = await typed(url, "client", "reinstate", "job", name, "--reason", "again")
        gate.set()
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        assert len(fed.of(ClientReinstated)) == 1

        asked = cohorts(fed)
        back = [number for number, those in asked.items() if number > 3 and name in those]
        assert asked[3] == set(cohort.names)
        assert asked[4].isdisjoint(bad)
        assert len(back) == 3  # and then it is suspended again
        final = {event.client_id: event for event in fed.of(ClientSuspended)}
        assert final[name].standing.left_out == 3

        rounds = {event.number: event for event in fed.of(RoundCompleted)}
        assert bad.isdisjoint(rounds[1].contributors)
        assert rounds[1].weights.keys() == set(cohort.names)
        assert {finding.subject for finding in rounds[1].findings} >= bad
        later = {item.client_id: item.reason for item in rounds[4].left_out}
        assert all(
            later[client].startswith("suspended: left out in 3 of 3 rounds, score 3.46") for client in bad
        )
        shown = await typed(url, "job", "rounds", "job")
        assert "round 1 completed; 10 asked, 8 in the update, judged by multi-krum" in shown
        assert f"  without {name}: left out by multi-krum: its distance of " in shown
        await typed(url, "report", "job", tmp_path / "report.html")
        report = (tmp_path / "report.html").read_text("utf-8")
        assert "round 1: multi-krum left out 2 of 10 clients" in report
        assert "reinstated 20" in report


async def test_a_suspension_that_would_leave_too_few_does_not_happen_and_says_so(tmp_path, log):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(8), 2)
    job = judged("multi-krum", 2, 7, suspend_at=2.5, rounds={"count": 4})
    async with observed(tmp_path, cohort) as (fed, url):
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        (suspended,) = fed.of(ClientSuspended)
        (spared,) = set(cohort.malicious) - {suspended.client_id}
        assert cohorts(fed)[4] == set(cohort.names) - {suspended.client_id}
        why = "not suspended, since 7 clients are left and 7 are needed"
        assert why in await seen(url, why, "client", "list", "job")
        assert any(line["event"] == "not suspended" and line["client"] == spared for line in log)


async def test_a_person_may_suspend_one_too_many_and_the_job_waits_in_sight_of_all(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(7))
    async with observed(tmp_path, cohort) as (fed, url):
        gate = fed.clients["client-00"].gate = asyncio.Event()
        await fed.submit(judged("multi-krum", 2, 7, rounds={"count": 2}))
        await fed.until(RoundOpened)
        await typed(url, "client", "suspend", "job", "client-01", "--reason", "a stolen key")
        (event,) = await fed.until(ClientSuspended)
        assert event.suspended_by
        gate.set()
        (waiting,) = await fed.until(JobWaiting)
        reason = "6 clients are ready and present, 7 are needed; suspended: client-01"
        assert (waiting.number, waiting.reason) == (2, reason)
        await seen(url, f"the next round waits: {reason}", "job", "rounds", "job")
        (first,) = fed.of(RoundCompleted)
        assert "client-01" in first.weights  # the round it was in went on with it
        await typed(url, "client", "reinstate", "job", "client-01", "--reason", "a new key")
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
        assert cohorts(fed)[2] == set(cohort.names)


async def test_who_spoils_every_group_it_is_put_into_is_told_from_those_beside_it(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, [*clients(11), "a-bad-one"], 1)
    # Of 6 groups one is left out: p = 1/6 for each of three rounds.
    job = judged("multi-krum", 1, 10, group_size=2, suspend_at=3.8, rounds={"count": 4})
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        await fed.submit(job)
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
    (suspended,) = fed.of(ClientSuspended)
    assert suspended.client_id == "a-bad-one"
    assert suspended.standing.score == pytest.approx(15**0.5)
    for event in fed.of(RoundCompleted)[:3]:
        (out,) = [group for group in event.groups.values() if "a-bad-one" in group]
        assert {client for client, weight in event.weights.items() if not weight} == set(out)
        assert {finding.subject for finding in event.findings if not finding.weight} <= event.groups.keys()
        assert sorted(client for group in event.groups.values() for client in group) == sorted(cohort.names)
    assert "a-bad-one" not in cohorts(fed)[4]


@pytest.mark.parametrize("what", ["suspend", "reinstate"])
async def test_a_job_or_client_that_is_not_there_is_said_and_nothing_is_asked(tmp_path, what):
    async with observed(tmp_path, Cohort(SEED, clients(1))) as (fed, url):
        await fed.submit(judged("multi-krum", 1, 5))
        await seen(url, "running", "job", "list")
        for job, client, said in (
            ("jib", "client-00", "there is no job jib; see GET /jobs"),
            ("job", "client-99", "there is no client client-99; see GET /clients"),
        ):
            arguments = ("client", what, job, client, "--reason", "x", "--gateway", url)
            assert await asyncio.to_thread(fedlora, *arguments) == (2, "", f"fedlora: {said}\n")
        if what == "reinstate":
            out = await typed(url, "client", what, "job", "client-00", "--reason", "x")
            assert out == "client-00 is not suspended in job, as far as is known; nothing changes\n"
            return
        for _ in range(2):
            out = await typed(url, "client", what, "job", "client-00", "--reason", "x")
            assert "not asked any more" in out or "nothing changes" in out
            await seen(url, ": x", "client", "list", "job")
        assert len(fed.of(ClientSuspended)) == 1


async def test_what_was_judged_is_counted_once_when_a_commit_is_lost(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, clients(10), 2)
    async with federation(tmp_path, cohort.names, **cohort.options()) as fed:
        transact, lost = fed.services["coordinator"].infrastructure.units.begin, []

        @asynccontextmanager
        async def begin(cause=None):
            async with transact(cause) as unit:
                yield unit
                if cause is not None and cause.type_name == "update.aggregated.v1" and len(lost) < 2:
                    lost.append(cause.event_id)
                    raise ConnectionError("killed before the commit")

        fed.services["coordinator"].infrastructure.units.begin = begin
        await fed.submit(judged("multi-krum", 2, 7, suspend_at=9.0, rounds={"count": 2}))
        await fed.until(JobEnded)
        assert len(lost) == 2
        found = []

        async def look(unit):
            found[:] = await unit.select(Standing, "job")

        await fed.services["coordinator"].transact(look)
        assert {one.client_id: one.judged for one in found} == dict.fromkeys(cohort.names, 2)


async def test_the_root_client_is_waited_for_and_then_in_every_cohort(tmp_path):
    print(f"seed {SEED}")
    cohort = Cohort(SEED, ["root", *clients(6)])
    present = Cohort(SEED, clients(6))
    job = judged(
        "fltrust",
        1,
        4,
        root="root",
        suspend_at=3.0,
        rounds={"count": 4, "clients_per_round": 4, "gather_s": 30},
    )
    async with observed(tmp_path, present) as (fed, url):
        await fed.submit(job)
        (waiting,) = await fed.until(JobWaiting)
        reason = "no round without root, by whose update the others are measured: it is not ready"
        assert (waiting.number, waiting.reason) == (1, reason)
        assert f"the next round waits: {reason}" in await seen(url, reason, "job", "rounds", "job")
        options = cohort.options()["root"]
        await ScriptedClient("root", fed.bus, fed.blobs, **options).start()
        (ended,) = await fed.until(JobEnded)
        assert ended.outcome == "completed", ended.reason
    for event in fed.of(RoundOpened):
        assert "root" in event.cohort
        assert len(event.cohort) == 4
    for event in fed.of(RoundCompleted):
        assert "root" not in {*event.contributors, *event.weights, *event.standings}
        assert len(event.weights) == 3
