"""A key holder: it keeps the cohort's shares, and answers once a round, for one signed survivor set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import commitment, ring
from shared.core.secagg.oneshot.interpolation import P
from shared.core.secagg.oneshot.messages import (
    Answer,
    SurvivorSet,
    digest_of,
    share_from_bytes,
    upload_message,
    words_to_bytes,
)
from shared.core.secagg.oneshot.terms import Terms
from shared.errors import Rejected, Stale


@dataclass(frozen=True)
class Kept:
    """One client's share, and the digest of the upload that it belongs to."""

    upload_digest: bytes
    values: NDArray[np.uint32]


@dataclass(frozen=True)
class Holder:
    """One holder in one round.

    Attributes:
        terms: as the holder itself was told them.
        index: its place in the committee, from 0.
        kept: by client; emptied when it answers.
        answer: what it sends for the rest of the round. The caller makes this state durable before it sends
            the answer: a holder that forgets an answer may give a second one.
    """

    terms: Terms
    index: int
    kept: Mapping[str, Kept] = field(default_factory=dict)
    answer: Answer | None = None


def keep(holder: Holder, client_id: str, content: bytes) -> Holder:
    """Take in a share that was unsealed.

    It is the client's own, for this holder and these terms: the client's signature covers all that.

    Raises: Stale for one that is held already or comes after the answer; Rejected for another one of the same
        client, an unknown client, other bytes, or a signature that does not fit.
    """
    terms, scheme = holder.terms, holder.terms.scheme
    if holder.answer is not None:
        raise Stale(client_id)
    if client_id not in terms.cohort:
        raise Rejected(f"{client_id} is not in the cohort")
    share = share_from_bytes(content, scheme.blocks(ring.N), holder.index, scheme.holders)
    leaf = words_to_bytes(share.values)
    root = commitment.root(leaf, holder.index, scheme.holders, share.siblings)
    message = upload_message(terms, client_id, share.ciphertext_sha256, root)
    sealing.verify(terms.cohort[client_id], share.signature, message)
    kept = Kept(digest_of(message), share.values)
    known = holder.kept.get(client_id)
    if known is None:
        return replace(holder, kept={**holder.kept, client_id: kept})
    if known.upload_digest == kept.upload_digest:
        raise Stale(client_id)
    raise Rejected(f"{client_id} signed two uploads in one round")


def respond(holder: Holder, survivors: SurvivorSet, signature: bytes) -> Holder:
    """Answer for a survivor set: the sum of its members' shares.

    The same set again leaves the holder, and its answer, as they are.

    Returns: the holder with `answer`, its shares dropped (that the memory is cleared is not in our hands).
    Raises: Rejected for a second set, a set that the server did not sign, one of other terms, out of order,
        too small, or with an upload that the holder has no share of.
    """
    terms = holder.terms
    sealing.verify(terms.server_key, signature, survivors.message())
    if holder.answer is not None:
        if holder.answer.survivors_digest == survivors.digest:
            return holder
        raise Rejected("this holder has answered for another survivor set of the round")
    if survivors.terms_digest != terms.digest:
        raise Rejected("the survivor set is one of other terms")
    clients = [client for client, _ in survivors.uploads]
    if clients != sorted(set(clients)):
        raise Rejected("the survivor set names a client twice or out of order")
    if len(clients) < terms.fewest_survivors:
        raise Rejected(f"a sum of {len(clients)} is not opened: the terms say {terms.fewest_survivors}")
    total = np.zeros(terms.scheme.blocks(ring.N), np.uint64)  # 2^31 a share, 2047 clients at most
    for client, upload_digest in survivors.uploads:
        kept = holder.kept.get(client)
        if kept is None or kept.upload_digest != upload_digest:
            raise Rejected(f"holder {holder.index} has no share of {client}'s upload")
        total += kept.values
    answer = (total % P).astype(np.uint32)
    return replace(holder, kept={}, answer=Answer(holder.index, survivors.digest, answer))
