"""Cutting a sealed upload into chunks, and putting it together in any order of arrival."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import Rejected

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Chunk:
    """One piece of an upload; `sha256` is that of the whole upload, in hex."""

    index: int
    count: int
    sha256: str
    payload: bytes


def split(upload: bytes, chunk_bytes: int = CHUNK_BYTES) -> tuple[Chunk, ...]:
    """Cut `upload` into pieces of `chunk_bytes`, the last one shorter; one empty piece for nothing."""
    digest = hashlib.sha256(upload).hexdigest()
    count = count_for(len(upload), chunk_bytes)
    return tuple(
        Chunk(index, count, digest, upload[index * chunk_bytes : (index + 1) * chunk_bytes])
        for index in range(count)
    )


def count_for(size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How many chunks an upload of `size_bytes` makes."""
    return max(1, -(-size_bytes // chunk_bytes))


def size_of(index: int, size_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How long chunk `index` of an upload of `size_bytes` must be."""
    return max(0, min(chunk_bytes, size_bytes - index * chunk_bytes))


def join(pieces: Mapping[int, bytes], sha256: str) -> bytes:
    """Put all pieces, numbered from 0, together.

    Raises: Rejected when a piece is missing or the whole does not hash to `sha256`.
    """
    if set(pieces) != set(range(len(pieces))):
        raise Rejected("a chunk is missing")
    upload = b"".join(pieces[index] for index in range(len(pieces)))
    if hashlib.sha256(upload).hexdigest() != sha256:
        raise Rejected("the chunks do not hash to the announced upload")
    return upload
