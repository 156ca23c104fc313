"""A oneshot session at the service: whatever comes in whatever order, one sum over one survivor set, or none."""

import random
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from shared.core.secagg import sealing
from shared.core.secagg.encoding import predicted_error
from shared.core.secagg.oneshot import committee
from shared.core.secagg.oneshot import encoding as oneshot_encoding
from shared.core.secagg.oneshot.interpolation import P
from shared.core.secagg.oneshot.messages import Answer, SurvivorSet
from shared.errors import Rejected, Stale, Unavailable
from shared.events import GroupFailed, GroupSummed, StageBegun
from shared.events.base import pack, unpack
from shared.sessions.holding import ANSWER, COMPLAINT, RELEASE, answered, survivors_from_bits
from shared.sessions.terms import encoding_of, oneshot_terms
from tests.sessions_at_work import (
    DEADLINE,
    Summing,
    content_of,
    identity_of,
    requested,
    sealing_key_of,
    upload,
)

DIMENSION, STAGE_S = 500, 10.0


@pytest.fixture
async def service(tmp_path):
    opened = await Summing.open(f"sqlite+aiosqlite:///{tmp_path}/sums.db")
    yield opened
    await opened.units.close()


class Session:
    """A session of so many clients, all of them key holders."""

    def __init__(self, service, names, terms):
        self.service, self.names, self.terms = service, names, terms
        self.updates = {
            name: np.random.default_rng(index).normal(size=DIMENSION).astype(np.float32)
            for index, name in enumerate(names)
        }
        self.uploads = {
            name: upload(terms, name, content_of(terms, name, self.updates[name]).content)[0]
            for name in names
        }

    @classmethod
    async def begin(cls, service, clients, **plan):
        names = [f"c{n}" for n in range(clients)]
        request = requested(names, "oneshot", DIMENSION, stage_s=STAGE_S, **plan)
        return cls(service, names, await service.begin(request))

    async def upload(self, *names):
        for name in names or self.names:
            assert await self.service.handle(self.uploads[name])  # held until the sum is committed

    def told(self, name):
        """What this holder was told, (stage, content), in order."""
        events = [event for event in self.service.of(StageBegun) if event.client_id == name]
        return [(event.stage, unpack(event.payload)) for event in events]

    def answer(self, name, wrong=False):
        """What this holder answers to the survivor set."""
        core = oneshot_terms(self.terms)
        places = [holder.holder_id for holder in self.terms.committee]
        holder = committee.Holder(core, places.index(name))
        for stage, content in self.told(name):
            for client, sealed in content.get("shares", {}).items():
                info = self.terms.sender(client).share_info(name)
                holder = committee.keep(holder, client, sealing.open_(sealed, sealing_key_of(name), info))
            if stage == RELEASE:
                survivors = survivors_from_bits(content["survivors"], self.terms)
                digests = tuple((one, holder.kept[one].upload_digest) for one in survivors)
                holder = committee.respond(holder, SurvivorSet(core.digest, digests), content["signature"])
        answer = holder.answer
        if wrong:
            answer = Answer(answer.holder, answer.survivors_digest, (answer.values + 1) % np.uint32(P))
        return answered(self.terms, name, identity_of(name), ANSWER, answer.to_bytes())

    async def answers(self, *names):
        for name in names:
            await self.service.handle(self.answer(name))

    async def assert_sum_of(self, *names):
        (summed,) = self.service.of(GroupSummed)
        assert tuple(summed.weights) == names
        total = np.frombuffer(await self.service.context.blobs.get(summed.total), "<f8")
        encoding = encoding_of(self.terms)
        noise = encoding.step * oneshot_encoding.predicted_error(len(names), 1024)
        sigma = float(np.hypot(predicted_error(encoding, len(names)), noise))
        expected = np.sum([self.updates[name] for name in names], axis=0, dtype=np.float64)
        assert np.abs(total - expected).max() <= 7 * sigma


async def test_a_quorum_of_answers_opens_the_sum_and_fewer_do_not(service):
    session = await Session.begin(service, 5)
    await session.upload()
    await session.answers("c0", "c1", "c2")
    assert not service.of(GroupSummed)
    await session.answers("c4")
    await session.assert_sum_of(*session.names)


async def test_each_holder_is_passed_each_share_once_and_most_before_the_last_upload(service):
    session = await Session.begin(service, 10)
    await session.upload(*session.names[:9])
    early = session.told("c3")
    assert all(stage != RELEASE for stage, _ in early)
    assert sum(len(content["shares"]) for _, content in early) >= 8
    await session.upload("c9")
    for name in session.names:
        shares = Counter(client for _, content in session.told(name) for client in content["shares"])
        assert shares == Counter(session.names)
        assert [stage for stage, _ in session.told(name)].count(RELEASE) == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_restart_among_the_answers_changes_nothing_in_any_order_of_redelivery(service, seed):
    print(f"seed {seed}")
    session = await Session.begin(service, 5)
    await session.upload()
    held = [session.answer(name) for name in ("c1", "c3")]
    for answer in held:
        await service.handle(answer)
    first = service.of(StageBegun)
    service.context.gathered.clear()
    again = [*held, *session.uploads.values(), *held]
    random.Random(seed).shuffle(again)
    for event in again:
        await service.handle(event)
    await session.answers("c0", "c2")
    await session.assert_sum_of(*session.names)
    assert service.of(StageBegun) == first  # nobody was told anything twice


async def test_an_upload_after_the_survivors_are_fixed_is_stale_also_after_a_restart(service):
    session = await Session.begin(service, 5)
    await session.upload("c0", "c1", "c2", "c3")
    await service.pass_deadlines(DEADLINE)
    for _ in range(2):
        with pytest.raises(Stale):
            await service.handle(session.uploads["c4"])
        service.context.gathered.clear()
    await session.upload("c0", "c1", "c2", "c3")
    await session.answers("c0", "c1", "c3", "c4")  # a holder need not be among the survivors
    await session.assert_sum_of("c0", "c1", "c2", "c3")
    (summed,) = service.of(GroupSummed)
    assert [item.client_id for item in summed.left_out] == ["c4"]


async def test_a_wrong_answer_with_enough_to_spare_is_passed_over(service):
    session = await Session.begin(service, 10)
    await session.upload()
    await service.handle(session.answer("c0", wrong=True))
    await session.answers(*session.names[1:8])
    assert not service.of(GroupSummed)  # a quorum, but it does not open
    await session.answers("c8", "c9")
    await session.assert_sum_of(*session.names)


async def test_a_wrong_answer_without_enough_to_spare_opens_nothing(service):
    session = await Session.begin(service, 5)
    await session.upload()
    await service.handle(session.answer("c0", wrong=True))
    await session.answers("c1", "c2", "c3", "c4")
    assert not service.of(GroupSummed)
    (failed,) = service.of(GroupFailed)
    assert not failed.faulty


async def test_a_second_answer_is_rejected_and_the_first_stands(service):
    session = await Session.begin(service, 5)
    await session.upload()
    await session.answers("c0")
    with pytest.raises(Rejected, match="two answers"):
        await service.handle(session.answer("c0", wrong=True))
    await session.answers("c1", "c2", "c3")
    await session.assert_sum_of(*session.names)


async def test_an_answer_counts_only_when_its_holder_signed_it(service):
    session = await Session.begin(service, 5)
    await session.upload()
    stolen = session.answer("c1").model_copy(update={"client_id": "c0"})
    with pytest.raises(Rejected, match="signature"):
        await service.handle(stolen)
    payload = session.answer("c1").payload  # another holder's answer, signed by c0
    await service.handle(answered(session.terms, "c0", identity_of("c0"), ANSWER, payload))
    await session.answers("c1", "c2", "c3")
    assert not service.of(GroupSummed)
    await session.answers("c4")
    await session.assert_sum_of(*session.names)


async def test_who_is_not_in_the_committee_answers_nothing(service):
    session = await Session.begin(service, 5, holders=2)
    await session.upload()
    (outsider, *_) = set(session.names) - {holder.holder_id for holder in session.terms.committee}
    with pytest.raises(Rejected, match="not in the committee"):
        await service.handle(answered(session.terms, outsider, identity_of(outsider), ANSWER, b""))
    with pytest.raises(Rejected):
        await service.handle(answered(session.terms, "eve", identity_of("eve"), ANSWER, b""))


async def test_without_a_quorum_in_time_the_group_fails(service):
    session = await Session.begin(service, 5)
    await session.upload()
    await session.answers("c0", "c1", "c2")
    frozen = service.clock.time
    with pytest.raises(Unavailable):  # nothing to give up yet, had the clock fired early
        service.context.rebuilt_at = frozen + timedelta(seconds=STAGE_S + 1)
        await service.pass_deadlines(frozen + timedelta(seconds=STAGE_S))
    await service.pass_deadlines(frozen + timedelta(seconds=STAGE_S + 1))
    (failed,) = service.of(GroupFailed)
    assert failed.reason == "3 of 5 key holders answered, 4 are needed"
    with pytest.raises(Stale):
        await service.handle(session.answer("c3"))


async def test_a_key_holder_that_complains_of_more_than_a_third_is_not_believed(service):
    session = await Session.begin(service, 5)
    await session.upload()
    await session.answers("c0", "c1", "c2")
    everyone = pack({f"c{n}": "does not open" for n in range(5)})
    for holder in ("c3", "c4"):
        await service.handle(answered(session.terms, holder, identity_of(holder), COMPLAINT, everyone))
    (failed,) = service.of(GroupFailed)
    assert failed.faulty == ()


async def test_a_complaint_that_costs_nothing_is_named_with_the_sum(service):
    session = await Session.begin(service, 5)
    await session.upload()
    complaint = pack({"c1": "does not open"})
    await service.handle(answered(session.terms, "c4", identity_of("c4"), COMPLAINT, complaint))
    await session.answers("c0", "c1", "c2", "c3")
    (summed,) = service.of(GroupSummed)
    assert summed.named == {"c1": "key holder c4 refused its share: does not open"}
    assert "c1" in summed.weights


async def test_complaints_that_leave_no_quorum_fail_the_group_at_once_and_name_the_client(service):
    session = await Session.begin(service, 5)
    await session.upload()
    await session.answers("c0", "c1", "c2")
    for holder in ("c3", "c4"):
        complaint = pack({"c1": "does not open", "eve": "is no client"})
        await service.handle(answered(session.terms, holder, identity_of(holder), COMPLAINT, complaint))
    (failed,) = service.of(GroupFailed)
    assert failed.faulty == ("c1",)
