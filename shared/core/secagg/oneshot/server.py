"""The server: it adds ciphertexts as they arrive, freezes who is in, and opens the sum with the answers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import sealing
from shared.core.secagg.oneshot import compiled, encoding, packed_shamir, ring
from shared.core.secagg.oneshot.interpolation import P
from shared.core.secagg.oneshot.messages import (
    Answer,
    SurvivorSet,
    Upload,
    ciphertext_from_bytes,
    digest_of,
    upload_message,
)
from shared.core.secagg.oneshot.terms import CHECKS, Terms
from shared.errors import Rejected, Stale

CHECK_DEVIATIONS = 8.0  # the probability that an honest sum is beyond it: 2^-45


@dataclass(frozen=True)
class Session:
    """One session. The sum of ciphertexts stands beside it, in one array that is added to in place.

    Attributes:
        terms: of the round.
        uploads: the digest of each upload in the sum, by client.
        survivors: who is in; set once.
        answers: by holder.
    """

    terms: Terms
    uploads: Mapping[str, bytes] = field(default_factory=dict)
    survivors: SurvivorSet | None = None
    answers: Mapping[int, NDArray[np.uint32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """An opened sum.

    Attributes:
        values: (d,) sum of the survivors' 16-bit values, with an error of `standard_error` in each.
        survivors: whose.
        liars: holders whose answers were wrong, and left out.
        standard_error: in steps of the values.
    """

    values: NDArray[np.float64]
    survivors: tuple[str, ...]
    liars: tuple[int, ...]
    standard_error: float


def empty(terms: Terms) -> NDArray[np.uint32]:
    """The sum of no ciphertexts."""
    return np.zeros(terms.length, np.uint32)


def receive(session: Session, total: NDArray[np.uint32], client_id: str, upload: Upload) -> Session:
    """Add one upload into `total`, in place, after everything about it was checked.

    Raises: Stale for an upload that is in the sum, or after the freeze; Rejected for another one of the same
        client, an unknown client, bytes that are no ciphertext, or a signature that does not fit.
    """
    terms = session.terms
    if client_id not in terms.cohort:
        raise Rejected(f"{client_id} is not in the cohort")
    message = upload_message(terms, client_id, hashlib.sha256(upload.ciphertext).digest(), upload.shares_root)
    digest = digest_of(message)
    if session.uploads.get(client_id) == digest or session.survivors is not None:
        raise Stale(client_id)
    if client_id in session.uploads:
        raise Rejected(f"{client_id} sent two uploads in one round")
    term = ciphertext_from_bytes(upload.ciphertext, terms)
    sealing.verify(terms.cohort[client_id], upload.signature, message)
    compiled.add(total, term)
    return replace(session, uploads={**session.uploads, client_id: digest})


def freeze(session: Session) -> Session:
    """Fix the survivor set; a second time changes nothing. The caller signs and sends `survivors`.

    Raises: Rejected when fewer are in the sum than the terms open.
    """
    if session.survivors is not None:
        return session
    if len(session.uploads) < session.terms.fewest_survivors:
        raise Rejected(f"{len(session.uploads)} uploads: the terms open {session.terms.fewest_survivors}")
    return replace(
        session, survivors=SurvivorSet(session.terms.digest, tuple(sorted(session.uploads.items())))
    )


def accept(session: Session, answer: Answer) -> Session:
    """Take in a holder's answer, from a sender that the caller knows to be that holder.

    Raises: Stale for the same answer again; Rejected for another one, one for another survivor set or before
        the freeze, an unknown holder, or one of another length.
    """
    scheme = session.terms.scheme
    if session.survivors is None or answer.survivors_digest != session.survivors.digest:
        raise Rejected("the answer is for another survivor set")
    if not answer.holder < scheme.holders:
        raise Rejected(f"the committee has no holder {answer.holder}")
    if answer.values.shape != (scheme.blocks(ring.N),) or int(answer.values.max()) >= P:
        raise Rejected(f"the answer of holder {answer.holder} is no share of a sum")
    known = session.answers.get(answer.holder)
    if known is not None:
        if (known == answer.values).all():
            raise Stale(f"holder {answer.holder}")
        raise Rejected(f"holder {answer.holder} gave two answers")
    return replace(session, answers={**session.answers, answer.holder: answer.values})


def finalise(session: Session, total: NDArray[np.uint32], public: NDArray[np.uint32]) -> Aggregate:
    """Open the sum: rebuild the sum of secrets, subtract a s, read the values.

    Args:
        session: frozen, with a quorum of answers or more.
        total: the sum of the survivors' ciphertexts.
        public: `public_polynomials(terms)`, computed while uploads arrive.

    Raises: Rejected before the freeze, for too few answers, for answers that contradict each other beyond
        repair, or when the zeros that end every update did not open as zeros: then an answer was wrong
        where none was spare, or a client shared another secret than it encrypted with, and the sum is lost.
    """
    if session.survivors is None:
        raise Rejected("the survivor set is not frozen")
    terms, clients = session.terms, len(session.survivors.uploads)
    opened = packed_shamir.reconstruct(session.answers, ring.N, terms.scheme)
    masks = compiled.mask(public, opened.secrets)
    values = compiled.reveal(total, masks, 1.0 / terms.scale)
    error = encoding.predicted_error(clients, terms.scale)
    if float(np.abs(values[-CHECKS:]).max()) > CHECK_DEVIATIONS * error:
        raise Rejected("the sum did not open: a holder's answer or a client's shares are wrong")
    survivors = tuple(client for client, _ in session.survivors.uploads)
    return Aggregate(values[:-CHECKS], survivors, opened.liars, error)
