"""What the parties send each other, as values and as bytes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.oneshot import commitment
from shared.core.secagg.oneshot.interpolation import P
from shared.core.secagg.oneshot.ring import Q
from shared.core.secagg.oneshot.terms import Terms
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

UPLOAD_DOMAIN = b"fedlora/oneshot/upload/v1"
SURVIVORS_DOMAIN = b"fedlora/oneshot/survivors/v1"
HASH_BYTES, SIGNATURE_BYTES, WORD_BYTES = 32, 64, 4


def words_to_bytes(words: NDArray[np.uint32]) -> bytes:
    """Little-endian, 4 bytes a word."""
    return words.astype("<u4", copy=False).tobytes()


def words_from_bytes(content: bytes, count: int, below: int) -> NDArray[np.uint32]:
    """Inverse of `words_to_bytes`, read-only. Raises: Rejected for another length or a word out of range."""
    if len(content) != count * WORD_BYTES:
        raise Rejected(f"{len(content)} bytes, {count * WORD_BYTES} expected")
    words = np.frombuffer(content, "<u4")
    if int(words.max()) >= below:
        raise Rejected(f"a word is not below {below}")
    return words


def upload_message(terms: Terms, client_id: str, ciphertext_sha256: bytes, shares_root: bytes) -> bytes:
    """What a client signs, once: its ciphertext and, through their tree, all its shares."""
    return bind(UPLOAD_DOMAIN, terms.digest, client_id.encode(), ciphertext_sha256, shares_root)


def digest_of(message: bytes) -> bytes:
    """By which a signed message is named."""
    return hashlib.sha256(message).digest()


@dataclass(frozen=True)
class Upload:
    """What one client sends to the server, in the clear: it hides the update by itself."""

    ciphertext: bytes  # 4 bytes for each of terms.length coefficients
    shares_root: bytes
    signature: bytes


@dataclass(frozen=True)
class Share:
    """What a holder is sent by one client."""

    values: NDArray[np.uint32]
    ciphertext_sha256: bytes
    siblings: tuple[bytes, ...]
    signature: bytes

    def to_bytes(self) -> bytes:
        """Signature, hash of the ciphertext, path to the root, values."""
        return b"".join((self.signature, self.ciphertext_sha256, *self.siblings, words_to_bytes(self.values)))


def share_from_bytes(content: bytes, blocks: int, index: int, holders: int) -> Share:
    """Inverse of `Share.to_bytes` for holder `index`. Raises: Rejected for other bytes."""
    siblings = commitment.path_length(index, holders)
    values_at = SIGNATURE_BYTES + HASH_BYTES * (1 + siblings)
    values = words_from_bytes(content[values_at:], blocks, P)
    starts = range(SIGNATURE_BYTES, values_at, HASH_BYTES)
    ciphertext_sha256, *path = (content[start : start + HASH_BYTES] for start in starts)
    return Share(values, ciphertext_sha256, tuple(path), content[:SIGNATURE_BYTES])


@dataclass(frozen=True)
class SurvivorSet:
    """Whose updates a sum holds: the digest of each one's upload, by client."""

    terms_digest: bytes
    uploads: tuple[tuple[str, bytes], ...]  # ascending by client, each once

    def message(self) -> bytes:
        """What the server signs."""
        return self._message

    @cached_property
    def _message(self) -> bytes:
        members = (part for client, digest in self.uploads for part in (client.encode(), digest))
        return bind(SURVIVORS_DOMAIN, self.terms_digest, *members)

    @cached_property
    def digest(self) -> bytes:
        """By which answers name it."""
        return digest_of(self._message)


@dataclass(frozen=True)
class Answer:
    """One holder's share of the sum over one survivor set."""

    holder: int
    survivors_digest: bytes
    values: NDArray[np.uint32]

    def to_bytes(self) -> bytes:
        """Holder in 2 bytes big-endian, digest of the survivor set, values."""
        return self.holder.to_bytes(2, "big") + self.survivors_digest + words_to_bytes(self.values)


def answer_from_bytes(content: bytes, blocks: int) -> Answer:
    """Inverse of `Answer.to_bytes`. Raises: Rejected for other bytes."""
    head = 2 + HASH_BYTES
    values = words_from_bytes(content[head:], blocks, P)
    return Answer(int.from_bytes(content[:2], "big"), content[2:head], values)


def ciphertext_from_bytes(content: bytes, terms: Terms) -> NDArray[np.uint32]:
    """(terms.length,) below q. Raises: Rejected for other bytes."""
    return words_from_bytes(content, terms.length, Q)
