"""What the parties share with each other and clients never learn: the sketch's seed, and keys for zeros.

Each party commits to a coin, and shows it when it has both other commitments; the hash of all three coins is
as random as the most honest of them. In the same message each party gives its key to the party before it, so
that key p is held by the parties p and p - 1, as share p is.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.core.randomness import RandomBytes
from shared.core.secagg.mpc3.shares import held_by
from shared.core.secagg.mpc3.terms import PARTIES, Terms
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

DOMAIN = b"fedlora/mpc3/secrets/v1"
COIN_BYTES, KEY_BYTES = 32, 32


@dataclass(frozen=True)
class Setup:
    """One party's part, until it has the secrets."""

    terms: Terms
    party: int
    coin: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @property
    def commitment(self) -> bytes:
        """For both other parties."""
        return _commitment(self.terms, self.party, self.coin)

    def opening(self, receiver: int, commitments: Mapping[int, bytes]) -> bytes:
        """For `receiver`: the coin, and for the party before this one the key as well.

        Args:
            receiver: another party.
            commitments: of all parties; whoever shows its coin before it has them lets others choose the sum.

        Raises: Rejected while a commitment is missing, or when this party's own is another.
        """
        if set(commitments) != set(range(PARTIES)) or commitments[self.party] != self.commitment:
            raise Rejected("the commitments of all three parties come first")
        return self.coin + (self.key if held_by(receiver)[1] == self.party else b"")


@dataclass(frozen=True)
class Secrets:
    """One party's secrets for one round.

    Attributes:
        sketch_seed: of signs and rotations, the same for all parties.
        check_key: of the norm check's projections, the same for all parties.
        keys: of zeros; key p and key p + 1.
    """

    sketch_seed: bytes = field(repr=False)
    check_key: bytes = field(repr=False)
    keys: tuple[bytes, bytes] = field(repr=False)

    def key_for(self, purpose: bytes, *context: bytes) -> tuple[bytes, bytes]:
        """The keys of one stream of zeros, used for that purpose and context alone."""
        first, second = (derived(key, purpose, *context) for key in self.keys)
        return first, second


def begin(terms: Terms, party: int, random_bytes: RandomBytes) -> Setup:
    """Draw a party's coin and key, once a round."""
    return Setup(terms, party, random_bytes(COIN_BYTES), random_bytes(KEY_BYTES))


def finish(setup: Setup, commitments: Mapping[int, bytes], openings: Mapping[int, bytes]) -> Secrets:
    """Compute the secrets from the other two parties' openings.

    Raises: Rejected for an opening that is missing, of another length, or not what its sender committed to.
    """
    coins, after = {setup.party: setup.coin}, held_by(setup.party)[1]
    keys = {setup.party: setup.key}
    for sender in set(range(PARTIES)) - {setup.party}:
        opening = openings.get(sender, b"")
        if len(opening) != COIN_BYTES + (KEY_BYTES if sender == after else 0):
            raise Rejected(f"the opening of party {sender} has {len(opening)} bytes")
        coins[sender], keys[sender] = opening[:COIN_BYTES], opening[COIN_BYTES:]
        if _commitment(setup.terms, sender, coins[sender]) != commitments.get(sender):
            raise Rejected(f"party {sender} committed to another coin")
    root = hashlib.sha256(
        bind(DOMAIN, setup.terms.digest, *(coins[party] for party in range(PARTIES)))
    ).digest()
    return Secrets(derived(root, b"sketch"), derived(root, b"check"), (keys[setup.party], keys[after]))


def derived(key: bytes, purpose: bytes, *context: bytes) -> bytes:
    """32 bytes that nobody without `key` can tell from random, another for each purpose and context."""
    return hashlib.sha256(bind(DOMAIN, key, purpose, *context)).digest()


def _commitment(terms: Terms, party: int, coin: bytes) -> bytes:
    return hashlib.sha256(bind(DOMAIN, b"coin", terms.digest, bytes([party]), coin)).digest()
