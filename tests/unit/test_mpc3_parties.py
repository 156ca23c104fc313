"""Party 1 of mpc3 on its database: what it says again after a restart, and what it never says."""

import pytest

from shared.errors import Rejected, Stale, Unavailable
from tests.mpc3_party_at_work import (
    NAMES,
    TERMS,
    Third,
    agreed,
    full_sides,
    party_1,
    payloads_of,
    side_of,
    terms_of,
)
from tests.sessions_at_work import identity_of


async def test_after_a_restart_it_signs_the_same_once_its_uploads_are_back(tmp_path):
    first, third = full_sides()
    async with party_1(tmp_path, third) as party:
        await party.open()
        for name in NAMES:
            await party.take(name)
        before = await party.ask("close", clients=list(NAMES), wait_s=0)
        signature = await agreed(party, first)
    async with party_1(tmp_path, third) as party:
        await party.open()
        with pytest.raises(Unavailable, match="delivered again"):
            await party.ask("close", clients=list(NAMES), wait_s=0)
        for name in NAMES:
            await party.take(name)
        assert await party.ask("close", clients=list(NAMES), wait_s=0) == before
        assert await agreed(party, first) == signature


async def test_after_a_restart_it_signs_no_other_survivor_set(tmp_path):
    first, third = full_sides()
    fewer = side_of(0)
    for name in NAMES[:2]:
        fewer.take(name, payloads_of(name)[0])
    for side, refused in ((first, False), (fewer, True)):
        async with party_1(tmp_path, third) as party:
            await party.open()
            for name in NAMES:
                await party.take(name)
            await party.ask("close", clients=list(NAMES), wait_s=0)
            if refused:
                with pytest.raises(Rejected, match="another survivor set"):
                    await agreed(party, side)
            else:
                await agreed(party, side)


async def test_it_takes_nothing_in_after_it_has_closed_nor_after_the_end(tmp_path):
    _, third = full_sides()
    async with party_1(tmp_path, third) as party:
        await party.open()
        for name in NAMES[:2]:
            await party.take(name)
        await party.ask("close", clients=list(NAMES), wait_s=0)
        with pytest.raises(Stale):
            await party.take("carol")
        await party.ask("over")
        with pytest.raises(Stale, match="over"):
            await party.take("carol")
        with pytest.raises(Rejected, match="over"):
            await party.ask("close", clients=[], wait_s=0)
        assert not party.custody.places


async def test_it_says_who_was_refused_and_why(tmp_path):
    _, third = full_sides()
    async with party_1(tmp_path, third) as party:
        await party.open()
        content = payloads_of("bob")[1]
        with pytest.raises(Rejected, match="bob"):
            await party.take("bob", content[:-1] + bytes([content[-1] ^ 1]))
        for name in ("alice", "carol"):
            await party.take(name)
        answer = await party.ask("close", clients=list(NAMES), wait_s=60)
        assert list(answer["refused"]) == ["bob"]


async def test_it_opens_no_session_under_keys_that_a_party_does_not_have(tmp_path):
    stranger = identity_of("stranger").public_key().public_bytes_raw()
    async with party_1(tmp_path, Third()) as party:
        for index in (1, 2):
            keys = list(TERMS.party_keys)
            keys[index] = stranger
            with pytest.raises(Rejected, match=f"party {index}"):
                await party.open(terms_of(party_keys=tuple(keys)))


async def test_it_opens_a_session_on_one_set_of_terms_only(tmp_path):
    async with party_1(tmp_path, Third()) as party:
        await party.open()
        await party.open()
        with pytest.raises(Rejected, match="other terms"):
            await party.open(terms_of(public_seed=b"\x06" * 32))


async def test_the_third_party_learns_the_holdings_and_nothing_else(tmp_path):
    async with party_1(tmp_path, Third()) as party:
        await party.open()
        with pytest.raises(Unavailable):
            await party.ask("holdings", sender=2)
        for kind in ("open", "close", "agree", "choose", "release", "over"):
            with pytest.raises(Rejected, match="no request"):
                await party.ask(kind, sender=2)
        with pytest.raises(Unavailable):
            await party.ask("choose", signatures={0: b"", 1: b"", 2: b""})
        with pytest.raises(Unavailable):
            await party.ask("release", signatures={0: b"", 1: b"", 2: b""})
