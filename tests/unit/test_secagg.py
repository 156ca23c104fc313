"""Fixed point is exact and order-free; a sealed upload opens only where it was meant to."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.core.secagg import chunks, fixed_point, sealing
from shared.errors import Rejected

SERVER = X25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = SERVER.public_key().public_bytes_raw()
CONTEXT = sealing.UploadContext("job", "job-r1", "job-r1-g1", "hospital")
SEALED = bytes.fromhex(
    "7515722cc69277c573da0990a5c807dada753111442b283583f30e8316585d3496bdffa914f207a30ce1b627c736e23f9c8b9f152a1a"
)
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
    assert sealing.open_(SEALED, SERVER, CONTEXT) == b"update"


@given(content=st.binary(max_size=200))
def test_what_is_sealed_opens_and_has_the_announced_overhead(content):
    sealed = sealing.seal(content, PUBLIC, CONTEXT)
    assert len(sealed) == len(content) + sealing.OVERHEAD_BYTES
    assert sealing.open_(sealed, SERVER, CONTEXT) == content


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
        sealing.open_(SEALED, SERVER, other)


@given(position=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_an_altered_upload_does_not_open(position, bit):
    altered = bytearray(SEALED)
    altered[position] ^= 1 << bit
    if position == 31 and bit == 7:
        return  # RFC 7748: X25519 ignores this bit of the encapsulated key, HKDF does not; either is safe
    with pytest.raises(Rejected):
        sealing.open_(bytes(altered), SERVER, CONTEXT)


@pytest.mark.parametrize("sealed", [b"", b"x", b"\0" * 48, b"\0" * 500])
def test_garbage_does_not_open(sealed):
    with pytest.raises(Rejected):
        sealing.open_(sealed, SERVER, CONTEXT)


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
