"""Fixed point is exact and order-free; a sealed upload opens only where it was meant to."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.core.secagg import chunks, fixed_point, sealing
from shared.core.secagg.sealing import SealingKey
from shared.errors import Rejected

SERVER = SealingKey.from_bytes(bytes(range(96)))
PUBLIC = SERVER.public
CONTEXT = sealing.UploadContext("job", "job-r1", "job-r1-g1", "hospital")
SEALED = bytes.fromhex((Path(__file__).parent / "golden" / "sealed_upload.hex").read_text("ascii"))
SIGNATURE = bytes.fromhex(
    "829606a30fa90d3488279b318cf09c2ad222152ace7f8668d2e3fbf8d621ebe3"
    "8b8ce32b2c398b0177549730af9504934c0ca04c415571ec6508631df70be90b"
)
updates = st.lists(
    st.lists(st.floats(-127, 127, width=32), min_size=5, max_size=5), min_size=1, max_size=8
).map(lambda rows: np.array(rows, dtype=np.float32))


def total(rows):
    out = fixed_point.zeros(rows.shape[1])
    for row in rows:
        fixed_point.add(out, fixed_point.encode(row))
    return out


@given(rows=updates, seed=st.integers(0, 2**32 - 1))
def test_a_sum_does_not_depend_on_the_order_of_its_terms(rows, seed):
    order = np.random.default_rng(seed).permutation(len(rows))
    assert (total(rows) == total(rows[order])).all()


@given(rows=updates)
def test_a_decoded_sum_is_within_half_a_step_for_each_term(rows):
    error = np.abs(fixed_point.decode(total(rows)) - rows.astype(np.float64).sum(axis=0))
    assert (error <= len(rows) * 0.5 / fixed_point.SCALE + 1e-12).all()


@given(rows=updates)
def test_an_encoded_update_survives_its_bytes(rows):
    encoded = fixed_point.encode(rows[0])
    assert (fixed_point.from_bytes(fixed_point.to_bytes(encoded), 5) == encoded).all()


def test_known_fixed_point_values():
    encoded = fixed_point.encode(np.array([0, 1, -1, 0.5, 2**-24, 127], dtype=np.float32))
    assert encoded.tolist() == [0, 2**24, -(2**24), 2**23, 1, 127 * 2**24]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 127.5, -200.0])
def test_a_coordinate_that_does_not_fit_is_rejected(value):
    with pytest.raises(Rejected):
        fixed_point.encode(np.array([0, value], dtype=np.float32))


def test_bytes_of_another_length_or_beyond_the_range_are_rejected():
    with pytest.raises(Rejected):
        fixed_point.from_bytes(b"\0" * 7, 2)
    with pytest.raises(Rejected):
        fixed_point.from_bytes(b"\xff\xff\xff\x7f", 1)


@given(upload=st.binary(max_size=300), size=st.integers(1, 64), seed=st.randoms(use_true_random=False))
def test_chunks_join_in_any_order(upload, size, seed):
    pieces = list(chunks.split(upload, size))
    seed.shuffle(pieces)
    assert all(len(p.payload) == chunks.size_of(p.index, len(upload), size) for p in pieces)
    assert len(pieces) == chunks.count_for(len(upload), size)
    assert chunks.join({p.index: p.payload for p in pieces}, pieces[0].sha256) == upload


def test_a_missing_or_altered_chunk_is_rejected():
    pieces = {p.index: p.payload for p in chunks.split(b"abcdefgh", 3)}
    digest = hashlib.sha256(b"abcdefgh").hexdigest()
    with pytest.raises(Rejected):
        chunks.join({k: v for k, v in pieces.items() if k != 1}, digest)
    with pytest.raises(Rejected):
        chunks.join({**pieces, 1: b"xxx"}, digest)


def test_a_known_upload_opens_to_its_known_content():
    assert sealing.open_(SEALED, SERVER, CONTEXT.info) == b"update"


@given(content=st.binary(max_size=200))
def test_what_is_sealed_opens_and_has_the_announced_overhead(content):
    sealed = sealing.seal(content, PUBLIC, CONTEXT.info)
    assert len(sealed) == len(content) + sealing.OVERHEAD_BYTES
    assert sealing.open_(sealed, SERVER, CONTEXT.info) == content


@pytest.mark.parametrize(
    "other",
    [
        sealing.UploadContext("jobx", "job-r1", "job-r1-g1", "hospital"),
        sealing.UploadContext("job", "job-r2", "job-r1-g1", "hospital"),
        sealing.UploadContext("job", "job-r1", "job-r1-g2", "hospital"),
        sealing.UploadContext("job", "job-r1", "job-r1-g1", "bank"),
    ],
)
def test_an_upload_does_not_open_for_another_context(other):
    with pytest.raises(Rejected):
        sealing.open_(SEALED, SERVER, other.info)


@given(position=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_an_altered_upload_does_not_open(position, bit):
    altered = bytearray(SEALED)
    altered[position] ^= 1 << bit
    with pytest.raises(Rejected):
        sealing.open_(bytes(altered), SERVER, CONTEXT.info)


def test_the_bit_of_an_encapsulated_key_that_x25519_ignores_may_not_be_altered_either():
    altered = bytearray(SEALED)
    altered[1088 + 31] ^= 1 << 7  # RFC 7748; here the whole encapsulation is hashed into the key
    with pytest.raises(Rejected):
        sealing.open_(bytes(altered), SERVER, CONTEXT.info)


@pytest.mark.parametrize("sealed", [b"", b"x", b"\0" * 48, b"\0" * 500, b"\0" * 2000])
def test_garbage_does_not_open(sealed):
    with pytest.raises(Rejected):
        sealing.open_(sealed, SERVER, CONTEXT.info)


def test_another_key_does_not_open_it():
    with pytest.raises(Rejected):
        sealing.open_(SEALED, SealingKey.generate(), CONTEXT.info)


def test_a_key_survives_its_bytes_and_a_known_one_has_its_known_public_key():
    assert SealingKey.from_bytes(SERVER.to_bytes()).public == PUBLIC
    assert len(PUBLIC) == sealing.PUBLIC_BYTES
    assert (
        hashlib.sha256(PUBLIC).hexdigest()
        == "d99e4496af749b54ee4a2d270c8057450624ecc5dc0866295ffc504a26134ad4"
    )


@pytest.mark.parametrize("size", [0, 95, 97])
def test_a_key_of_another_length_is_rejected(size):
    with pytest.raises(Rejected, match="96 expected"):
        SealingKey.from_bytes(bytes(size))


@pytest.mark.parametrize("public", [b"", PUBLIC[:-1], PUBLIC + b"\0", b"\xff" * len(PUBLIC)])
def test_nothing_is_sealed_to_what_is_no_public_key(public):
    with pytest.raises(Rejected):
        sealing.seal(b"update", public, CONTEXT.info)


def test_each_purpose_sender_and_recipient_is_bound_apart():
    other = sealing.UploadContext("job", "job-r1", "job-r1-g1", "bank")
    infos = [c.info for c in (CONTEXT, other)]
    infos += [c.share_info(holder) for c in (CONTEXT, other) for holder in ("bank", "clinic")]
    infos += [CONTEXT.stage_message("answer", b""), CONTEXT.stage_message("answe", b"r")]
    infos += [sealing.key_message("job", "hospital", b"k"), sealing.key_message("", "hospital", b"k")]
    assert len(set(infos)) == len(infos)


def test_a_known_signature_verifies_and_is_reproduced():
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    message = sealing.signing_message(CONTEXT, 0, 1, "ab" * 32, b"payload")
    assert (
        hashlib.sha256(message).hexdigest()
        == "047933ff86e09796fba18cfb93dbdc589d3575dc83df1492f2184d15c71ab347"
    )
    assert sealing.sign(key, message) == SIGNATURE
    sealing.verify(key.public_key().public_bytes_raw(), SIGNATURE, message)


def test_a_signature_covers_every_field():
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
    for message in (
        sealing.signing_message(CONTEXT, 1, 1, "ab" * 32, b"payload"),
        sealing.signing_message(CONTEXT, 0, 2, "ab" * 32, b"payload"),
        sealing.signing_message(CONTEXT, 0, 1, "cd" * 32, b"payload"),
        sealing.signing_message(CONTEXT, 0, 1, "ab" * 32, b"payloae"),
    ):
        with pytest.raises(Rejected):
            sealing.verify(key, SIGNATURE, message)


@given(one=st.lists(st.binary(max_size=6), max_size=5), two=st.lists(st.binary(max_size=6), max_size=5))
def test_bound_fields_are_never_ambiguous(one, two):
    assert (sealing.bind(b"d", *one) == sealing.bind(b"d", *two)) == (one == two)
