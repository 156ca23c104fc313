"""One of the three parties, until the survivor set stands: it takes in uploads, compares, and freezes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from shared.core.secagg import sealing
from shared.core.secagg.mpc3 import accumulator, gram, shares
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.messages import (
    Holdings,
    Payload,
    Receipt,
    SurvivorSet,
    payload_from_bytes,
    upload_digest,
    upload_message,
)
from shared.core.secagg.mpc3.secrets import Secrets
from shared.core.secagg.mpc3.selection import Selection
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.errors import Rejected, Stale

Message = TypeVar("Message")


@dataclass(frozen=True)
class Party:
    """One party in one round. The arrays of its `Accumulator` stand beside it and are written in place.

    Attributes:
        terms: as the party itself was told them.
        index: 0, 1 or 2.
        secrets: of the round.
        receipts: of the uploads in the sums, by client, in the order of arrival: that is their row.
        closed: no upload is added any more.
        survivors: whose uploads all three hold, as this party computed it; set once.
        faults: why a client is not among them.
        frozen: all three parties signed `survivors`.
        flagged: clients that the norm check found too long; None before it, or without one.
        selection: which sum is opened; set once. The caller makes this state durable before it sends its
            signature: a party that forgets a selection may sign a second one.
        pending: what is still to be added of which client, as a weight, before the sums are those of
            `selection`.
    """

    terms: Terms
    index: int
    secrets: Secrets
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    closed: bool = False
    survivors: SurvivorSet | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    frozen: bool = False
    flagged: frozenset[str] | None = None
    selection: Selection | None = None
    pending: Mapping[str, int] = field(default_factory=dict)


def receive(party: Party, held: Accumulator, client_id: str, content: bytes) -> Party:
    """Add a payload that was unsealed, after everything about it was checked.

    Raises: Stale for one that is in the sums, or after `close`; Rejected for another one of the same client,
        an unknown client, other bytes, a signature that does not fit, or shares that were not signed.
    """
    terms = party.terms
    if client_id not in terms.cohort:
        raise Rejected(f"{client_id} is not in the cohort")
    payload = payload_from_bytes(content, party.index, terms.dimension)
    known = party.receipts.get(client_id)
    if party.closed or (known is not None and known.commitments == payload.receipt.commitments):
        raise Stale(client_id)
    message = upload_message(terms, client_id, payload.receipt.commitments)
    sealing.verify(terms.cohort[client_id], payload.receipt.signature, message)
    check_shares(party, client_id, payload)
    if known is not None:
        raise Rejected(f"{client_id} signed two uploads in one round")
    digest = upload_digest(terms, client_id, payload.receipt.commitments)
    key = accumulator.check_key_for(party.secrets, digest)
    accumulator.absorb(held, party.index, len(party.receipts), payload, key)
    return replace(party, receipts={**party.receipts, client_id: payload.receipt})


def check_shares(party: Party, client_id: str, payload: Payload) -> None:
    """Compare a payload's shares with its commitments. Raises: Rejected, naming the client."""
    contents = zip(shares.held_by(party.index), (payload.first, payload.second), strict=True)
    for index, content in contents:
        if shares.commitment(party.terms, index, content) != payload.receipt.commitments[index]:
            raise Rejected(f"share {index} of {client_id} is not the one that it signed")


def close(party: Party, held: Accumulator) -> Party:
    """Take no upload any more; a second time changes nothing. The caller sends `holdings` to both others."""
    if party.closed:
        return party
    if party.terms.sketch_size:
        gram.extend(held.gram, len(party.receipts), last=True)
    return replace(party, closed=True)


def holdings(party: Party) -> Holdings:
    """What a closed party holds. Raises: Rejected before `close`."""
    if not party.closed:
        raise Rejected("the party still takes uploads in")
    return Holdings(party.terms.digest, party.index, tuple(sorted(party.receipts.items())))


def settle(party: Party, others: Mapping[int, Holdings]) -> Party:
    """Compute the survivor set: the clients of whom all three parties hold one and the same upload.

    Its caller signs `survivors.message()` and sends that to both others.

    Args:
        party: closed.
        others: what the other two hold, by party, from senders that the caller knows to be these.

    Raises: Stale when it has settled; Rejected for holdings that are missing, of other terms, or with a
        client that is unknown or did not sign (then the party lies), or when fewer survive than the terms
        open.
    """
    if party.survivors is not None:
        raise Stale(f"party {party.index} has settled")
    own = holdings(party)
    by_party = from_others(party, others) | {party.index: own}
    held = {index: dict(of.receipts) for index, of in sorted(by_party.items())}
    for index, of in by_party.items():
        if of.party != index or of.terms_digest != party.terms.digest:
            raise Rejected(f"the holdings of party {index} are another party's, or of other terms")
        _check_signed(party, index, held[index])
    uploads, faults = [], {}
    for client in sorted({client for receipts in held.values() for client in receipts}):
        missing = [index for index, receipts in held.items() if client not in receipts]
        signed = {receipts[client].commitments for receipts in held.values() if client in receipts}
        if len(signed) > 1:
            faults[client] = "signed different uploads for different parties"
        elif missing:
            faults[client] = f"no upload of it was accepted by party {missing[0]}"
        else:
            uploads.append((client, upload_digest(party.terms, client, *signed)))
    if len(uploads) < party.terms.fewest_survivors:
        raise Rejected(
            f"{len(uploads)} uploads reached all parties: {party.terms.fewest_survivors} are needed"
        )
    return replace(party, survivors=SurvivorSet(party.terms.digest, tuple(uploads)), faults=faults)


def _check_signed(party: Party, sender: int, receipts: Mapping[str, Receipt]) -> None:
    """A party that shows what a client never signed is found out; equal receipts were checked on arrival."""
    for client, receipt in receipts.items():
        own = party.receipts.get(client)
        if own is not None and own.commitments == receipt.commitments:
            continue
        if client not in party.terms.cohort:
            raise Rejected(f"party {sender} holds an upload of {client}, who is not in the cohort")
        message = upload_message(party.terms, client, receipt.commitments)
        try:
            sealing.verify(party.terms.cohort[client], receipt.signature, message)
        except Rejected as error:
            raise Rejected(f"party {sender} holds an upload that {client} did not sign") from error


def freeze(party: Party, signatures: Mapping[int, bytes]) -> Party:
    """Fix the survivor set, when all three parties have signed the same; a second time changes nothing.

    Raises: Rejected before `settle`, or for a signature that is missing or over another set.
    """
    if party.survivors is None:
        raise Rejected("the holdings are not compared yet")
    check_signatures(party.terms, signatures, party.survivors.message())
    return replace(party, frozen=True)


def check_signatures(terms: Terms, signatures: Mapping[int, bytes], message: bytes) -> None:
    """Raises: Rejected unless each of the three parties signed `message`, naming the first that did not."""
    for index, key in enumerate(terms.party_keys):
        try:
            sealing.verify(key, signatures.get(index, b""), message)
        except Rejected as error:
            raise Rejected(f"party {index} signed something else, or nothing") from error


def from_others(party: Party, messages: Mapping[int, Message]) -> dict[int, Message]:
    """Those of exactly the other two. Raises: Rejected for others or fewer."""
    if set(messages) != set(range(PARTIES)) - {party.index}:
        raise Rejected(f"messages of the parties {sorted(messages)}, those of the other two are needed")
    return dict(messages)


def frozen_set(party: Party) -> SurvivorSet:
    """The survivor set. Raises: Rejected before all three parties signed it."""
    if not party.frozen or party.survivors is None:
        raise Rejected("the survivor set is not frozen")
    return party.survivors


def members(party: Party) -> tuple[str, ...]:
    """The survivors without those flagged, ascending.

    Raises: Rejected before the freeze, or before the norm check where the terms ask for one.
    """
    survivors = frozen_set(party)
    if party.terms.norm_bound is not None and party.flagged is None:
        raise Rejected("the norm check comes first")
    flagged = party.flagged or frozenset()
    return tuple(client for client, _ in survivors.uploads if client not in flagged)
