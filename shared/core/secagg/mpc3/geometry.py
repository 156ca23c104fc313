"""Opening the Gram matrix of sketches, to one party alone."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.mpc3 import gram, zeros
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.messages import HASH_BYTES
from shared.core.secagg.mpc3.party import Party, from_others, frozen_set, members
from shared.core.secagg.mpc3.shares import words_from_bytes, words_to_bytes
from shared.core.secagg.mpc3.terms import PARTIES
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

DOMAIN = b"fedlora/mpc3/gram/v1"


@dataclass(frozen=True)
class GramShare:
    """One party's summand of the Gram matrix, hidden behind a share of zero.

    Attributes:
        party: whose.
        context: of which clients; the hash of terms, survivor set and names.
        words: (m (m + 1) / 2,) upper triangle, row after row, modulo 2^gram_bits.
    """

    party: int
    context: bytes
    words: NDArray[np.uint64]

    def to_bytes(self) -> bytes:
        """Party in 1 byte, context, words."""
        return bytes([self.party]) + self.context + words_to_bytes(self.words)


def gram_share_from_bytes(content: bytes, clients: int) -> GramShare:
    """Inverse of `GramShare.to_bytes`. Raises: Rejected for other bytes."""
    head = 1 + HASH_BYTES
    if len(content) < head or content[0] >= PARTIES:
        raise Rejected("this is no share of a Gram matrix")
    words = words_from_bytes(memoryview(content)[head:], clients * (clients + 1) // 2)
    return GramShare(content[0], content[1:head], words)


def share_gram(party: Party, held: Accumulator) -> GramShare:
    """Compute this party's summand, for the opener alone.

    Everything above the ring is cut off, and what is left is uniform but for the sum of all three: the opener
    sees the Gram matrix and nothing else of the others' summands.

    Raises: Rejected before the freeze and the norm check, and where the terms have no sketch.
    Source: Araki et al. 2016, CCS, Section 2.2.
    """
    if not party.terms.sketch_size:
        raise Rejected("the terms have no sketch: give them a sketch_size")
    names = members(party)
    row_of = {client: row for row, client in enumerate(party.receipts)}
    words = gram.packed(held.gram, np.array([row_of[client] for client in names], np.intp))
    context = _context(party, names)
    words += zeros.additive(party.secrets.key_for(b"gram", context), len(words))
    words &= np.uint64(2**party.terms.gram_bits - 1)
    return GramShare(party.index, context, words)


def open_gram(party: Party, held: Accumulator, shares: Mapping[int, GramShare]) -> NDArray[np.int64]:
    """The Gram matrix of the members' sketches, (m, m), in the order of `members`.

    A summand that a party computed wrongly is not noticed: no second party has it.

    Args:
        party: the one that the terms name.
        held: its own.
        shares: of the other two, by party.

    Raises: Rejected at another party, for shares of other clients or missing ones, or words beyond the ring.
    """
    if party.index != party.terms.gram_opener:
        raise Rejected(f"the terms open the Gram matrix to party {party.terms.gram_opener} alone")
    own = share_gram(party, held)
    total = own.words
    for index, share in from_others(party, shares).items():
        if share.party != index or share.context != own.context or share.words.shape != own.words.shape:
            raise Rejected(f"the Gram share of party {index} is for other clients")
        if int(share.words.max()) >= 2**party.terms.gram_bits:
            raise Rejected(f"the Gram share of party {index} has a word beyond the ring")
        total = total + share.words
    return gram.unpacked(total, len(members(party)), party.terms.gram_bits)


def _context(party: Party, names: tuple[str, ...]) -> bytes:
    encoded = (name.encode() for name in names)
    return hashlib.sha256(bind(DOMAIN, party.terms.digest, frozen_set(party).digest, *encoded)).digest()
