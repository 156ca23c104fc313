"""What the API says of clients that keep being left out, and how a person suspends and reinstates one."""

import asyncio
from datetime import timedelta

import pytest

from shared.events import (
    ClientJoined,
    ClientReinstated,
    ClientSuspended,
    JobWaiting,
    ReinstatementRequested,
    RoundCompleted,
    SuspensionRequested,
)
from shared.events.judgements import Finding, LeftOut, Standing
from tests.integration.test_gateway import ACCEPTED, BLOB, ENDED, NOW, OPENED, gateway  # noqa: F401 - a fixture

FINDING = Finding(subject="c", figure="distance", value=3.5, limit=1.0, weight=0.0)
SAID = {"reason": "a stolen key", "requested_by": "ann"}
JOINED = [ClientJoined(client_id=name, verify_key=b"k" * 32) for name in "abc"]
HIGH = Standing(score=5.0, judged=4, left_out=4, finding="far away", suspended="suspended: often", revision=5)


def completed(number, **standings):
    return RoundCompleted(
        job_id="job-1", round_id=f"job-1-r{number}", number=number, adapter=BLOB, contributors=("a", "b"),
        rule="multi-krum", weights={"a": 0.5, "b": 0.5, "c": 0.0},
        left_out=(LeftOut(client_id="c", reason="left out by multi-krum"),), findings=(FINDING,),
        groups={f"job-1-r{number}-g1": ("a", "b"), f"job-1-r{number}-g2": ("c",)}, standings=standings,
        update_norm=0.5, started_at=NOW, completed_at=NOW + timedelta(seconds=number), root="",
    )  # fmt: skip


def suspended(standing=HIGH, by=""):
    return ClientSuspended(
        job_id="job-1", client_id="c", reason="often", suspended_by=by, standing=standing, at=NOW
    )


REINSTATED = ClientReinstated(
    job_id="job-1", client_id="c", reason="a new disk", reinstated_by="ann", before=HIGH,
    standing=Standing(revision=6), at=NOW + timedelta(seconds=9),
)  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
async def test_a_round_shows_weights_and_findings_and_a_job_its_clients_in_any_order(gateway, order):  # noqa: F811
    low = Standing(score=-0.5, judged=4, revision=4)
    before = Standing(score=4.0, judged=3, left_out=3, revision=3)
    notices = [ACCEPTED, completed(1, c=before), completed(2, c=HIGH, a=low), suspended(), REINSTATED]
    await gateway.tell(*notices[::order], *notices[::order])
    job = await gateway.shows(
        "/jobs/job-1",
        lambda seen: (
            len(seen["rounds"]) == 2
            and len(seen["clients"]) == 2
            and any(len(one["changes"]) == 2 and one["score"] == 0 for one in seen["clients"])
        ),
    )
    for round_ in job["rounds"]:
        assert round_["weights"] == {"a": 0.5, "b": 0.5, "c": 0.0}
        assert round_["findings"] == [FINDING.model_dump()]
        assert round_["left_out"]["c"] == "left out by multi-krum"
        assert (round_["rule"], sorted(map(len, round_["groups"].values()))) == ("multi-krum", [1, 2])
    c, a = sorted(job["clients"], key=lambda one: one["client_id"], reverse=True)
    assert (a["score"], a["rounds_judged"], a["suspended"]) == (-0.5, 4, "")
    assert (c["score"], c["rounds_judged"], c["times_left_out"], c["suspended"]) == (0, 0, 0, "")
    said = [(one["to"], one["by"], one["reason"], one["score"]) for one in c["changes"]]
    assert said == [("suspended", "", "often", 5.0), ("reinstated", "ann", "a new disk", 5.0)]
    assert (await gateway.http.get("/jobs/job-1/clients")).json() == job["clients"]


async def test_suspended_clients_come_first_and_the_feed_has_the_notice(gateway):  # noqa: F811
    await gateway.tell(ACCEPTED, completed(1, a=Standing(score=9.0, judged=2, revision=2)), suspended())
    await gateway.shows("/jobs/job-1/clients", lambda seen: len(seen) == 2 and seen[0]["suspended"])
    feed = (await gateway.http.get("/jobs/job-1/events")).json()
    assert [notice["type"] for notice in feed] == [
        "job.accepted.v1", "round.completed.v1", "client.suspended.v1",
    ]  # fmt: skip


async def test_what_a_person_asks_reaches_the_coordinator_twice_if_asked_twice(gateway):  # noqa: F811
    await gateway.tell(ACCEPTED, *JOINED)
    await gateway.shows("/clients", lambda seen: len(seen) == 3)
    await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "running")
    for _ in range(2):
        answer = await gateway.http.post("/jobs/job-1/clients/c/suspend", json=SAID)
        assert (answer.status_code, answer.json()["suspended"]) == (202, "")
        asked = await asyncio.wait_for(gateway.asked.get(), 10)
        assert asked == SuspensionRequested(job_id="job-1", client_id="c", **SAID)
    await gateway.tell(suspended())
    await gateway.shows("/jobs/job-1/clients", bool)
    answer = await gateway.http.post("/jobs/job-1/clients/c/reinstate", json=SAID)
    assert (answer.status_code, answer.json()["suspended"]) == (202, "suspended: often")
    asked = await asyncio.wait_for(gateway.asked.get(), 10)
    assert asked == ReinstatementRequested(job_id="job-1", client_id="c", **SAID)


@pytest.mark.parametrize("what", ["suspend", "reinstate"])
async def test_a_wrong_job_or_client_or_no_reason_is_a_problem_that_says_so(gateway, what):  # noqa: F811
    await gateway.tell(ACCEPTED, *JOINED)
    await gateway.shows("/clients", lambda seen: len(seen) == 3)
    await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "running")

    async def asked(job, client, body):
        answer = await gateway.http.post(f"/jobs/{job}/clients/{client}/{what}", json=body)
        return answer.status_code, answer.json()

    assert await asked("job-2", "c", SAID) == (
        404,
        {**PROBLEM, "detail": "there is no job job-2; see GET /jobs"},
    )
    assert await asked("job-1", "d", SAID) == (
        404,
        {**PROBLEM, "detail": "there is no client d; see GET /clients"},
    )
    status, body = await asked("job-1", "c", {**SAID, "reason": " "})
    assert (status, [one["field"] for one in body["problems"]]) == (422, ["body.reason"])
    await gateway.tell(ENDED)
    await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "completed")
    status, body = await asked("job-1", "c", SAID)
    assert (status, body["detail"]) == (409, "job job-1 is over: completed")
    assert gateway.asked.empty()


PROBLEM = {"type": "about:blank", "title": "Not found", "status": 404}


async def test_the_root_client_cannot_be_suspended(gateway):  # noqa: F811
    aggregation = ACCEPTED.specification.aggregation.model_copy(update={"root": "a"})
    rooted = ACCEPTED.specification.model_copy(update={"aggregation": aggregation})
    await gateway.tell(ACCEPTED.model_copy(update={"specification": rooted}), *JOINED)
    await gateway.shows("/clients", lambda seen: len(seen) == 3)
    await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "running")
    answer = await gateway.http.post("/jobs/job-1/clients/a/suspend", json=SAID)
    assert answer.status_code == 409
    assert "cancel the job" in answer.json()["detail"]


@pytest.mark.parametrize("order", [1, -1])
async def test_what_a_job_waits_for_is_shown_until_the_round_has_begun(gateway, order):  # noqa: F811
    first = JobWaiting(job_id="job-1", number=1, reason="1 client is present", since=NOW)
    second = first.model_copy(update={"reason": "2 clients", "since": NOW + timedelta(seconds=1)})
    notices = [ACCEPTED, first, second]
    await gateway.tell(*notices[::order])
    await gateway.shows("/jobs/job-1", lambda seen: seen["waiting"] == "2 clients")
    await gateway.shows("/jobs/job-1/events", lambda seen: len(seen) == 3)
    assert (await gateway.http.get("/jobs/job-1")).json()["waiting"] == "2 clients"
    await gateway.tell(OPENED)
    await gateway.shows("/jobs/job-1", lambda seen: seen["waiting"] == "" and seen["rounds"])
