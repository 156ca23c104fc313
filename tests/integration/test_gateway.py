"""The gateway over its real database and bus, in one process: what it is told is what it shows."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from fedlora.export import unzip
from fedlora.report import ReportInput, render_report
from services.accountant.context import Accounting
from services.accountant.handlers import HANDLERS as ACCOUNTANT
from services.accountant.settings import AccountantSettings
from services.gateway.__main__ import build, gateway_of
from services.gateway.api import create_app
from services.gateway.settings import GatewaySettings
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.adapters.no_telemetry import NoTelemetry
from shared.core.lora import to_safetensors
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.ledger import verify
from shared.events import (
    ClientJoined,
    ClientSeen,
    Envelope,
    Event,
    JobAccepted,
    JobCancelled,
    JobEnded,
    JobRefused,
    JobSubmitted,
    LedgerExtended,
    ReinstatementRequested,
    RoundAborted,
    RoundCompleted,
    RoundOpened,
    SuspensionRequested,
)
from shared.events.judgements import LeftOut
from shared.events.values import BlobRef, Layout, TensorSpec
from shared.job.loading import validate_job
from shared.ports import Delivery
from shared.service import queue_for
from tests.accountant_at_work import request

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
JOB = (Path(__file__).parents[2] / "examples" / "chit-chat.yaml").read_bytes()
SPECIFICATION = validate_job(yaml.safe_load(JOB))
BLOB = BlobRef(sha256="ab" * 32, size_bytes=3)


@dataclass
class Running:
    """A gateway that runs, a client of its API, and the bus's other side."""

    http: httpx.AsyncClient
    service: object
    asked: asyncio.Queue[Event]

    async def tell(self, *events: Event) -> None:
        for event in events:
            await self.service.infrastructure.bus.publish(Envelope.wrap(event))

    async def shows(self, path: str, condition) -> object:
        """The answer to GET `path` once it meets `condition`."""
        async with asyncio.timeout(10):
            while True:
                answer = await self.http.get(path)
                if answer.status_code == 200 and condition(answer.json()):
                    return answer.json()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    settings = GatewaySettings(port=0, poll_s=0.01)
    infrastructure = await open_infrastructure("gateway", Endpoints(home=folder, telemetry="off"))
    stop, started = asyncio.Event(), asyncio.Event()
    asked: asyncio.Queue[Event] = asyncio.Queue()

    async def coordinator(delivery: Delivery) -> None:
        asked.put_nowait(delivery.envelope.open())
        await delivery.ack()

    asks = (JobSubmitted, JobCancelled, SuspensionRequested, ReinstatementRequested)
    await infrastructure.bus.subscribe(queue_for("coordinator", asks), coordinator)
    service = await build(infrastructure, settings)
    task = asyncio.create_task(service.run(stop, started))
    await started.wait()
    app = create_app(gateway_of(service, settings))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        yield Running(http, service, asked)
    stop.set()
    await task
    await infrastructure.close()


@pytest.fixture
async def gateway(tmp_path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


def completed(number: int) -> RoundCompleted:
    return RoundCompleted(
        job_id="job-1", round_id=f"job-1-r{number}", number=number, adapter=BLOB, contributors=("a", "b"),
        left_out=(LeftOut(client_id="c", reason="too late"),), update_norm=0.5, started_at=NOW,
        completed_at=NOW + timedelta(seconds=number), root="",
    )  # fmt: skip


def ledger_line(sequence: int, epsilon: float) -> LedgerExtended:
    return LedgerExtended(
        job_id="job-1", round_id=f"job-1-r{sequence}", client_id="a", outcome="committed", epsilon=epsilon,
        epsilon_rdp=epsilon + 1, epsilon_limit=8, delta=1e-5, sequence=sequence, entry_sha256="cd" * 32,
        recorded_at=NOW,
    )  # fmt: skip


ACCEPTED = JobAccepted(job_id="job-1", specification=SPECIFICATION, noise_multiplier=0.7, accepted_at=NOW)
OPENED = RoundOpened(
    job_id="job-1", round_id="job-1-r1", number=1, cohort=("a", "b", "c"), left_out=(), deadline=NOW
)
ENDED = JobEnded(
    job_id="job-1",
    outcome="completed",
    reason="",
    rounds_completed=2,
    adapter=BLOB,
    layout=None,
    ended_at=NOW,
)


async def test_a_submitted_job_reaches_the_coordinator_and_the_list(gateway):
    answer = await gateway.http.post("/jobs", content=JOB, params={"submitted_by": "ann"})
    assert answer.status_code == 201
    job_id = answer.json()["job_id"]
    assert answer.headers["location"] == f"/jobs/{job_id}"
    event = await asyncio.wait_for(gateway.asked.get(), 10)
    assert event == JobSubmitted(job_id=job_id, specification=SPECIFICATION, submitted_by="ann")
    [job] = (await gateway.http.get("/jobs")).json()
    assert (job["job_id"], job["status"], job["submitted_by"]) == (job_id, "submitted", "ann")


async def test_an_impossible_job_is_answered_with_each_problem_and_its_line(gateway):
    answer = await gateway.http.post("/jobs", content=JOB.replace(b"epsilon: 8", b"epsilon: 80"))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    [problem] = answer.json()["problems"]
    assert problem["field"] == "privacy.epsilon"
    assert problem["line"] == JOB.split(b"epsilon: 8")[0].count(b"\n") + 1
    assert problem["remedy"] == "set epsilon: 10.0"


@pytest.mark.parametrize("order", [1, -1])
async def test_notices_give_the_same_view_in_any_order_and_twice(gateway, order):
    notices = [ACCEPTED, OPENED, completed(1), completed(2), ledger_line(1, 1.0), ledger_line(2, 2.0), ENDED]
    await gateway.tell(*notices[::order], *notices[::order])
    job = await gateway.shows(
        "/jobs/job-1",
        lambda seen: (
            seen["status"] == "completed"
            and seen["specification"] is not None
            and len(seen["rounds"]) == 2
            and len(seen["rounds"][0]["cohort"]) == 3
            and seen["rounds"][0]["status"] == "completed"
            and seen["budgets"]
            and len(seen["budgets"][0]["entries"]) == 2
        ),
    )
    assert job["rounds_completed"] == 2
    assert job["rounds"][0]["left_out"] == {"c": "too late"}
    [budget] = job["budgets"]
    assert (budget["epsilon"], budget["epsilon_rdp"], budget["epsilon_limit"]) == (2.0, 3.0, 8.0)


async def test_the_feed_is_in_order_and_a_long_poll_wakes_for_the_next_notice(gateway):
    await gateway.tell(ACCEPTED)
    await gateway.shows("/jobs/job-1/events", lambda seen: len(seen) == 1)
    waiting = asyncio.create_task(gateway.http.get("/jobs/job-1/events", params={"after": 1, "wait_s": 10}))
    await gateway.tell(OPENED)
    [notice] = (await asyncio.wait_for(waiting, 10)).json()
    assert (notice["sequence"], notice["type"]) == (2, "round.opened.v1")
    assert (await gateway.http.get("/jobs/job-1/events", params={"after": 2})).json() == []


async def test_a_refusal_is_shown_with_the_remedy(gateway):
    await gateway.tell(JobRefused(job_id="job-1", field="model.base", reason="unknown", remedy="use minilm"))
    job = await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "refused")
    assert (job["reason"], job["remedy"]) == ("model.base: unknown", "use minilm")


async def test_an_aborted_round_keeps_its_reason(gateway):
    aborted = RoundAborted(
        job_id="job-1", round_id="job-1-r1", number=1, reason="1 of 2 updates", started_at=NOW,
        aborted_at=NOW, root="",
    )  # fmt: skip
    await gateway.tell(aborted)
    job = await gateway.shows("/jobs/job-1", lambda seen: bool(seen["rounds"]))
    assert (job["rounds"][0]["status"], job["rounds"][0]["reason"]) == ("aborted", "1 of 2 updates")


async def test_cancelling_asks_the_coordinator_and_a_job_that_is_over_cannot_be_cancelled(gateway):
    await gateway.tell(ACCEPTED)
    await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "running")
    assert (await gateway.http.delete("/jobs/job-1", params={"reason": "enough"})).status_code == 202
    assert await asyncio.wait_for(gateway.asked.get(), 10) == JobCancelled(job_id="job-1", reason="enough")
    await gateway.tell(ENDED)
    await gateway.shows("/jobs/job-1", lambda seen: seen["status"] == "completed")
    assert (await gateway.http.delete("/jobs/job-1")).status_code == 409


async def test_the_ledger_is_exported_with_a_chain_that_verifies(gateway):
    await write_ledger(gateway, ["job-0", "job-1", "job-0"])
    whole = await gateway.http.get("/ledger")
    verdict = verify(whole.content)
    assert (verdict.entries, verdict.faults) == (3, ())
    spent = epsilon([Mechanism(0.1, 1.0, 8)], 1e-5)
    assert {one.job_id: one.epsilon() for one in verdict.spending}["job-0"] == pytest.approx(spent, abs=1e-6)
    part = (await gateway.http.get("/ledger", params={"job": "job-0"})).text
    assert [json.loads(line)["sequence"] for line in part.splitlines()] == [1, 3]
    page = await gateway.http.get("/ledger", params={"limit": 2})
    assert page.headers["x-next-after"] == "2"


async def write_ledger(gateway, jobs) -> None:
    """One reservation of each, by an accountant on the gateway's database."""

    async def write(unit) -> None:
        rounds = [request(number, ("a",), job, epsilon=10.0) for number, job in enumerate(jobs)]
        for one in rounds:
            await ACCOUNTANT[type(one)](one, unit, Accounting(AccountantSettings(), NoTelemetry()))

    await gateway.service.transact(write)


async def test_clients_are_listed_with_what_they_last_said(gateway):
    await gateway.tell(
        ClientJoined(client_id="a", verify_key=b"k" * 32),
        ClientSeen(client_id="a", activity="training step 3/8"),
    )
    [client] = await gateway.shows(
        "/clients", lambda seen: bool(seen) and seen[0]["activity"].startswith("training")
    )
    assert client["present"]
    assert client["activity"] == "training step 3/8"


@pytest.mark.parametrize("path", ["/jobs/none", "/jobs/none/events", "/jobs/none/adapter", "/nothing"])
async def test_what_does_not_exist_is_a_problem_with_status_404(gateway, path):
    answer = await gateway.http.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


async def test_a_job_without_an_adapter_says_so(gateway):
    await gateway.tell(ACCEPTED)
    await gateway.shows("/jobs/job-1", lambda seen: True)
    answer = await gateway.http.get("/jobs/job-1/adapter")
    assert answer.status_code == 409
    assert "no adapter yet" in answer.json()["detail"]


async def test_the_guarantee_reads_the_same_in_the_api_the_report_and_the_model_card(gateway, tmp_path):
    tensors = {
        "base_model.model.q.lora_A.weight": np.ones((4, 8)),
        "base_model.model.q.lora_B.weight": np.ones((8, 4)),
    }
    layout = Layout(
        tensors=[TensorSpec(name=name, shape=of.shape, trainable=True) for name, of in tensors.items()]
    )
    adapter = await gateway.service.infrastructure.blobs.put(to_safetensors(tensors))
    await gateway.tell(
        ACCEPTED,
        completed(1),
        ledger_line(1, 1.0),
        ENDED.model_copy(update={"adapter": adapter, "layout": layout}),
    )
    job = await gateway.shows("/jobs/job-1", lambda seen: seen["adapter"] is not None and seen["budgets"])
    said = job["statement"]
    assert "any client has spent is 1.000" in said["plain"]
    assert "Unit: one record" in said["formal"]
    assert "of 1 completed rounds" in said["formal"]

    unzip((await gateway.http.get("/jobs/job-1/adapter")).content, tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    report = unescape(render_report(ReportInput(job, None, "", {}, "", NOW)))
    for text in (card, report):
        assert said["plain"] in text
        assert said["formal"] in text
    assert "`job-1`" in card
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"


async def test_divided_noise_is_stated_with_the_survivors_that_it_counts_on(gateway):
    blocks = {
        "training": {"optimizer": "sgd", "local_steps": 1},
        "privacy": {"noise": "divided"},
        "rounds": {"min_clients": 7},
        "aggregation": {"secure": "secagg", "weight_cap": 100, "malicious": 1},
    }
    tree = SPECIFICATION.model_dump(mode="json")
    divided = type(SPECIFICATION).model_validate(
        tree | {name: tree[name] | of for name, of in blocks.items()}
    )
    await gateway.tell(ACCEPTED.model_copy(update={"specification": divided, "noise_multiplier": 2.0}))
    job = await gateway.shows("/jobs/job-1", lambda seen: seen["statement"] is not None)
    said = job["statement"]
    assert "rests on secure aggregation" in said["plain"]
    assert "at least 5 clients of each sum, not counting any that look" in said["plain"]
    assert "Secure aggregation: secagg, on which this bound relies" in said["formal"]
    assert job["specification"]["privacy"]["noise"] == "divided"


async def test_a_job_that_was_not_accepted_yet_has_no_statement(gateway):
    job_id = (await gateway.http.post("/jobs", content=JOB)).json()["job_id"]
    assert (await gateway.http.get(f"/jobs/{job_id}")).json()["statement"] is None


async def test_what_was_shown_before_a_restart_is_shown_after_it(tmp_path):
    async with running(tmp_path) as first:
        await first.tell(ACCEPTED, completed(1))
        before = await first.shows("/jobs/job-1", lambda seen: seen["rounds_completed"] == 1)
    async with running(tmp_path) as second:
        assert (await second.http.get("/jobs/job-1")).json() == before


async def test_a_job_starts_from_tensors_that_were_taken_and_from_nothing_else(gateway):
    content = to_safetensors({"w.lora_B.weight": np.ones((2, 2), np.float32)})
    taken = (await gateway.http.post("/starts", content=content)).json()["start"]
    job = yaml.safe_dump(SPECIFICATION.model_dump(mode="json"))
    answer = await gateway.http.post("/jobs", content=job, params={"start": taken})
    assert answer.status_code == 201, answer.text
    asked = await asyncio.wait_for(gateway.asked.get(), 10)
    assert await gateway.service.infrastructure.blobs.get(asked.start) == content
    for start in ("junk", "ab" * 32 + ":5"):
        refused = await gateway.http.post("/jobs", content=job, params={"start": start})
        assert refused.status_code == 422, refused.text
        assert "POST /starts first" in refused.text
    assert (await gateway.http.post("/starts", content=b"junk")).status_code == 422
