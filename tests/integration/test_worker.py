"""The worker over its real database and bus with a scripted trainer: what leaves it, and what does not."""

import asyncio
import hashlib
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.client.__main__ import build
from services.client.settings import ClientSettings
from services.client.trainer import Cancelled, Prepared, TrainingResult
from shared.adapters.in_process import InProcessBus
from shared.adapters.infrastructure import Endpoints, open_infrastructure
from shared.core.lora import to_safetensors
from shared.core.secagg import chunks, fixed_point, sealing
from shared.core.secagg.sealing import SealingKey
from shared.events import (
    BudgetSpent,
    ClientDeclined,
    ClientJoined,
    ClientReady,
    Envelope,
    JobAnnounced,
    JobClosed,
    RoundClosed,
    RoundStarted,
    UpdateSubmitted,
)
from shared.events.plans import SessionPlan
from shared.events.values import Layout, Member, PoissonSampled, Reservation, TensorSpec
from shared.job.personal import planned_own_noise
from shared.job.specification import Aggregation, Data, JobSpecification, Model, Privacy, Task
from shared.service import queue_for
from shared.sessions.terms import HolderKey, SessionTerms
from tests.sessions_at_work import SERVER, keys_of, member

OTHER = Ed25519PrivateKey.generate()
LAYOUT = Layout(tensors=(TensorSpec(name="lora_B", shape=(3, 4), trainable=True),))
UPDATE = (np.arange(12, dtype=np.float32) - 5) / 8
POLICY = 'allowed_secure_protocols = ["oneshot", "none"]\n'


class ScriptedTrainer:
    """Real updates; waits for `go`, and may fail."""

    def __init__(self):
        self.go, self.begun, self.runs, self.error = threading.Event(), threading.Event(), 0, None
        self.go.set()
        self.clip_norms, self.controls = [], []

    def prepare(self, job_id, specification, data, progress, start=b""):
        return Prepared(LAYOUT, 40, ())

    def train(self, task, progress, cancelled):
        self.runs += 1
        self.clip_norms.append(task.clip_norm)
        self.controls.append(task.control)
        self.begun.set()
        while not self.go.wait(0.01):
            if cancelled():
                raise Cancelled("round over")
        if self.error:
            raise self.error
        progress("step", task.mechanism.steps, task.mechanism.steps)
        return TrainingResult(UPDATE, task.mechanism.steps, 0.1, task.clip_norm / 2)


class Server:
    """The other side of one worker's bus."""

    def __init__(self, home):
        self.home, self.bus, self.heard = home, InProcessBus(), asyncio.Queue()
        self.log, self.cohort = [], {}
        self.trainer, self.stop = ScriptedTrainer(), asyncio.Event()

    async def start(self):
        self.stop = asyncio.Event()
        events = (ClientJoined, ClientReady, ClientDeclined, UpdateSubmitted, BudgetSpent)
        if not hasattr(self, "subscription"):
            self.subscription = await self.bus.subscribe(queue_for("server", events), self.hear)
        endpoints = Endpoints(home=self.home, telemetry="off", blobs=str(self.home / "blobs"))
        self.infrastructure = await open_infrastructure("a", endpoints, bus=self.bus)
        settings = ClientSettings(client_id="a", home=self.home, data=self.home / "data.jsonl")
        self.service = await build(self.infrastructure, settings, self.trainer)
        self.running = asyncio.create_task(self.service.run(self.stop))
        self.verify_key = (await self.hears(ClientJoined)).verify_key

    async def end(self):
        self.stop.set()
        await self.running
        await self.infrastructure.close()

    async def hear(self, delivery):
        event = delivery.envelope.open()
        self.log.append(event)
        await self.heard.put(event)
        await delivery.ack()

    async def hears(self, kind):
        async with asyncio.timeout(10):
            while not isinstance(event := await self.heard.get(), kind):
                pass
        return event

    async def tell(self, event):
        await self.bus.publish(Envelope.wrap(event))

    async def announce(self, secure="none", sections=None, **privacy):
        self.job = JobSpecification(
            name="job", model=Model(base="m", task=Task.CAUSAL_LM), data=Data(text="t"),
            privacy=Privacy(**{"epsilon": 8, **privacy}), aggregation=Aggregation(secure=secure),
            **(sections or {}),
        )  # fmt: skip
        await self.tell(JobAnnounced(client_id="a", job_id="j", specification=self.job, noise_multiplier=1.0))

    def terms(self, number, **changes):
        """Of the session of this worker and `cohort`."""
        plan = SessionPlan.of(self.job, 1.0)
        members = {"a": Member(verify_key=self.verify_key), **self.cohort}
        committee = [HolderKey(holder_id=name, **keys_of(one)) for name, one in self.cohort.items()]
        fields = {
            "job_id": "j", "round_id": f"j-r{number}", "group_id": f"j-r{number}-g1", "plan": plan,
            "members": members, "dimension": 12, "layout_sha256": LAYOUT.sha256,
            "aggregation_keys": (SERVER.sealing.public,), "public_seed": bytes([number] * 32),
            "server_key": SERVER.signing.public_key().public_bytes_raw(), "committee": tuple(committee),
        }  # fmt: skip
        return SessionTerms(**{**fields, **changes})

    async def begin(
        self, number=1, *, sigma=1.0, limit=8, adapter=None, reservation="s1", terms=None, control=None
    ):
        if control is not None:
            control = await self.infrastructure.blobs.put(control.astype("<f8").tobytes())
        tensors = adapter or {"lora_B": np.zeros((3, 4), np.float32)}
        agreed = self.terms(number, **(terms or {}))
        await self.tell(
            RoundStarted(
                client_id="a", job_id="j", round_id=f"j-r{number}", group_id=f"j-r{number}-g1", number=number,
                adapter=await self.infrastructure.blobs.put(to_safetensors(tensors)),
                layout_sha256=LAYOUT.sha256,
                control=control,
                reservation=Reservation(
                    reservation_id=reservation, client_id="a", epsilon_after=1, epsilon_limit=limit, delta=1e-5,
                    mechanism=PoissonSampled(sampling_rate=0.1, noise_multiplier=sigma, steps=8),
                ),
                terms=await self.infrastructure.blobs.put(agreed.to_bytes()),
                deadline=datetime.now(UTC) + timedelta(minutes=5),
            )
        )  # fmt: skip


@pytest.fixture
async def server(tmp_path):
    (tmp_path / "worker.toml").write_text(POLICY)
    server = Server(tmp_path)
    await server.start()
    yield server
    server.trainer.go.set()
    await server.end()
    await server.bus.close()


async def ready(server):
    await server.announce()
    assert (await server.hears(ClientReady)).layout == LAYOUT


async def begun(server):
    async with asyncio.timeout(10):
        await asyncio.to_thread(server.trainer.begun.wait, 9)


def opened(upload):
    context = sealing.UploadContext("j", upload.round_id, upload.group_id, "a")
    sealed = chunks.join({upload.index: upload.payload}, upload.upload_sha256)
    content = sealing.open_(sealed, SERVER.sealing, context.info)
    return fixed_point.decode(fixed_point.from_bytes(content, 12))


async def test_the_upload_opens_at_the_recipient_and_equals_the_update(server):
    await ready(server)
    await server.begin()
    np.testing.assert_array_equal(opened(await server.hears(UpdateSubmitted)), UPDATE)
    assert (await server.hears(BudgetSpent)).steps == 8


async def test_training_cut_short_is_done_again_after_a_restart_and_uploads_once(server):
    await ready(server)
    server.trainer.go.clear()
    await server.begin()
    await begun(server)
    await server.end()
    assert server.heard.empty()
    server.trainer.go.set()
    await server.start()
    await server.hears(UpdateSubmitted)
    assert (await server.hears(BudgetSpent)).reservation_id == "s1"
    await server.begin()  # the same round once more is not trained again
    await server.begin(2, reservation="s2")
    assert (await server.hears(UpdateSubmitted)).round_id == "j-r2"
    assert server.trainer.runs == 3


async def test_the_clip_norm_goes_on_from_where_the_last_round_brought_it_also_after_a_restart(server):
    await ready(server)
    await server.begin()
    await server.hears(UpdateSubmitted)
    await server.end()
    await server.start()
    await server.begin(2, reservation="s2")
    await server.hears(UpdateSubmitted)
    assert server.trainer.clip_norms == [1.0, 0.5]


async def test_a_reservation_that_charges_no_clipping_bits_is_declined_where_they_are_released(server):
    await server.announce(clipping="adaptive")
    await server.hears(ClientReady)
    await server.begin()
    assert "clipping bits" in (await server.hears(ClientDeclined)).reason


async def test_more_epsilon_than_the_owner_allows_is_declined_with_a_reason(server):
    (server.home / "worker.toml").write_text("largest_epsilon = 2")
    await server.end()
    await server.start()
    await server.announce()
    assert "privacy.epsilon" in (await server.hears(ClientDeclined)).reason


async def under_an_own_epsilon(server, **privacy):
    (server.home / "worker.toml").write_text(f"largest_epsilon = 0.5\n{POLICY}")
    await server.end()
    await server.start()
    await server.announce(personal_budgets=True, **privacy)


async def test_a_smaller_epsilon_of_the_owner_is_answered_and_trained_with_after_a_restart_too(server):
    await under_an_own_epsilon(server)
    assert (await server.hears(ClientReady)).epsilon == 0.5
    await server.end()
    await server.start()
    own = planned_own_noise(server.job, 1.0, 0.5)
    assert own > 1
    await server.begin(sigma=own, limit=0.5)
    await server.hears(UpdateSubmitted)
    await server.begin(2, sigma=own, limit=0.5, reservation="s2")
    await server.hears(UpdateSubmitted)
    assert server.trainer.clip_norms == [pytest.approx(1 / own)] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"sigma": 1.0, "limit": 0.5}, "weaker than announced"), ({"sigma": 30.0}, "epsilon_limit")],
)
async def test_a_reservation_on_the_jobs_terms_is_declined_by_who_has_its_own(server, change, reason):
    await under_an_own_epsilon(server)
    await server.hears(ClientReady)
    await server.begin(**change)
    assert reason in (await server.hears(ClientDeclined)).reason
    assert (await server.hears(BudgetSpent)).steps == 0
    assert server.trainer.runs == 0


async def test_an_owner_who_allows_less_once_the_job_is_ready_trains_no_more(server):
    await server.announce(personal_budgets=True)
    assert (await server.hears(ClientReady)).epsilon is None
    (server.home / "worker.toml").write_text(f"largest_epsilon = 0.5\n{POLICY}")
    await server.end()
    await server.start()
    await server.begin()
    assert "privacy.epsilon" in (await server.hears(ClientDeclined)).reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"terms": {"aggregation_keys": (SealingKey.generate().public,)}}, "keys have changed"),
        ({"terms": {"server_key": OTHER.public_key().public_bytes_raw()}}, "keys have changed"),
        ({"terms": {"members": {"a": member("a", "j")}}}, "not among them under its key"),
        ({"terms": {"round_id": "j-r1"}}, "send the session's own"),
        ({"terms": {"dimension": 11}}, "give 12"),
        ({"sigma": 0.5}, "weaker than announced"),
        ({"adapter": {"other": np.zeros(3, np.float32)}}, "not the job's"),
        ({"number": 1}, "repeats"),
    ],
)
async def test_a_round_that_cannot_be_trusted_is_declined_with_a_reason(server, change, reason):
    await ready(server)
    await server.begin()
    await server.hears(BudgetSpent)
    await server.begin(**{"number": 2, "reservation": "s2", **change})
    assert reason in (await server.hears(ClientDeclined)).reason
    assert (await server.hears(BudgetSpent)).steps == 0
    assert server.trainer.runs == 1


async def test_a_round_that_is_summed_in_another_way_than_announced_is_declined(server):
    await server.announce("oneshot")
    await server.hears(ClientReady)
    server.cohort = {name: member(name, "j") for name in ("b", "c")}
    opened = SessionPlan.of(server.job, 1.0).model_copy(update={"protocol": "none"})
    await server.begin(terms={"plan": opened})
    assert "another way than the job announced" in (await server.hears(ClientDeclined)).reason
    assert server.trainer.runs == 0


async def test_a_round_with_a_key_holder_that_did_not_sign_its_key_is_declined(server):
    await server.announce("oneshot")
    await server.hears(ClientReady)
    server.cohort = {name: member(name, "j") for name in ("b", "c")}
    forged = server.cohort["b"].model_copy(update={"sealing_key": SealingKey.generate().public})
    server.cohort["b"] = forged
    await server.begin()
    assert "the sealing key of b" in (await server.hears(ClientDeclined)).reason
    assert (await server.hears(BudgetSpent)).steps == 0
    assert server.trainer.runs == 0


@pytest.mark.parametrize("close", ["round", "job"])
async def test_closing_stops_training_and_gives_the_reservation_back(server, close):
    await ready(server)
    server.trainer.go.clear()
    await server.begin()
    await begun(server)
    closed = RoundClosed(client_id="a", job_id="j", round_id="j-r1", outcome="aborted")
    await server.tell(closed if close == "round" else JobClosed(client_id="a", job_id="j", outcome="failed"))
    assert (await server.hears(BudgetSpent)).steps == 0
    assert server.heard.empty()


async def test_failed_training_is_declined_without_telling_what_the_error_said(server):
    await ready(server)
    server.trainer.error = ValueError("a secret record")
    await server.begin()
    declined = await server.hears(ClientDeclined)
    assert "ValueError" in declined.reason
    assert "secret" not in declined.reason
    assert (await server.hears(BudgetSpent)).steps == 0


@pytest.mark.parametrize("crash", ["before the commit", "after the commit"])
async def test_a_crash_around_the_upload_leaves_exactly_one_upload(server, crash):
    await ready(server)
    died = asyncio.Event()

    async def dying(work):
        if crash == "after the commit":
            async with server.infrastructure.units.begin() as unit:
                await work(unit)
        died.set()
        await asyncio.Event().wait()  # whatever would follow never happens

    server.service.worker.transact = dying
    await server.begin()
    async with asyncio.timeout(10):
        await died.wait()
    server.running.cancel()
    await asyncio.gather(server.running, return_exceptions=True)
    await server.infrastructure.close()
    await server.start()  # an upload that was committed leaves at the latest now
    await server.begin(2, reservation="s2")
    while (await server.hears(BudgetSpent)).reservation_id != "s2":
        pass
    uploads = [event for event in server.log if isinstance(event, UpdateSubmitted)]
    assert [upload.round_id for upload in uploads] == ["j-r1", "j-r2"]
    np.testing.assert_array_equal(opened(uploads[0]), UPDATE)
    spent = [event for event in server.log if isinstance(event, BudgetSpent)]
    assert [(event.reservation_id, event.steps) for event in spent] == [("s1", 8), ("s2", 8)]
    assert server.trainer.runs == (3 if crash == "before the commit" else 2)


async def test_an_adapter_that_has_not_changed_is_not_fetched_again(server, monkeypatch):
    await ready(server)
    fetched, get = [], type(server.infrastructure.blobs).get

    async def counted(self, ref):
        fetched.append(ref.sha256)
        return await get(self, ref)

    monkeypatch.setattr(type(server.infrastructure.blobs), "get", counted)
    for number in (1, 2):
        await server.begin(number, reservation=f"s{number}")
        await server.hears(UpdateSubmitted)
    await server.begin(3, reservation="s3", adapter={"lora_B": np.ones((3, 4), np.float32)})
    await server.hears(UpdateSubmitted)
    first, other = (
        hashlib.sha256(to_safetensors({"lora_B": values})).hexdigest()
        for values in (np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32))
    )
    assert (fetched.count(first), fetched.count(other)) == (1, 1)


@pytest.mark.parametrize("counted", [True, False])
async def test_a_clients_control_variate_moves_when_its_update_counts_and_survives_a_restart(server, counted):
    sections = {
        "server": {"optimizer": "scaffold"},
        "training": {"optimizer": "sgd", "learning_rate": 0.5, "local_steps": 8},
    }
    await server.announce(sections=sections)
    await server.hears(ClientReady)
    common = np.arange(12) / 7
    await server.begin(control=np.zeros(12))
    await server.hears(BudgetSpent)
    closed = RoundClosed(client_id="a", job_id="j", round_id="j-r1", outcome="completed", counted=counted)
    await server.tell(closed)
    await server.tell(closed)
    await server.begin(2, reservation="s2", control=common)
    await server.hears(BudgetSpent)
    await server.end()
    await server.start()
    await server.begin(3, reservation="s3", control=common)
    await server.hears(BudgetSpent)
    own = -UPDATE / (8 * 0.5) if counted else np.zeros(12)
    for found, expected in zip(
        server.trainer.controls, (np.zeros(12), common - own, common - own), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


async def test_a_control_variate_of_another_length_is_declined(server):
    await server.announce(
        sections={"server": {"optimizer": "scaffold"}, "training": {"optimizer": "sgd", "learning_rate": 0.5}}
    )
    await server.hears(ClientReady)
    await server.begin(control=np.zeros(11))
    assert "11 values, 12 expected" in (await server.hears(ClientDeclined)).reason
