"""Opening one weighted sum: a party signs one selection a round, corrects its sums, and releases its shares.

Uploads are not kept: those whose weight is not the selection's unit, those that did not survive included, are
delivered again by the caller, and the difference is added.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.mpc3 import accumulator
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.messages import HASH_BYTES, payload_from_bytes
from shared.core.secagg.mpc3.party import (
    Party,
    check_shares,
    check_signatures,
    from_others,
    frozen_set,
    members,
)
from shared.core.secagg.mpc3.selection import Selection
from shared.core.secagg.mpc3.shares import held_by, words_from_bytes, words_to_bytes
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.errors import Rejected, Stale

_HEAD_BYTES = 2 + 3 * HASH_BYTES


@dataclass(frozen=True)
class Release:
    """What one party gives an opener.

    Attributes:
        party: who gives it.
        opener: to whom alone it is sent.
        selection_digest: of which sum.
        hashes: SHA-256 of its two shares of the sum, the share of its number first.
        values: (d,) the share that the opener lacks, from the party after the opener; empty from the other,
            which has the same and gives its hash.
    """

    party: int
    opener: int
    selection_digest: bytes
    hashes: tuple[bytes, bytes]
    values: NDArray[np.uint64]

    def to_bytes(self) -> bytes:
        """Party and opener in 1 byte each, digest, hashes, values."""
        head = bytes([self.party, self.opener])
        return b"".join((head, self.selection_digest, *self.hashes, words_to_bytes(self.values)))


def release_from_bytes(content: bytes, dimension: int) -> Release:
    """Inverse of `Release.to_bytes`. Raises: Rejected for other bytes."""
    if len(content) < _HEAD_BYTES or max(content[:2]) >= PARTIES or content[0] == content[1]:
        raise Rejected("this is no release of a party to another")
    party, opener = content[:2]
    count = dimension if party == held_by(opener)[1] else 0
    digest, first, second = (content[at : at + HASH_BYTES] for at in range(2, _HEAD_BYTES, HASH_BYTES))
    values = words_from_bytes(memoryview(content)[_HEAD_BYTES:], count)
    return Release(party, opener, digest, (first, second), values)


@dataclass(frozen=True)
class Aggregate:
    """An opened sum.

    Attributes:
        values: (d,) sum of weight times values, exact.
        weights: by client, without those of weight 0.
    """

    values: NDArray[np.int64]
    weights: Mapping[str, int]


def everyone(party: Party) -> Selection:
    """The plain sum over all that survived and were not flagged. Raises: Rejected as `members`."""
    survivors, chosen = frozen_set(party), set(members(party))
    return Selection(survivors.digest, 1, tuple(int(client in chosen) for client, _ in survivors.uploads))


def choose(party: Party, held: Accumulator, selection: Selection) -> Party:
    """Commit to one selection for the round; the same again changes nothing.

    Its caller signs `selection.message()` and sends that to both others. Whether the weights follow from the
    Gram matrix only its opener can tell; here is checked that they open no sum that the terms forbid.

    Returns: the party with what is `pending`: by client, what has to be delivered again to be added.
    Raises: Rejected for a second selection, one for other survivors, weights beyond the terms, of a flagged
        client, fewer than `fewest_selected` that are not 0, or one that is more than two shares of so many;
            and before the freeze and the norm check.
    """
    chosen, terms = set(members(party)), party.terms
    if party.selection is not None:
        if party.selection == selection:
            return party
        raise Rejected("this party has signed another selection of the round")
    survivors = frozen_set(party)
    if selection.survivors_digest != survivors.digest:
        raise Rejected("the selection is for another survivor set")
    if len(selection.weights) != len(survivors.uploads):
        raise Rejected(f"{len(selection.weights)} weights for {len(survivors.uploads)} survivors")
    if not (1 <= selection.unit <= terms.largest_weight and 0 <= min(selection.weights)):
        raise Rejected(
            f"a unit of {selection.unit}, or a negative weight: 1 to {terms.largest_weight} is right"
        )
    if max(selection.weights) > terms.largest_weight:
        raise Rejected(f"a weight is beyond {terms.largest_weight}")
    weights = {
        client: weight for (client, _), weight in zip(survivors.uploads, selection.weights, strict=True)
    }
    positive = {client for client, weight in weights.items() if weight}
    if not positive <= chosen:
        raise Rejected("the selection has clients that the norm check flagged")
    _refuse_what_shows_one(terms, selection)
    np.multiply(held.totals, np.uint64(selection.unit), out=held.totals)
    differences = {client: weights.get(client, 0) - selection.unit for client in party.receipts}
    pending = {client: difference for client, difference in differences.items() if difference}
    return replace(party, selection=selection, pending=pending)


def _refuse_what_shows_one(terms: Terms, selection: Selection) -> None:
    fewest, weights = terms.fewest_selected, selection.weights
    counted, largest, whole = sum(weight > 0 for weight in weights), max(weights), sum(weights)
    if counted < fewest:
        raise Rejected(f"a sum of {counted} is not opened: the terms say {fewest}")
    if largest * fewest > 2 * whole:
        raise Rejected(
            f"one update would be {largest / whole:.0%} of the sum, which would show it: at most "
            f"{2 / fewest:.0%} is opened where {fewest} must have a weight"
        )


def correct(party: Party, held: Accumulator, client_id: str, content: bytes) -> Party:
    """Add what is pending of a client whose payload was delivered, and unsealed, again.

    Raises: Stale when nothing of it is pending; Rejected for another upload than the one in the sums.
    """
    weight = party.pending.get(client_id)
    if weight is None:
        raise Stale(client_id)
    payload = payload_from_bytes(content, party.index, party.terms.dimension)
    if payload.receipt.commitments != party.receipts[client_id].commitments:
        raise Rejected(f"this is another upload of {client_id} than the one in the sums")
    check_shares(party, client_id, payload)
    accumulator.correct(held, party.index, payload, weight)
    return replace(party, pending={name: rest for name, rest in party.pending.items() if name != client_id})


def release(party: Party, held: Accumulator, signatures: Mapping[int, bytes], opener: int) -> Release:
    """Give another party, which opens the sum, this one's part.

    Raises: Rejected before `choose`, while corrections are pending, or unless all three parties signed this
        party's own selection; for an opener that is itself or unknown.
    """
    selection = _signed_selection(party, signatures)
    if opener not in set(range(PARTIES)) - {party.index}:
        raise Rejected(f"party {party.index} releases nothing to {opener}")
    values = held.totals[1] if party.index == held_by(opener)[1] else held.totals[1, :0]
    first, second = (_sha256(total) for total in held.totals)
    return Release(party.index, opener, selection.digest, (first, second), values)


def open_sum(
    party: Party, held: Accumulator, signatures: Mapping[int, bytes], releases: Mapping[int, Release]
) -> Aggregate:
    """Add the three shares of the sum; each is known to two parties, and both must know the same.

    Args:
        party: the opener, its own corrections made.
        held: its sums.
        signatures: of all three parties over the selection.
        releases: of the other two, by party.

    Raises: Rejected as `release`, for releases of another sum, when two parties' copies of a share differ
        (one of the two named lies), or when a value is beyond what coordinates up to `largest_coordinate`
        add up to (a client shared something else).
    """
    selection = _signed_selection(party, signatures)
    others = from_others(party, releases)
    for index, given in others.items():
        if (given.party, given.opener, given.selection_digest) != (index, party.index, selection.digest):
            raise Rejected(f"the release of party {index} is for another sum or opener")
    own, after = held_by(party.index)
    lacking = held_by(after)[1]
    values = others[after].values
    if values.shape != (party.terms.dimension,):
        raise Rejected(f"the release of party {after} has {values.size} values")
    known = {own: _sha256(held.totals[0]), after: _sha256(held.totals[1]), lacking: _sha256(values)}
    for index, given in sorted(others.items()):
        for share, digest in zip(held_by(index), given.hashes, strict=True):
            if digest != known[share]:
                holders = f"{share} and {(share - 1) % PARTIES}"
                raise Rejected(f"the parties {holders} have different sums of share {share}")
    total = (held.totals[0] + held.totals[1] + values).view(np.int64)
    most = party.terms.largest_coordinate * sum(selection.weights)
    if int(total.max()) > most or int(total.min()) < -most:
        raise Rejected("the sum is beyond what the terms let updates reach: a client shared something else")
    pairs = zip(frozen_set(party).uploads, selection.weights, strict=True)
    return Aggregate(total, {client: weight for (client, _), weight in pairs if weight})


def _signed_selection(party: Party, signatures: Mapping[int, bytes]) -> Selection:
    if party.selection is None:
        raise Rejected("no selection is signed")
    if party.pending:
        raise Rejected(f"{len(party.pending)} uploads have to be delivered again first")
    check_signatures(party.terms, signatures, party.selection.message())
    return party.selection


def _sha256(words: NDArray[np.uint64]) -> bytes:
    return hashlib.sha256(words.astype("<u8", copy=False).data).digest()
