"""A session's sum depends on who uploaded, and on nothing else."""

import hashlib
from datetime import UTC, datetime

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from services.secure_aggregation import state
from services.secure_aggregation.settings import load_key
from services.secure_aggregation.state import Collection
from shared.core.secagg import chunks, fixed_point, sealing
from shared.errors import Rejected
from shared.events import SessionRequested, UpdateSubmitted

SERVER = X25519PrivateKey.from_private_bytes(bytes(range(32)))
CLIENTS = {f"c{n}": Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in range(4)}
DIMENSION = 300_000  # two chunks


def session_of(dimension=DIMENSION):
    return state.opened(
        SessionRequested(
            job_id="job", round_id="job-r1", group_id="job-r1-g1",
            members={name: key.public_key().public_bytes_raw() for name, key in CLIENTS.items()},
            layout_sha256="0" * 64, dimension=dimension, min_uploads=2,
            deadline=datetime(2030, 1, 1, tzinfo=UTC),
        )
    )  # fmt: skip


def messages(client, content, key=None):
    context = sealing.UploadContext("job", "job-r1", "job-r1-g1", client)
    sealed = sealing.seal(content, SERVER.public_key().public_bytes_raw(), context)
    return [signed(context, chunk, key or CLIENTS[client]) for chunk in chunks.split(sealed)]


def signed(context, chunk, key):
    message = sealing.signing_message(context, chunk.index, chunk.count, chunk.sha256, chunk.payload)
    return UpdateSubmitted(
        **vars(context), index=chunk.index, count=chunk.count, upload_sha256=chunk.sha256,
        payload=chunk.payload, signature=sealing.sign(key, message),
    )  # fmt: skip


def update_of(client, dimension=DIMENSION):
    seed = int(client[1:])
    return np.random.default_rng(seed).normal(size=dimension).astype(np.float32)


UPDATES = {client: update_of(client) for client in CLIENTS}
MESSAGES = [m for c in CLIENTS for m in messages(c, fixed_point.to_bytes(fixed_point.encode(UPDATES[c])))]
EXPECTED = sum(fixed_point.encode(update).astype(np.int64) for update in UPDATES.values())


def take(session, collection, event):
    state.authenticate(session, event)
    state.collect(session, collection, event, SERVER)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations([*range(len(MESSAGES)), *range(len(MESSAGES))]))
def test_any_order_and_duplication_of_chunks_gives_the_same_bits(order):
    session = session_of()
    collection = Collection(fixed_point.zeros(DIMENSION))
    for index in order:
        take(session, collection, MESSAGES[index])
    assert state.complete(session, collection)
    assert (collection.total == EXPECTED).all()
    assert not collection.pieces  # every upload's bytes are dropped once added


def small(client, content=b"\0" * 8):
    return messages(client, content)[0]


def test_a_chunk_that_another_key_signed_is_rejected_and_blames_nobody():
    session, collection = session_of(2), Collection(fixed_point.zeros(2))
    forged = messages("c1", b"\0" * 8, key=CLIENTS["c2"])[0]
    with pytest.raises(Rejected, match="c1"):
        take(session, collection, forged)
    assert not collection.refused


def test_a_stranger_is_rejected():
    stranger = small("c1").model_copy(update={"client_id": "eve"})
    with pytest.raises(Rejected, match="eve"):
        take(session_of(2), Collection(fixed_point.zeros(2)), stranger)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\0" * 12, b"\xff\xff\xff\x7f" * 2])
def test_an_upload_of_another_size_or_range_is_refused_and_left_out(content):
    session, collection = session_of(2), Collection(fixed_point.zeros(2))
    with pytest.raises(Rejected, match="c1"):
        take(session, collection, small("c1", content))
    assert "c1" in collection.refused
    assert [item.client_id for item in state.left_out(session, collection)] == list(CLIENTS)
    assert not collection.total.any()


def test_garbage_that_a_member_signed_is_refused():
    session, collection = session_of(2), Collection(fixed_point.zeros(2))
    context = sealing.UploadContext("job", "job-r1", "job-r1-g1", "c0")
    garbage = chunks.Chunk(0, 1, hashlib.sha256(b"g" * 56).hexdigest(), b"g" * 56)
    with pytest.raises(Rejected, match="c0"):
        take(session, collection, signed(context, garbage, CLIENTS["c0"]))
    assert collection.refused.keys() == {"c0"}


def test_a_second_upload_with_other_contents_is_refused_and_the_first_stands():
    session, collection = session_of(2), Collection(fixed_point.zeros(2))
    take(session, collection, small("c0", fixed_point.to_bytes(np.array([1, 2], dtype=np.int32))))
    with pytest.raises(Rejected, match="second upload"):
        take(session, collection, small("c0", fixed_point.to_bytes(np.array([5, 5], dtype=np.int32))))
    assert collection.total.tolist() == [1, 2]
    assert not collection.refused


def test_an_upload_for_another_round_does_not_count():
    session, collection = session_of(2), Collection(fixed_point.zeros(2))
    replayed = small("c0").model_copy(update={"round_id": "job-r2"})
    with pytest.raises(Rejected):
        take(session, collection, replayed)


def test_a_session_is_complete_once_everyone_is_in_or_declined():
    session, collection = session_of(2), Collection(fixed_point.zeros(2))
    take(session, collection, small("c0"))
    take(session, collection, small("c1"))
    assert not state.complete(session, collection)
    session = session.replace(declined={"c2": "policy", "c3": "policy"})
    assert state.complete(session, collection)
    assert state.enough(session, collection)
    assert {item.reason for item in state.left_out(session, collection)} == {"policy"}


def test_the_key_file_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "keys" / "aggregation.key"
    first, second = load_key(path), load_key(path)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["aggregation.key"]
