"""A session's sum depends on who uploaded, and on nothing else."""

import hashlib
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.secure_aggregation import pieces
from services.secure_aggregation.context import Gathered
from services.secure_aggregation.handlers import HANDLERS
from services.secure_aggregation.protocols.base import SURPLUS, Summed
from services.secure_aggregation.protocols.none import Opened
from services.secure_aggregation.settings import load_keys
from services.secure_aggregation.state import UPLOAD, Session
from shared.core.secagg import chunks, fixed_point, sealing
from shared.errors import Refused, Rejected, Stale, Unavailable
from shared.events import ClientDeclined, GroupFailed, GroupSummed, RoundAborted
from tests.sessions_at_work import (
    DEADLINE,
    SERVER,
    Summing,
    content_of,
    identity_of,
    requested,
    signed,
    terms_of,
    upload,
)

CLIENTS = ("c0", "c1", "c2", "c3")
DIMENSION = 300_000  # two chunks
TERMS = terms_of(requested(CLIENTS, "none", DIMENSION))


def update_of(client, dimension=DIMENSION):
    seed = int(client[1:])
    return np.random.default_rng(seed).normal(size=dimension).astype(np.float32)


UPDATES = {client: update_of(client) for client in CLIENTS}
MESSAGES = [m for c in CLIENTS for m in upload(TERMS, c, content_of(TERMS, c, UPDATES[c]).content)]
EXPECTED = sum(fixed_point.encode(update).astype(np.int64) for update in UPDATES.values())


def take(gathered, session, event):
    pieces.authenticate(event, gathered.running.verify_key(event.client_id))
    whole = gathered.pieces.take(event, gathered.running.upload_bytes + sealing.OVERHEAD_BYTES)
    if whole is not None:
        content = sealing.open_(whole, SERVER.sealing, TERMS.sender(event.client_id).info)
        gathered.running.take_upload(session, event.client_id, content)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations([*range(len(MESSAGES)), *range(len(MESSAGES))]))
def test_any_order_and_duplication_of_chunks_gives_the_same_bits(order):
    session = Session(
        job_id="job", round_id="job-r1", group_id="job-r1-g1", protocol="none", deadline=DEADLINE,
        terms={"sha256": "ab" * 32, "size_bytes": 1}, stage=UPLOAD,
    )  # fmt: skip
    gathered = Gathered(session.terms, Opened(TERMS, SERVER))
    for index in order:
        take(gathered, session, MESSAGES[index])
    outcome = gathered.running.step(session, (), waited=False).outcome
    assert isinstance(outcome, Summed)
    assert (outcome.total == fixed_point.decode(EXPECTED)).all()
    assert outcome.members == CLIENTS
    assert not gathered.pieces.incomplete  # every upload's bytes are dropped once added


@pytest.fixture
async def summing(tmp_path):
    opened = await Summing.open(f"sqlite+aiosqlite:///{tmp_path}/sums.db")
    opened.terms = await opened.begin(requested(CLIENTS, "none", 2))
    yield opened
    await opened.units.close()


def values(*numbers):
    return fixed_point.to_bytes(np.array(numbers, dtype=np.int32))


ONES = values(1, 1)


def small(summing, client, content=ONES, key=None):
    return upload(summing.terms, client, content, key)[0]


async def test_a_chunk_that_another_key_signed_is_rejected_and_blames_nobody(summing):
    forged = small(summing, "c1", key=identity_of("c2"))
    with pytest.raises(Rejected, match="the signature does not fit"):
        await summing.handle(forged)
    assert not summing.gathered().refused
    assert not (await summing.session()).refused
    assert await summing.handle(small(summing, "c1"))


async def test_a_stranger_is_rejected(summing):
    stranger = small(summing, "c1").model_copy(update={"client_id": "eve"})
    with pytest.raises(Rejected, match="eve"):
        await summing.handle(stranger)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\0" * 8, b"\0" * 12, b"\xff\xff\xff\x7f" * 2])
async def test_an_upload_of_another_size_or_range_or_of_zeros_is_refused_and_left_out(summing, content):
    with pytest.raises(Rejected, match="c1"):
        await summing.handle(small(summing, "c1", content))
    assert (await summing.session()).refused.keys() == {"c1"}
    with pytest.raises(Rejected, match="c1"):  # nor is a better one taken in afterwards
        await summing.handle(small(summing, "c1"))
    for client in ("c0", "c2", "c3"):
        await summing.handle(small(summing, client, values(1, 2)))
    (summed,) = summing.of(GroupSummed)
    assert [(item.client_id, item.sent_wrong) for item in summed.left_out] == [("c1", True)]
    assert summed.weights == {"c0": 1.0, "c2": 1.0, "c3": 1.0}
    assert await total(summing, summed) == [3 / fixed_point.SCALE, 6 / fixed_point.SCALE]


async def test_terms_whose_commit_was_lost_bind_nobody(summing):
    request = requested(CLIENTS, "none", 2, round_id="job-r2")
    with pytest.raises(Unavailable):
        async with summing.units.begin() as unit:
            await HANDLERS[type(request)](request, unit, summing.context)
            raise Unavailable("the database is away")
    summing.terms = await summing.begin(request)
    assert summing.gathered("job-r2").running.terms == summing.terms
    for client in CLIENTS:
        await summing.handle(small(summing, client, values(1, 2)))
    (summed,) = summing.of(GroupSummed)
    assert summed.weights.keys() == set(CLIENTS)
    assert await total(summing, summed) == [4 / fixed_point.SCALE, 8 / fixed_point.SCALE]


async def total(summing, summed):
    return np.frombuffer(await summing.context.blobs.get(summed.total), "<f8").tolist()


async def test_garbage_that_a_member_signed_is_refused(summing):
    size = 8 + sealing.OVERHEAD_BYTES
    garbage = chunks.Chunk(0, 1, hashlib.sha256(b"g" * size).hexdigest(), b"g" * size)
    with pytest.raises(Rejected, match="c0"):
        await summing.handle(signed(summing.terms.sender("c0"), garbage, identity_of("c0")))
    assert (await summing.session()).refused.keys() == {"c0"}


async def test_a_session_whose_last_client_sent_garbage_ends_without_waiting(summing):
    for client in ("c0", "c1", "c2"):
        await summing.handle(small(summing, client))
    with pytest.raises(Rejected, match="c3"):
        await summing.handle(small(summing, "c3", b"junk"))
    (summed,) = summing.of(GroupSummed)
    assert [(item.client_id, bool(item.reason)) for item in summed.left_out] == [("c3", True)]


async def test_nothing_is_kept_of_an_upload_whose_chunks_are_of_two(summing):
    terms = await summing.begin(requested(CLIENTS, "none", DIMENSION, "job-r2"))
    first, other = (upload(terms, "c0", bytes([byte]) * 4 * DIMENSION) for byte in (0, 1))
    await summing.handle(first[0])
    assert summing.gathered("job-r2").pieces.incomplete
    with pytest.raises(Rejected, match="two uploads"):
        await summing.handle(other[1])
    assert not summing.gathered("job-r2").pieces.incomplete
    assert (await summing.session("job-r2")).refused.keys() == {"c0"}


async def test_a_second_upload_with_other_contents_is_refused_and_the_first_stands(summing):
    await summing.handle(small(summing, "c0", values(1, 2)))
    with pytest.raises(Rejected, match="second upload"):
        await summing.handle(small(summing, "c0", values(5, 5)))
    assert not (await summing.session()).refused
    for client in ("c1", "c2", "c3"):
        await summing.handle(small(summing, client))
    (summed,) = summing.of(GroupSummed)
    assert await total(summing, summed) == [4 / fixed_point.SCALE, 5 / fixed_point.SCALE]
    assert not summed.left_out


async def test_an_upload_for_another_round_does_not_count(summing):
    with pytest.raises(Unavailable):
        await summing.handle(small(summing, "c0").model_copy(update={"round_id": "job-r2"}))
    await summing.begin(requested(CLIENTS, "none", 2, "job-r2"))
    names = {"round_id": "job-r2", "group_id": "job-r2-g1"}
    with pytest.raises(Rejected):
        await summing.handle(small(summing, "c0").model_copy(update=names))
    assert not summing.gathered("job-r2").running.uploads
    assert not summing.gathered("job-r2").refused


def declined(client):
    return ClientDeclined(
        client_id=client, job_id="job", round_id="job-r1", group_id="job-r1-g1", reason="policy"
    )


async def test_a_session_is_complete_once_everyone_is_in_or_declined(summing):
    for client in ("c0", "c1"):
        assert await summing.handle(small(summing, client))
    await summing.handle(declined("c2"))
    assert not summing.of(GroupSummed)
    await summing.handle(declined("c3"))
    (summed,) = summing.of(GroupSummed)
    assert [(item.client_id, item.reason) for item in summed.left_out] == [("c2", "policy"), ("c3", "policy")]
    assert not any(item.sent_wrong for item in summed.left_out)


async def test_fewer_updates_than_the_plan_opens_fail_with_the_count(summing):
    await summing.handle(small(summing, "c0"))
    for client in ("c1", "c2", "c3"):
        await summing.handle(declined(client))
    (failed,) = summing.of(GroupFailed)
    assert failed.reason == "1 of 4 updates came, 2 are needed"
    assert not failed.faulty
    with pytest.raises(Stale):
        await summing.handle(small(summing, "c1"))


async def test_the_deadline_ends_a_session_with_what_has_come(summing):
    for client in ("c0", "c1"):
        await summing.handle(small(summing, client))
    await summing.pass_deadlines(DEADLINE)
    (summed,) = summing.of(GroupSummed)
    assert {item.reason for item in summed.left_out} == {"no complete upload by the deadline"}
    assert not any(item.sent_wrong for item in summed.left_out)


async def test_after_a_restart_a_deadline_waits_for_what_was_held(summing):
    summing.context.rebuilt_at = DEADLINE + timedelta(seconds=5)
    with pytest.raises(Unavailable):
        await summing.pass_deadlines(DEADLINE)
    await summing.pass_deadlines(DEADLINE + timedelta(seconds=5))
    assert summing.of(GroupFailed)


async def test_an_aborted_round_takes_nothing_in_any_more(summing):
    await summing.handle(small(summing, "c0"))
    aborted = {"number": 1, "reason": "cancelled", "root": ""}
    await summing.handle(
        RoundAborted(job_id="job", round_id="job-r1", started_at=DEADLINE, aborted_at=DEADLINE, **aborted)
    )
    with pytest.raises(Stale):
        await summing.handle(small(summing, "c1"))
    assert not summing.of(GroupSummed) + summing.of(GroupFailed)


async def test_a_session_that_cannot_work_fails_with_the_reason(summing):
    await summing.handle(requested(CLIENTS, "oneshot", 2, "job-r2", bound=1e31))
    (failed,) = summing.of(GroupFailed)
    assert failed.round_id == "job-r2"
    assert "bound" in failed.reason


def test_the_key_file_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "keys" / "aggregation.key"
    first, second = load_keys(path), load_keys(path)
    assert first.sealing.to_bytes() == second.sealing.to_bytes()
    assert first.signing.private_bytes_raw() == second.signing.private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["aggregation.key"]


def test_a_key_file_of_another_length_is_refused(tmp_path):
    path = tmp_path / "aggregation.key"
    path.write_bytes(b"k" * 32)
    with pytest.raises(Refused, match="128 expected"):
        load_keys(path)


async def test_a_session_ends_with_as_many_updates_as_it_waits_for(summing):
    request = requested(CLIENTS, "none", 2, round_id="job-r2").model_copy(update={"enough": 3})
    summing.terms = await summing.begin(request)
    for client in ("c3", "c0"):
        await summing.handle(small(summing, client, values(1, 2)))
    assert not summing.of(GroupSummed)
    await summing.handle(small(summing, "c2", values(1, 2)))
    (summed,) = summing.of(GroupSummed)
    assert summed.weights.keys() == summed.seconds.keys() == {"c0", "c2", "c3"}
    assert [(item.client_id, item.reason, item.sent_wrong) for item in summed.left_out] == [
        ("c1", SURPLUS, False)
    ]
    with pytest.raises(Stale):
        await summing.handle(small(summing, "c1", values(1, 2)))
    assert len(summing.of(GroupSummed)) == 1
