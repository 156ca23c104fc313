"""What client and server send each other. Who sent it is the transport's to establish; what must outlive a
server that lies carries a signature of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.pairwise.terms import Terms, digest_of


@dataclass(frozen=True)
class Advertisement:
    """A client's two public keys (X25519, 32 bytes each) and the hash of its self mask's seed, signed."""

    client_id: str
    mask_key: bytes
    share_key: bytes
    self_commitment: bytes
    signature: bytes

    def message(self, terms: Terms) -> bytes:
        """What the signature covers."""
        content = (self.mask_key, self.share_key, self.self_commitment)
        return terms.label(b"advertisement", self.client_id, "", *content)


@dataclass(frozen=True)
class KeyList:
    """To one client: the advertisements of its neighbours."""

    advertisements: Mapping[str, Advertisement]


@dataclass(frozen=True)
class SealedShares:
    """A client's shares, by receiver, for each neighbour that advertised."""

    client_id: str
    sealed: Mapping[str, bytes]


@dataclass(frozen=True)
class Delivery:
    """To one client: who shared keys, ascending, and what its neighbours among them sealed to it."""

    roster: tuple[str, ...]
    sealed: Mapping[str, bytes]


@dataclass(frozen=True)
class MaskedInput:
    """A client's masked vector (dimension,), and its signature under the roster by which it masked."""

    client_id: str
    values: NDArray[np.uint32]
    consent: bytes


@dataclass(frozen=True)
class SurvivorSet:
    """To one client: whose vectors the sum holds, ascending, and its neighbours' consents among them."""

    survivors: tuple[str, ...]
    consents: Mapping[str, bytes]


@dataclass(frozen=True)
class Endorsement:
    """A client's signature under the roster and the one survivor set for which it will reveal shares."""

    client_id: str
    signature: bytes


@dataclass(frozen=True)
class Endorsements:
    """To every client: a quorum of endorsements of the survivor set."""

    signatures: Mapping[str, bytes]


@dataclass(frozen=True)
class Unmasking:
    """A client's shares, by owner: of the self masks of survivors, of the mask keys of the lost."""

    client_id: str
    self_shares: Mapping[str, bytes]
    key_shares: Mapping[str, bytes]


def consent_message(terms: Terms, client_id: str, roster: tuple[str, ...]) -> bytes:
    """What a client signs with its masked vector."""
    return terms.label(b"consent", client_id, "", digest_of(roster))


def endorsement_message(
    terms: Terms, client_id: str, roster: tuple[str, ...], survivors: tuple[str, ...]
) -> bytes:
    """What a client signs once, before it reveals anything."""
    return terms.label(b"endorsement", client_id, "", digest_of(roster), digest_of(survivors))
