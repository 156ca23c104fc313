"""A key holder on its database: what it was told stays told, and it answers for one survivor set."""

import numpy as np
import pytest

from shared.adapters.blobs import open_blobs
from shared.adapters.database import open_units
from shared.core.secagg import sealing
from shared.core.secagg.oneshot import ring, server
from shared.core.secagg.oneshot.interpolation import P
from shared.core.secagg.oneshot.messages import answer_from_bytes, share_from_bytes
from shared.errors import Rejected, Unavailable
from shared.events import StageAnswered, StageBegun
from shared.events.base import Envelope, pack, unpack
from shared.sessions import uploads
from shared.sessions.holding import (
    ANSWER,
    COMPLAINT,
    RELEASE,
    SHARES,
    HeldShares,
    Keeper,
    survivors_from_bits,
    survivors_to_bits,
)
from shared.sessions.terms import oneshot_terms
from tests.sessions_at_work import (
    SERVER,
    SetClock,
    content_of,
    identity_of,
    requested,
    sealing_key_of,
    terms_of,
)

CLIENTS = ("c0", "c1", "c2", "c3")
HOLDER, PLACE = "c1", 1
SESSION = ("job", "job-r1", "job-r1-g1")
TERMS = terms_of(requested(CLIENTS, "oneshot", 10))
CORE = oneshot_terms(TERMS)
BLOCKS = CORE.scheme.blocks(ring.N)
UPLOADS = {
    name: uploads.split(content_of(TERMS, name, np.full(10, 0.5, np.float32)).content, CORE)
    for name in CLIENTS
}
SEALED = {name: shares[PLACE] for name, (_, shares) in UPLOADS.items()}
FORGED = TERMS.committee[0].model_copy(update={"sealing_signature": b"s" * 64})


def values_of(name):
    info = TERMS.sender(name).share_info(HOLDER)
    content = sealing.open_(SEALED[name], sealing_key_of(HOLDER), info)
    return share_from_bytes(content, BLOCKS, PLACE, len(CLIENTS)).values.astype(np.uint64)


def release(*survivors, key=SERVER.signing, **more):
    """What the service says once these clients' uploads are in."""
    session, total = server.Session(CORE), server.empty(CORE)
    for name in survivors:
        session = server.receive(session, total, name, UPLOADS[name][0])
    message = server.freeze(session).survivors.message()
    return {
        "survivors": survivors_to_bits(survivors, TERMS),
        "signature": sealing.sign(key, message),
        **more,
    }


def shares(*names):
    return {"shares": {name: SEALED[name] for name in names}}


class Crash(Exception):
    """The process dies before the commit."""


class Held:
    """A keeper over SQLite, which `restart` forgets but for the file."""

    def __init__(self, folder):
        self.url, self.blobs = f"sqlite+aiosqlite:///{folder}/holder.db", open_blobs("memory://")

    async def start(self):
        self.units = await open_units(self.url, HOLDER, SetClock(), lambda: HOLDER)
        self.keeper = Keeper(HOLDER, identity_of(HOLDER), self.blobs, self.sealing_key, self.check)
        return self

    async def restart(self):
        await self.units.close()
        await self.start()

    async def sealing_key(self, job_id, unit):
        return sealing_key_of(HOLDER)

    async def check(self, terms, unit):
        pass

    async def tell(self, stage, content, *, terms=TERMS, crash=False, payload=None):
        """Tell it in a transaction of its own; what it answers, as (stage, payload)."""
        event = StageBegun(
            client_id=HOLDER, job_id="job", round_id="job-r1", group_id="job-r1-g1", stage=stage,
            terms=await self.blobs.put(terms.to_bytes()), payload=payload or pack(content),
        )  # fmt: skip
        async with self.units.begin(Envelope.wrap(event)) as unit:
            await self.keeper.on_stage_begun(event, unit)
            said = [one.open() for one in unit.outgoing]
            if crash:
                raise Crash
        for one in said:
            assert isinstance(one, StageAnswered)
            message = TERMS.sender(HOLDER).stage_message(one.stage, one.payload)
            sealing.verify(identity_of(HOLDER).public_key().public_bytes_raw(), one.signature, message)
        return [(one.stage, one.payload) for one in said]

    async def forget(self):
        async with self.units.begin() as unit:
            await self.keeper.forget(SESSION, unit)

    async def rows(self):
        async with self.units.begin() as unit:
            return await unit.select(HeldShares, *SESSION)


@pytest.fixture
async def held(tmp_path):
    held = await Held(tmp_path).start()
    yield held
    await held.units.close()


def assert_answers_for(said, *survivors):
    ((stage, payload),) = said
    assert stage == ANSWER
    answer = answer_from_bytes(payload, BLOCKS)
    assert answer.holder == PLACE
    assert (answer.values == sum(values_of(name) for name in survivors) % P).all()


async def test_shares_are_kept_over_a_restart_and_the_answer_is_their_sum(held):
    assert await held.tell(SHARES, shares("c0")) == []
    await held.restart()
    assert await held.tell(SHARES, shares("c1", "c2")) == []
    await held.restart()
    assert_answers_for(await held.tell(RELEASE, release(*CLIENTS, **shares("c3"))), *CLIENTS)


async def test_the_answer_is_only_for_the_survivors(held):
    await held.tell(SHARES, shares(*CLIENTS))
    assert_answers_for(await held.tell(RELEASE, release("c0", "c3")), "c0", "c3")


@pytest.mark.parametrize("between", [(), ("restart",), ("forget",), ("restart", "forget", "restart")])
async def test_it_answers_the_same_again_and_for_no_other_set(held, between):
    await held.tell(SHARES, shares(*CLIENTS))
    first = await held.tell(RELEASE, release("c0", "c1", "c2"))
    for step in between:
        await getattr(held, step)()
    assert await held.tell(RELEASE, release("c0", "c1", "c2")) == first
    for other in (("c0", "c1"), CLIENTS):
        with pytest.raises(Rejected, match="another survivor set"):
            await held.tell(RELEASE, release(*other, **shares(*CLIENTS)))
    assert await held.tell(RELEASE, release("c0", "c1", "c2")) == first


@pytest.mark.parametrize("restarts", [False, True])
async def test_shares_that_come_after_the_answer_are_not_kept(held, restarts):
    await held.tell(SHARES, shares("c0", "c1"))
    await held.tell(RELEASE, release("c0", "c1"))
    if restarts:
        await held.restart()
    assert await held.tell(SHARES, shares("c2")) == []
    assert [sorted(row.shares) for row in await held.rows()] == [["c0", "c1"]]


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_complaint_is_remembered_and_keeps_the_client_out_of_its_answers(held, restarts):
    garbage = b"g" * len(SEALED["c2"])
    ((stage, payload),) = await held.tell(SHARES, {"shares": {**shares("c0", "c1")["shares"], "c2": garbage}})
    assert stage == COMPLAINT
    assert unpack(payload).keys() == {"c2"}
    if restarts:
        await held.restart()
    ((stage, payload),) = await held.tell(RELEASE, release("c0", "c1", "c2"))
    assert (stage, unpack(payload).keys()) == (COMPLAINT, {"c2"})
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1")), "c0", "c1")


async def test_a_garbage_share_that_comes_with_the_survivors_is_complained_of_at_once(held):
    await held.tell(SHARES, shares("c0", "c1"))
    last = release("c0", "c1", "c2", shares={"c2": SEALED["c0"]})  # another client's share
    ((stage, payload),) = await held.tell(RELEASE, last)
    assert (stage, unpack(payload).keys()) == (COMPLAINT, {"c2"})


async def test_shares_whose_commit_failed_are_taken_in_again(held):
    await held.tell(SHARES, shares("c0"))
    with pytest.raises(Crash):
        await held.tell(SHARES, shares("c1", "c2"), crash=True)
    await held.tell(SHARES, shares("c1", "c2"))
    await held.restart()
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1", "c2")), "c0", "c1", "c2")


async def test_other_shares_may_come_first_after_a_failed_commit(held):
    with pytest.raises(Crash):
        await held.tell(SHARES, shares("c0"), crash=True)
    await held.tell(SHARES, shares("c1"))
    await held.tell(SHARES, shares("c0"))
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1")), "c0", "c1")


async def test_an_answer_whose_commit_failed_is_given_again(held):
    await held.tell(SHARES, shares(*CLIENTS))
    with pytest.raises(Crash):
        await held.tell(RELEASE, release("c0", "c1"), crash=True)
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1")), "c0", "c1")


async def test_shares_that_come_twice_count_once(held):
    await held.tell(SHARES, shares("c0", "c1"))
    assert await held.tell(SHARES, shares("c1", "c0")) == []
    assert len(await held.rows()) == 1
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1", **shares("c0"))), "c0", "c1")


async def test_a_client_that_signed_two_uploads_is_complained_of(held):
    again = uploads.split(content_of(TERMS, "c2", np.zeros(10, np.float32)).content, CORE)[1][PLACE]
    await held.tell(SHARES, shares("c0", "c2"))
    ((stage, payload),) = await held.tell(SHARES, {"shares": {"c2": again}})
    assert (stage, unpack(payload).keys()) == (COMPLAINT, {"c2"})


async def test_a_share_that_is_still_on_its_way_is_waited_for(held):
    await held.tell(SHARES, shares("c0"))
    with pytest.raises(Unavailable, match="c1"):
        await held.tell(RELEASE, release("c0", "c1"))
    await held.tell(SHARES, shares("c1"))
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1")), "c0", "c1")


@pytest.mark.parametrize(
    "content",
    [
        release("c0", "c1", key=identity_of("eve")),
        {**release("c0", "c1", "c2"), "survivors": survivors_to_bits(("c0", "c1"), TERMS)},
        {**release("c0", "c1"), "survivors": survivors_to_bits(("c0",), TERMS)},
        {**release("c0", "c1"), "survivors": b""},
        {**release("c0", "c1"), "signature": b""},
    ],
)
async def test_a_survivor_set_that_the_server_did_not_sign_is_refused_and_another_still_answered(
    held, content
):
    await held.tell(SHARES, shares(*CLIENTS))
    with pytest.raises(Rejected):
        await held.tell(RELEASE, content)
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1", "c2")), "c0", "c1", "c2")


async def test_other_terms_than_the_session_began_with_are_refused(held):
    await held.tell(SHARES, shares("c0"))
    others = TERMS.model_copy(update={"plan": TERMS.plan.model_copy(update={"stage_s": 1.0})})
    with pytest.raises(Rejected, match="other terms"):
        await held.tell(SHARES, shares("c1"), terms=others)
    await held.tell(SHARES, shares("c1"))
    assert_answers_for(await held.tell(RELEASE, release("c0", "c1")), "c0", "c1")


@pytest.mark.parametrize(
    "change",
    [
        {"round_id": "job-r2"},
        {"committee": tuple(one for one in TERMS.committee if one.holder_id != HOLDER)},
        {"committee": (FORGED, *TERMS.committee[1:])},
    ],
)
async def test_terms_of_another_session_or_committee_are_refused(held, change):
    with pytest.raises(Rejected):
        await held.tell(SHARES, shares("c0"), terms=TERMS.model_copy(update=change))
    assert not await held.rows()


@pytest.mark.parametrize(
    ("stage", "payload"),
    [("mask", pack({})), (SHARES, b"junk"), (SHARES, pack([1])), (SHARES, pack({"shares": 1}))],
)
async def test_what_is_no_message_to_a_key_holder_is_refused(held, stage, payload):
    with pytest.raises(Rejected):
        await held.tell(stage, None, payload=payload)


async def test_a_session_that_is_forgotten_before_its_answer_gets_none(held):
    await held.tell(SHARES, shares("c0", "c1"))
    await held.forget()
    assert not await held.rows()
    with pytest.raises(Unavailable):
        await held.tell(RELEASE, release("c0", "c1"))


def test_a_survivor_set_survives_its_bits():
    for survivors in ((), ("c1",), ("c0", "c3"), CLIENTS):
        assert survivors_from_bits(survivors_to_bits(survivors, TERMS), TERMS) == sorted(survivors)
