"""A client's side of one round: each phase knows the one message that moves it on, and what it answers.

Phases are frozen and a transition returns the next one, which replaces the old one: whoever keeps an old
phase and answers from it twice gives away what the protocol protects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes
from shared.core.secagg import sealing
from shared.core.secagg.pairwise import keys, masks, shamir
from shared.core.secagg.pairwise.keys import HeldShares, Secrets
from shared.core.secagg.pairwise.messages import (
    Advertisement,
    Delivery,
    Endorsement,
    Endorsements,
    KeyList,
    MaskedInput,
    SealedShares,
    SurvivorSet,
    Unmasking,
    consent_message,
    endorsement_message,
)
from shared.core.secagg.pairwise.terms import Terms, TooFew
from shared.errors import Rejected, Stale


@dataclass(frozen=True)
class Member:
    """Who takes part, and in what."""

    terms: Terms
    client_id: str
    identity: Ed25519PrivateKey = field(repr=False)

    @property
    def neighbours(self) -> tuple[str, ...]:
        """With whom it masks and shares."""
        return self.terms.graph.around(self.client_id)


@dataclass(frozen=True)
class Phase:
    """Where a client is in the round. What does not belong to its phase is refused."""

    member: Member

    def share_keys(self, message: KeyList, random_bytes: RandomBytes) -> tuple["Phase", SealedShares]:
        """Check the neighbours' keys and share the own secrets among them."""
        raise Rejected("a list of keys does not belong to this phase")

    def mask(self, message: Delivery, values: NDArray[np.uint32]) -> tuple["Phase", MaskedInput]:
        """Open what neighbours sealed, and mask `values` (dimension,)."""
        raise Rejected("a delivery of shares does not belong to this phase")

    def endorse(self, message: SurvivorSet) -> tuple["Phase", Endorsement]:
        """Check the survivor set, and sign it as the only one."""
        raise Rejected("a survivor set does not belong to this phase")

    def unmask(self, message: Endorsements) -> tuple["Phase", Unmasking]:
        """Check that a quorum endorsed the same set, and reveal one share of each neighbour."""
        raise Rejected("endorsements do not belong to this phase")


def start(member: Member, random_bytes: RandomBytes) -> tuple["Advertised", Advertisement]:
    """Draw new secrets and advertise their public side.

    Args:
        member: in the cohort, with its own identity.
        random_bytes: cryptographic; never the same bytes in two rounds.

    Raises: Rejected when the cohort has another key for this client.
    """
    verify_key = member.identity.public_key().public_bytes_raw()
    if member.terms.cohort.get(member.client_id) != verify_key:
        raise Rejected(f"the cohort does not hold the key of {member.client_id}")
    secrets = keys.draw(random_bytes)
    advertisement = keys.advertise(member.terms, member.client_id, secrets, member.identity)
    return Advertised(member, secrets), advertisement


@dataclass(frozen=True)
class Advertised(Phase):
    """Its keys are out."""

    secrets: Secrets

    def share_keys(self, message: KeyList, random_bytes: RandomBytes) -> tuple["Shared", SealedShares]:
        """As `Phase`.

        Raises: Rejected for a key that is not signed by a neighbour's identity for this round, or that stands
            twice; TooFew when shares would have too few holders.
        """
        member, terms, own = self.member, self.member.terms, self.member.client_id
        peers = message.advertisements
        for client, advertisement in peers.items():
            if client not in member.neighbours or advertisement.client_id != client:
                raise Rejected(f"a key of {client}, who is no neighbour")
            keys.check(terms, advertisement)
        public = [key for peer in peers.values() for key in (peer.mask_key, peer.share_key)]
        if len(set(public)) < len(public):
            raise Rejected("two advertised keys are the same")
        _require("keys of neighbours", len(peers) + 1, terms)
        of_key, of_self = (
            shamir.share(secret, terms.plan.threshold, terms.plan.neighbours + 1, random_bytes)
            for secret in (self.secrets.mask_key, self.secrets.self_seed)
        )
        sealed, private = {}, keys.private_from(self.secrets.share_key)
        for index, holder in enumerate(terms.graph.holders(own)):
            if holder in peers:
                label = terms.label(b"share", own, holder)
                key = keys.agree(private, peers[holder].share_key, label)
                sealed[holder] = keys.seal(key, label, HeldShares(of_key[index], of_self[index]))
        kept = HeldShares(of_key[0], of_self[0])
        return Shared(member, self.secrets, peers, kept), SealedShares(own, sealed)


@dataclass(frozen=True)
class Shared(Phase):
    """Its shares are out; it may mask once."""

    secrets: Secrets
    peers: Mapping[str, Advertisement]
    kept: HeldShares

    def mask(self, message: Delivery, values: NDArray[np.uint32]) -> tuple["Masked", MaskedInput]:
        """As `Phase`.

        Raises: Rejected for a vector of another shape or type, a roster that is not ascending or strays from
            the cohort, or shares that are missing or do not open (the sender is named); TooFew for a roster
            with too few neighbours.
        """
        terms, own = self.member.terms, self.member.client_id
        if values.shape != (terms.dimension,) or values.dtype != np.uint32:
            raise Rejected(f"an update is ({terms.dimension},) uint32, not {values.shape} {values.dtype}")
        roster = _ascending(message.roster)
        if own not in roster or not roster <= set(terms.cohort):
            raise Rejected("the roster leaves this client out, or holds one that is not in the cohort")
        partners = [client for client in self.member.neighbours if client in roster]
        _require("shares of neighbours", len(partners) + 1, terms)
        private = keys.private_from(self.secrets.share_key)
        held = {own: self.kept} | {peer: self._opened(private, peer, message) for peer in partners}
        public = {partner: self.peers[partner].mask_key for partner in partners}
        masked = values.copy()
        masks.add(masked, [self.secrets.self_seed])
        masks.apply_pairs(masked, own, keys.pair_seeds(terms, self.secrets.mask_key, own, public))
        consent = sealing.sign(self.member.identity, consent_message(terms, own, message.roster))
        return Masked(self.member, message.roster, held), MaskedInput(own, masked, consent)

    def _opened(self, private: X25519PrivateKey, sender: str, message: Delivery) -> HeldShares:
        if sender not in self.peers or sender not in message.sealed:
            raise Rejected(f"{sender} is on the roster, and its keys or shares are missing")
        label = self.member.terms.label(b"share", sender, self.member.client_id)
        key = keys.agree(private, self.peers[sender].share_key, label)
        try:
            return keys.open_(key, label, message.sealed[sender])
        except Rejected as error:
            raise Rejected(f"from {sender}: {error}") from error


@dataclass(frozen=True)
class Masked(Phase):
    """Its vector is out, its own secrets are forgotten; it may endorse one survivor set."""

    roster: tuple[str, ...]
    held: Mapping[str, HeldShares]

    def endorse(self, message: SurvivorSet) -> tuple["Endorsed", Endorsement]:
        """As `Phase`.

        Raises: Rejected for a set that strays from the roster, leaves this client out, or holds a neighbour
            who did not sign that it masked by this roster; TooFew for a set that is too small, or in which a
            client has too few neighbours.
        """
        terms, own = self.member.terms, self.member.client_id
        survivors = _ascending(message.survivors)
        if own not in survivors or not survivors <= set(self.roster):
            raise Rejected("the survivor set leaves this client out, or holds one who shared no keys")
        if len(survivors) < terms.plan.fewest_survivors:
            raise TooFew("survivors", len(survivors), terms.plan.fewest_survivors)
        if alone := terms.graph.unsupported(survivors, terms.plan.threshold):
            raise Rejected(f"the survivor set leaves {min(alone)} too few neighbours")
        for partner in survivors.intersection(self.member.neighbours):
            signature = message.consents.get(partner, b"")
            sealing.verify(terms.cohort[partner], signature, consent_message(terms, partner, self.roster))
        signed = endorsement_message(terms, own, self.roster, message.survivors)
        endorsement = Endorsement(own, sealing.sign(self.member.identity, signed))
        return Endorsed(self.member, self.roster, self.held, message.survivors), endorsement


@dataclass(frozen=True)
class Endorsed(Phase):
    """It stands for one survivor set."""

    roster: tuple[str, ...]
    held: Mapping[str, HeldShares]
    survivors: tuple[str, ...]

    def endorse(self, message: SurvivorSet) -> tuple["Endorsed", Endorsement]:
        """Raises: Stale for the set that it stands for; Rejected for any other."""
        if message.survivors == self.survivors:
            raise Stale("this survivor set is endorsed")
        raise Rejected("another survivor set is endorsed: no second one is")

    def unmask(self, message: Endorsements) -> tuple["Finished", Unmasking]:
        """As `Phase`. Of a survivor the share of its self mask, of a lost one that of its mask key.

        Raises: Rejected for a signature that does not stand for this set; TooFew below the quorum.
        """
        terms = self.member.terms
        for client, signature in message.signatures.items():
            if client not in self.survivors:
                raise Rejected(f"{client} is no survivor")
            signed = endorsement_message(terms, client, self.roster, self.survivors)
            sealing.verify(terms.cohort[client], signature, signed)
        if len(message.signatures) < terms.plan.quorum:
            raise TooFew("endorsements", len(message.signatures), terms.plan.quorum)
        alive = set(self.survivors)
        self_shares = {owner: shares.of_self for owner, shares in self.held.items() if owner in alive}
        key_shares = {owner: shares.of_key for owner, shares in self.held.items() if owner not in alive}
        return Finished(self.member), Unmasking(self.member.client_id, self_shares, key_shares)


@dataclass(frozen=True)
class Finished(Phase):
    """It answered, and holds nothing of the round any more."""


def _require(stage: str, present: int, terms: Terms) -> None:
    if present < terms.plan.threshold:
        raise TooFew(stage, present, terms.plan.threshold)


def _ascending(clients: tuple[str, ...]) -> set[str]:
    """Raises: Rejected unless each stands once, in order."""
    if tuple(sorted(set(clients))) != clients:
        raise Rejected("a list of clients is not ascending")
    return set(clients)
