"""How an upload of protocol `oneshot` is laid out: both sides compute it, neither is told."""

from collections.abc import Sequence
from itertools import accumulate

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import commitment, ring
from shared.core.secagg.oneshot.messages import HASH_BYTES, SIGNATURE_BYTES, WORD_BYTES, Upload
from shared.core.secagg.oneshot.terms import Terms


def sealed_share_bytes(terms: Terms) -> tuple[int, ...]:
    """Of each holder's sealed share."""
    holders = terms.scheme.holders
    values = WORD_BYTES * terms.scheme.blocks(ring.N)
    fixed = SIGNATURE_BYTES + HASH_BYTES + values + sealing.OVERHEAD_BYTES
    return tuple(fixed + HASH_BYTES * commitment.path_length(index, holders) for index in range(holders))


def upload_bytes(terms: Terms) -> int:
    """Of a whole upload."""
    return WORD_BYTES * terms.length + HASH_BYTES + SIGNATURE_BYTES + sum(sealed_share_bytes(terms))


def join(upload: Upload, sealed_shares: Sequence[bytes]) -> bytes:
    """Ciphertext, root, signature, and each holder's sealed share in the order of the committee."""
    return b"".join((upload.ciphertext, upload.shares_root, upload.signature, *sealed_shares))


def split(content: bytes, terms: Terms) -> tuple[Upload, tuple[bytes, ...]]:
    """Inverse of `join`, for content of `upload_bytes(terms)`."""
    sizes = (WORD_BYTES * terms.length, HASH_BYTES, SIGNATURE_BYTES, *sealed_share_bytes(terms))
    ends = tuple(accumulate(sizes))
    ciphertext, root, signature, *shares = (
        content[end - size : end] for size, end in zip(sizes, ends, strict=True)
    )
    return Upload(ciphertext, root, signature), tuple(shares)
