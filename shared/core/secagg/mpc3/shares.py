"""How an update is cut into three shares, which party holds which, and how a share's bytes become words.

Source: Araki, Furukawa, Lindell, Nof, Ohara 2016, CCS, ePrint 2016/768, Section 2.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import key_stream
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

COMMITMENT_DOMAIN = b"fedlora/mpc3/share/v1"
EXPLICIT = 2  # this share is written out; 0 and 1 are seeds
SEED_BYTES = key_stream.KEY_BYTES
SALT_BYTES, WORD_BYTES = 32, 8
PIECE = 2**14  # words at a time: they stay in a core's cache


def held_by(party: int) -> tuple[int, int]:
    """The two shares of a party: its own number's and the next."""
    return party, (party + 1) % PARTIES


def words_to_bytes(words: NDArray[np.uint64]) -> bytes:
    """Little-endian, 8 bytes a word."""
    return words.astype("<u8", copy=False).tobytes()


def words_from_bytes(content: bytes | memoryview, count: int) -> NDArray[np.uint64]:
    """Inverse of `words_to_bytes`, read-only. Raises: Rejected for another length."""
    if len(content) != count * WORD_BYTES:
        raise Rejected(f"{len(content)} bytes, {count * WORD_BYTES} expected")
    return np.frombuffer(content, "<u8")


def size_bytes(index: int, dimension: int) -> int:
    """How long the content of share `index` is: a seed, or a salt and the words."""
    return SALT_BYTES + WORD_BYTES * dimension if index == EXPLICIT else SEED_BYTES


def commitment(terms: Terms, index: int, content: bytes | memoryview) -> bytes:
    """SHA-256 of a share's content.

    Every party sees all three, so content that could be guessed begins with a salt: who holds both seeds and
    guesses an update could else confirm it by the hash of the third share.
    """
    hashed = hashlib.sha256(bind(COMMITMENT_DOMAIN, terms.digest, bytes([index])))
    hashed.update(content)
    return hashed.digest()


def pieces(index: int, content: bytes | memoryview, dimension: int) -> Iterator[NDArray[np.uint64]]:
    """The share's words, `PIECE` at a time; each piece may be overwritten by the next."""
    if index != EXPLICIT:
        yield from key_stream.pieces(bytes(content), dimension, PIECE)
        return
    words = words_from_bytes(content[SALT_BYTES:], dimension)
    for start in range(0, dimension, PIECE):
        yield words[start : start + PIECE]
