"""Known answers of every primitive that `mpc3` is made of, from other implementations or by hand."""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from mpc3_round import terms_for

from shared.core.secagg.mpc3 import accumulator, compiled, gram, messages, secrets, shares, sketch, zeros
from shared.core.secagg.sealing import bind

SEED = bytes(range(32))


def aes_counter_words(key, count):
    """AES-256 of the counters 0, 1, 2, ... in 16 bytes big-endian, two little-endian words each."""
    blocks = b"".join(i.to_bytes(16, "big") for i in range(-(-count // 2)))
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    return np.frombuffer(encryptor.update(blocks), "<u8")[:count]


def test_a_seed_is_expanded_by_aes_256_in_counter_mode():
    for count in (1, 2, 3, shares.PIECE, 2 * shares.PIECE + 5):
        words = np.concatenate([piece.copy() for piece in shares.pieces(0, SEED, count)])
        assert (words == aes_counter_words(SEED, count)).all()


def test_the_first_word_of_a_known_seed():
    """AES-256 of zeros under the key of FIPS 197, appendix C.3, by OpenSSL: f29000b62a499fd0 ..."""
    (piece,) = shares.pieces(1, SEED, 1)
    assert piece.tobytes().hex() == "f29000b62a499fd0"


def test_the_explicit_share_follows_its_salt():
    content = bytes(32) + (1).to_bytes(8, "little") + (2**64 - 2).to_bytes(8, "little")
    (piece,) = shares.pieces(2, content, 2)
    assert piece.tolist() == [1, 2**64 - 2]
    assert shares.size_bytes(2, 2) == len(content)


def test_a_commitment_is_sha_256_of_domain_terms_index_and_content():
    terms = terms_for(2, 1)
    framed = b"".join(
        len(part).to_bytes(4, "big") + part for part in (b"fedlora/mpc3/share/v1", terms.digest, b"\2")
    )
    assert shares.commitment(terms, 2, b"content") == hashlib.sha256(framed + b"content").digest()


def test_an_upload_is_named_by_what_its_client_signed():
    terms = terms_for(2, 1)
    commitments = (b"a" * 32, b"b" * 32, b"c" * 32)
    message = bind(b"fedlora/mpc3/upload/v1", terms.digest, b"client", *commitments)
    assert messages.upload_message(terms, "client", commitments) == message
    assert messages.upload_digest(terms, "client", commitments) == hashlib.sha256(message).digest()


def test_derived_keys_are_known():
    assert secrets.derived(SEED, b"sketch") == hashlib.sha256(
        bytes.fromhex("00000017") + b"fedlora/mpc3/secrets/v1" + bytes.fromhex("00000020") + SEED + b"\0\0\0\6sketch"
    ).digest()  # fmt: skip


def test_shares_of_zero_are_differences_of_two_streams():
    keys = (SEED, bytes(32))
    first, second = (aes_counter_words(key, 9) for key in keys)
    assert (zeros.additive(keys, 9) == first - second).all()
    assert (zeros.exclusive(keys, 9) == first ^ second).all()


def test_signs_and_rotations_are_read_from_two_streams():
    drawn = sketch.draw(SEED, 200, 64)
    signs = aes_counter_words(secrets.derived(SEED, b"signs"), 4)
    assert [-((int(signs[i // 64]) >> (i % 64)) & 1) for i in range(200)] == drawn.signs.tolist()
    rotations = aes_counter_words(secrets.derived(SEED, b"rotations"), 4)
    assert drawn.rotations.tolist() == [int(word) % 64 for word in rotations]


def test_a_sketch_by_hand():
    drawn = sketch.Sketch(np.array([0, -1, 0, 0, -1], np.int8), np.array([1, 0], np.int64), 4)
    words = np.array([10, 20, 30, 40, 5], np.uint64)
    assert sketch.apply(drawn, words).view(np.int64).tolist() == [40 - 5, 10, -20, 30]


def test_limbs_by_hand():
    words = np.array([[2**21, 2**43 - 1]], np.uint64)
    assert [limb.tolist() for limb in gram._limbs(words, 44)] == [[[-(2.0**21), -1.0]], [[1.0, -(2.0**21)]]]


def test_a_projection_by_hand():
    """Coordinates 5 and 9 of four; the signs turn 9. Row 0 takes both, row 1 the 9 alone, row 39 the 5 alone."""
    choices = np.zeros(compiled.GROUP_BYTES, np.uint8)
    choices[0] = 0b0010_0011
    choices[19] = 0b0001_0000
    choices[20] = 0b0010
    out = np.zeros(compiled.ROWS, np.uint64)
    compiled.project(np.array([5, 9], np.uint64), choices, out)
    assert out.view(np.int64).tolist() == [-4, -9, *[0] * 37, 5]


def test_projections_are_drawn_from_the_parties_secret_and_the_upload():
    key = secrets.Secrets(bytes(32), SEED, (b"", b""))
    expected = secrets.derived(SEED, b"projections", b"digest")
    assert accumulator.check_key_for(key, b"digest") == expected
    count = shares.PIECE + 6  # two groups of four more than a piece
    drawn = np.concatenate([piece.copy() for piece in accumulator._choices(expected, count)])
    needed = (shares.PIECE // 4 + 2) * compiled.GROUP_BYTES
    assert (drawn[:needed] == aes_counter_words(expected, -(-needed // 8)).view(np.uint8)[:needed]).all()
