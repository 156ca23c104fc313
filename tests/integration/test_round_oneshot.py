"""Whole jobs of real workers under the default protocol: the mean within the predicted error, come what may."""

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from services.client.sessions import PROTOCOLS
from services.client.sessions.base import Encoded
from services.client.sessions.oneshot import Encrypted
from shared.core.secagg.encoding import Encoding, predicted_error
from shared.core.secagg.oneshot import encoding as oneshot_encoding
from shared.errors import Unavailable
from shared.events import GroupFailed, GroupSummed, JobEnded, RoundAborted, RoundCompleted
from shared.events.plans import SessionPlan
from shared.sessions import uploads
from shared.sessions.holding import RELEASE
from shared.sessions.terms import oneshot_terms
from tests.integration.worker_federation import adapter_of, job, known_mean, worker_federation

FIVE = ("alpha", "beta", "delta", "epsilon", "gamma")
DIMENSION = 2_000
ENCODING_SCALE = 1024  # of 16-bit values, up to 31 clients


@asynccontextmanager
async def at_work(folder, names=FIVE, failing=(), silent=()):
    """The federation, with `fed.workers` by name; `failing` decline each round, `silent` never finish one."""
    async with worker_federation(folder, names, dimension=DIMENSION) as (fed, workers):
        for name in failing:
            workers.trainers[name].fails = True
        for name in silent:
            workers.trainers[name].gate = threading.Event()
        fed.workers, fed.hands = workers.services, workers
        yield fed


def encrypted(clients, *, aggregation=None, rounds=None):
    """A job of two rounds for so many clients at least."""
    return job(aggregation=aggregation or {}, rounds={"min_clients": clients, **(rounds or {})})


def predicted(clients):
    """Standard deviation of a coordinate of the mean: the encoding's rounding, the encryption's noise."""
    planned = encrypted(2)
    plan = SessionPlan.of(planned, planned.privacy.noise_multiplier)
    encoding = Encoding(dimension=DIMENSION, bits=plan.bits, bound=plan.bound)
    noise = encoding.step * oneshot_encoding.predicted_error(clients, ENCODING_SCALE)
    return float(np.hypot(predicted_error(encoding, clients), noise)) / clients


async def assert_means(fed, contributors, count=2):
    """Each completed round moved the adapter by the mean of `contributors`, within the predicted error."""
    rounds = sorted(await fed.until(RoundCompleted, count), key=lambda event: event.number)
    assert len(rounds) == count
    before = np.zeros(DIMENSION)  # where B starts
    for completed in rounds:
        assert completed.contributors == tuple(sorted(contributors))
        after = np.asarray(await adapter_of(fed, completed), np.float64)
        error = after - before - known_mean(contributors, completed.number, DIMENSION)
        sigma = predicted(len(contributors))
        assert np.abs(error).max() <= 7 * sigma
        assert 0.8 * sigma <= error.std() <= 1.2 * sigma
        before = after
    return rounds


def test_oneshot_is_what_a_job_gets_that_says_nothing():
    said = encrypted(2).model_dump(exclude={"aggregation"})
    assert type(encrypted(2)).model_validate(said).aggregation.secure == "oneshot"


async def ended(fed):
    (event,) = await fed.until(JobEnded)
    return event


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_each_round_moves_the_adapter_by_the_mean_within_the_predicted_error(tmp_path, count):
    async with at_work(tmp_path, FIVE[:count]) as fed:
        await fed.submit(encrypted(count))
        end = await ended(fed)
        assert (end.outcome, end.rounds_completed) == ("completed", 2), end.reason
        await assert_means(fed, FIVE[:count])
        assert not fed.of(GroupFailed)
        assert not await fed.bus.dead_letters()


async def test_a_worker_that_declines_is_left_out_at_once_with_its_reason(tmp_path):
    async with at_work(tmp_path, FIVE, failing=("beta",)) as fed:
        await fed.submit(encrypted(2))
        assert (await ended(fed)).outcome == "completed"
        rounds = await assert_means(fed, [name for name in FIVE if name != "beta"])
        ((left,), _) = [completed.left_out for completed in rounds]
        assert (left.client_id, left.reason) == ("beta", "training failed: RuntimeError")


async def test_a_worker_that_falls_silent_before_its_upload_is_left_out_at_the_deadline(tmp_path):
    async with at_work(tmp_path, FIVE, silent=("delta",)) as fed:
        await fed.submit(encrypted(2, rounds={"count": 1, "deadline_s": 2}))
        assert (await ended(fed)).outcome == "completed"
        (completed,) = await assert_means(fed, [name for name in FIVE if name != "delta"], 1)
        assert [item.client_id for item in completed.left_out] == ["delta"]


class Mute:
    """A key holder that takes everything in and never says a word."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def on_stage_begun(self, event, unit):
        if event.stage == RELEASE:
            self.asked.set()

    async def forget(self, session, unit):
        pass


async def test_a_key_holder_that_never_answers_is_done_without_where_the_committee_allows(tmp_path):
    async with at_work(tmp_path, FIVE) as fed:
        fed.workers["gamma"].context.keeper = Mute()
        await fed.submit(encrypted(5))
        assert (await ended(fed)).outcome == "completed"
        await assert_means(fed, FIVE)


async def test_without_a_quorum_of_answers_the_group_fails_and_says_so(tmp_path):
    async with at_work(tmp_path, FIVE[:2]) as fed:
        fed.workers["beta"].context.keeper = mute = Mute()
        await fed.submit(encrypted(2, aggregation={"stage_s": 0.5}, rounds={"retries": 0}))
        end = await ended(fed)
        assert mute.asked.is_set()
        (failed,) = await fed.until(GroupFailed)
        assert failed.reason == "1 of 2 key holders answered, 2 are needed"
        assert not failed.faulty
        assert (end.outcome, end.rounds_completed) == ("failed", 0)
        assert failed.reason in end.reason


class Spoiling(Encrypted):
    """Client beta seals garbage to the first so many other holders of the committee."""

    spoilt = 0

    def encrypt(self, state, update, random_bytes):
        encoded = super().encrypt(state, update, random_bytes)
        if self.client_id != "beta":
            return encoded
        upload, shares = uploads.split(encoded.content, oneshot_terms(self.terms))
        shares = list(shares)
        names = [holder.holder_id for holder in self.terms.committee]
        for name in [name for name in names if name != "beta"][: self.spoilt]:
            shares[names.index(name)] = bytes(len(shares[names.index(name)]))
        return Encoded(uploads.join(upload, shares))


@pytest.mark.parametrize(("spoilt", "committee"), [(1, 2), (2, 64)])
async def test_a_client_whose_shares_are_garbage_is_named_and_left_out_from_then_on(
    tmp_path, monkeypatch, spoilt, committee
):
    monkeypatch.setitem(PROTOCOLS, "oneshot", Spoiling)
    monkeypatch.setattr(Spoiling, "spoilt", spoilt)
    async with at_work(tmp_path, FIVE) as fed:
        await fed.submit(encrypted(4, aggregation={"committee": committee}, rounds={"retries": 0}))
        end = await ended(fed)
        (failed,) = fed.of(GroupFailed)
        assert failed.faulty == ("beta",)
        assert [event.round_id for event in fed.of(RoundAborted)] == ["job-r1"]
        assert (end.outcome, end.rounds_completed) == ("completed", 2), end.reason
        rounds = await assert_means(fed, [name for name in FIVE if name != "beta"])
        for completed in rounds:
            (left,) = completed.left_out
            assert (left.client_id, left.reason) == ("beta", "named as faulty in job-r1")


async def test_garbage_to_a_holder_that_can_be_done_without_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "oneshot", Spoiling)
    monkeypatch.setattr(Spoiling, "spoilt", 1)
    async with at_work(tmp_path, FIVE) as fed:
        await fed.submit(encrypted(5))
        assert (await ended(fed)).outcome == "completed"
        await assert_means(fed, FIVE)


class Postponing(Mute):
    """A key holder that keeps shares, and puts the survivor set off."""

    def __init__(self, keeper):
        super().__init__()
        self.keeper = keeper

    async def on_stage_begun(self, event, unit):
        if event.stage == RELEASE:
            self.asked.set()
            raise Unavailable("scripted")
        await self.keeper.on_stage_begun(event, unit)


async def test_a_key_holder_restarted_with_the_shares_answers_for_them(tmp_path):
    async with at_work(tmp_path, FIVE[:2]) as fed:  # of two, none may be lost
        holder = Postponing(fed.workers["beta"].context.keeper)
        fed.workers["beta"].context.keeper = holder
        await fed.submit(encrypted(2, rounds={"count": 1}))
        async with asyncio.timeout(30):
            await holder.asked.wait()
        await fed.hands.stop("beta")
        await fed.hands.start("beta")
        end = await ended(fed)
        assert end.outcome == "completed", end.reason
        await assert_means(fed, FIVE[:2], 1)
        assert not fed.of(GroupFailed)


class Gated:
    """A key holder that waits for `gate` before it hears of a survivor set."""

    def __init__(self, keeper, gate):
        self.keeper, self.gate, self.asked = keeper, gate, asyncio.Event()

    def __getattr__(self, name):
        return getattr(self.keeper, name)

    async def on_stage_begun(self, event, unit):
        if event.stage == RELEASE:
            self.asked.set()
            await self.gate.wait()
        await self.keeper.on_stage_begun(event, unit)


@pytest.mark.parametrize("answered", [0, 2])
async def test_secure_aggregation_restarted_before_the_answers_opens_the_same_sum(tmp_path, answered):
    async with at_work(tmp_path, FIVE) as fed:
        gate, free = asyncio.Event(), asyncio.Event()
        free.set()
        gated = {
            name: Gated(service.context.keeper, free if index < answered else gate)
            for index, (name, service) in enumerate(fed.workers.items())
        }
        for name, keeper in gated.items():
            fed.workers[name].context.keeper = keeper
        await fed.submit(encrypted(5, rounds={"count": 1}))
        async with asyncio.timeout(30):
            await asyncio.gather(*(keeper.asked.wait() for keeper in gated.values()))
        before = fed.services["secure_aggregation"].context
        await fed.restart("secure_aggregation")
        assert fed.services["secure_aggregation"].context is not before
        gate.set()
        end = await ended(fed)
        assert end.outcome == "completed", end.reason
        await assert_means(fed, FIVE, 1)
        assert not fed.of(RoundAborted)


async def test_groups_are_summed_each_on_its_own_and_averaged_together(tmp_path):
    async with at_work(tmp_path, FIVE) as fed:
        await fed.submit(encrypted(5, aggregation={"group_size": 2, "smallest_group": 2}))
        end = await ended(fed)
        assert end.outcome == "completed", end.reason
        await assert_means(fed, FIVE)
        sums = await fed.until(GroupSummed, 4)
        for round_id in ("job-r1", "job-r2"):
            groups = [set(event.weights) for event in sums if event.round_id == round_id]
            assert sorted(len(group) for group in groups) == [2, 3]
            assert set.union(*groups) == set(FIVE)
