"""A worker under divided noise: an update without noise leaves it only through a session that adds some."""

import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from services.client import ledger as ledgers
from services.client.ledger import Ledger
from services.client.policy import Policy, check
from services.client.sessions import PROTOCOLS
from services.client.trainer import TrainingResult
from shared.core.lora import to_safetensors
from shared.core.privacy import epsilon
from shared.errors import Refused, Rejected
from shared.events import (
    BudgetSpent,
    ClientDeclined,
    ClientReady,
    JobAnnounced,
    RoundStarted,
    UpdateSubmitted,
)
from shared.events.plans import NoisePlan, SessionPlan
from shared.events.values import Member, PoissonSampled, Reservation
from shared.job.plan import mechanism_of
from shared.job.specification import JobSpecification
from shared.sessions.terms import HolderKey, encoding_of
from tests.integration.test_worker import LAYOUT, UPDATE, ScriptedTrainer, Server
from tests.sessions_at_work import identity_of, keys_of, member, requested, terms_of

JOB = JobSpecification.model_validate(
    {
        "name": "job",
        "model": {"base": "m", "task": "causal-lm"},
        "data": {"text": "t"},
        "training": {"optimizer": "sgd", "local_steps": 1, "learning_rate": 0.1},
        "privacy": {"noise": "divided"},
        "rounds": {"min_clients": 3},
        "aggregation": {"weight_cap": 40},
    }
)
A_ROUND = PoissonSampled.of_round(JOB, 1.0)
NOISE = NoisePlan(noise_multiplier=1.0, sensitivity=1e-3, shares=2)
SECURE = ("oneshot", "secagg", "mpc3")


class SummingTrainer(ScriptedTrainer):
    """Gives what needs noise, or with `noised` says that it has some."""

    noised, scale = False, 1e-3

    def train(self, task, progress, cancelled):
        result = super().train(task, progress, cancelled)
        return TrainingResult(UPDATE * np.float32(self.scale), result.steps, 0.1, 1.0, noised=self.noised)


class DividedServer(Server):
    """Announces the job above and begins its rounds as a coordinator does."""

    async def announce(self, secure="oneshot", **privacy):
        self.job = JOB
        await self.tell(JobAnnounced(client_id="a", job_id="j", specification=JOB, noise_multiplier=1.0))
        await self.hears(ClientReady)
        self.cohort = {name: member(name, "j") for name in ("b", "c")}

    def terms(self, number, **changes):
        announced = self.seat
        own = Member(
            verify_key=self.verify_key, sealing_key=announced.sealing_key,
            sealing_signature=announced.sealing_signature,
        )  # fmt: skip
        agreed = super().terms(number, members={"a": own, **self.cohort}, **changes)
        holders = [HolderKey(holder_id=name, **keys_of(one)) for name, one in agreed.members.items()]
        return agreed.model_copy(update={"committee": tuple(holders)})

    async def hears(self, kind):
        event = await super().hears(kind)
        if isinstance(event, ClientReady):
            self.seat = event
        return event

    async def begin(self, number=1, *, mechanism=A_ROUND, terms=None):
        agreed = self.terms(number, **(terms or {}))
        tensors = {"lora_B": np.zeros((3, 4), np.float32)}
        await self.tell(
            RoundStarted(
                client_id="a", job_id="j", round_id=f"j-r{number}", group_id=f"j-r{number}-g1", number=number,
                adapter=await self.infrastructure.blobs.put(to_safetensors(tensors)),
                layout_sha256=LAYOUT.sha256, reservation=reservation(number, mechanism),
                terms=await self.infrastructure.blobs.put(agreed.to_bytes()),
                deadline=datetime.now(UTC) + timedelta(minutes=5),
            )
        )  # fmt: skip


def reservation(number, mechanism):
    return Reservation(
        reservation_id=f"s{number}", client_id="a", epsilon_after=1, epsilon_limit=8, delta=1e-5,
        mechanism=mechanism,
    )  # fmt: skip


@pytest.fixture
async def server(tmp_path):
    server = DividedServer(tmp_path)
    server.trainer = SummingTrainer()
    await server.start()
    yield server
    await server.end()
    await server.bus.close()


async def test_a_round_as_announced_is_uploaded_and_charged(server):
    await server.announce()
    await server.begin()
    await server.hears(UpdateSubmitted)
    assert (await server.hears(BudgetSpent)).steps == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"noise": None},
        {"noise": {"noise_multiplier": 0.5}},
        {"noise": {"shares": 40}},
        {"noise": {"sensitivity": 1e-9}},
        {"protocol": "none"},
        {"protocol": "none", "noise": None},
        {"fewest": 2},
    ],
)
async def test_a_round_with_less_noise_or_another_protocol_than_announced_is_declined(server, changed):
    await server.announce()
    plan = SessionPlan.of(JOB, 1.0)
    if changed.get("noise"):
        changed = {**changed, "noise": plan.noise.model_copy(update=changed["noise"])}
    await server.begin(terms={"plan": plan.model_copy(update=changed)})
    assert "another way than the job announced" in (await server.hears(ClientDeclined)).reason
    assert (await server.hears(BudgetSpent)).steps == 0
    assert server.trainer.runs == 0


async def test_an_update_that_says_it_has_noise_is_not_encoded_with_more(server):
    await server.announce()
    server.trainer.noised = True
    await server.begin()
    assert "needs noise once" in (await server.hears(ClientDeclined)).reason
    assert not [event for event in server.log if isinstance(event, UpdateSubmitted)]


async def test_nothing_is_logged_of_what_noise_does_not_cover(server, capsys):
    await server.announce()
    server.trainer.scale = 1e3  # far beyond the bound
    await server.begin()
    await server.hears(BudgetSpent)
    said = capsys.readouterr()
    assert "clipped" not in said.out + said.err


LOCAL = PoissonSampled(sampling_rate=0.1, noise_multiplier=1.0, steps=1)


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [
        (LOCAL, "poisson-skellam was announced"),
        (A_ROUND.model_copy(update={"noise_multiplier": 2.0}), "charge for that"),
        (A_ROUND.model_copy(update={"sampling_rate": 0.05}), "charge for that"),
        (A_ROUND.model_copy(update={"l2_sensitivity": 1e6}), "announced"),
    ],
)
def test_a_reservation_is_for_the_noise_that_a_session_adds(mechanism, reason):
    ledger = Ledger(job_id="j", epsilon=8, delta=1e-5, announced=A_ROUND)
    with pytest.raises(Refused) as refused:
        ledgers.reserve(ledger, "r1", reservation(1, mechanism), [], Policy())
    assert reason in str(refused.value)


def test_a_workers_own_ledger_refuses_the_round_that_would_overspend():
    ledger = Ledger(job_id="j", epsilon=4, delta=1e-5, announced=A_ROUND)
    rounds = 0
    with pytest.raises(Refused, match="would bring epsilon"):
        for number in range(1, 500):
            asked = reservation(number, A_ROUND).model_copy(update={"epsilon_limit": 4.0})
            ledger = ledgers.reserve(ledger, f"r{number}", asked, [], Policy())
            ledger = ledgers.commit(ledger, f"r{number}", 1)
            rounds = number
    assert (
        epsilon([mechanism_of(JOB, 1.0, rounds)], 1e-5)
        <= 4
        < epsilon([mechanism_of(JOB, 1.0, rounds + 1)], 1e-5)
    )


def test_an_owner_may_refuse_divided_noise():
    assert check(JOB, 1.0, Policy()) is None
    refused = check(JOB, 1.0, Policy(allowed_noise=("local",)))
    assert refused.field == "privacy.noise"


@pytest.mark.parametrize(
    ("block", "change", "field"),
    [
        ("aggregation", {"secure": "mpc3", "robust": "geometric-median"}, "aggregation.robust"),
        ("aggregation", {"secure": "none"}, "aggregation.secure"),
        ("aggregation", {"malicious": 2}, "aggregation.malicious"),
        ("aggregation", {"weight_cap": None}, "aggregation.weight_cap"),
        ("aggregation", {"bits": 8}, "aggregation.bits"),
        ("training", {"local_steps": 8}, "training.local_steps"),
        ("privacy", {"clipping": "adaptive"}, "privacy.clipping"),
    ],
)
def test_a_worker_refuses_what_a_server_should_have_refused(block, change, field):
    job = JOB.model_copy(update={block: getattr(JOB, block).model_copy(update=change)})
    assert check(job, 1.0, Policy(allowed_secure_protocols=("none", "mpc3", "oneshot"))).field == field


def test_an_owners_least_noise_is_of_its_own_share():
    five = JOB.model_copy(update={"rounds": JOB.rounds.model_copy(update={"min_clients": 5})})
    assert check(five, 1.0, Policy(least_noise_multiplier=0.5)) is None
    refused = check(five, 1.0, Policy(least_noise_multiplier=0.51))
    assert refused.field == "noise_multiplier"


def session(protocol):
    names = ("a", "b", "c")
    terms = terms_of(requested(names, protocol, 5000, noise=NOISE, bound=0.015))
    members = {name: one.model_copy(update={"weight": 0.25}) for name, one in terms.members.items()}
    return PROTOCOLS[protocol](terms.model_copy(update={"members": members}), "a", identity_of("a"))


@pytest.mark.parametrize("protocol", SECURE)
def test_a_session_of_divided_noise_cannot_encode_without_it(protocol):
    at_work = session(protocol)
    wanted = encoding_of(at_work.terms)
    zeros, ones = (np.full(5000, value, np.float32) for value in (0, 0.01))
    for update in (zeros, ones):
        found = at_work.integers(update, os.urandom).values
        expected = update[0] / wanted.step  # a public weight would make it a quarter
        assert abs(found.mean() - expected) < 6 * wanted.noise_steps / 5000**0.5
        assert 0.9 < found.std() / wanted.noise_steps < 1.1
    assert wanted.noise_steps > 100


def test_protocol_none_neither_begins_nor_encodes_without_noise():
    at_work = session("none")
    with pytest.raises(Rejected, match="no noise of their own"):
        at_work.begin(os.urandom)
    with pytest.raises(Rejected, match="no noise of their own"):
        at_work.encrypt(b"", np.zeros(5000, np.float32), os.urandom)
