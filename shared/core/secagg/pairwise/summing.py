"""The server's phases from the masked vectors on: they are added, the set is endorsed, the masks come off."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import sealing
from shared.core.secagg.pairwise.messages import (
    Advertisement,
    Endorsement,
    Endorsements,
    MaskedInput,
    SurvivorSet,
    Unmasking,
    consent_message,
    endorsement_message,
)
from shared.core.secagg.pairwise.shamir import is_element
from shared.core.secagg.pairwise.speaking import among, require_complete, require_new
from shared.core.secagg.pairwise.terms import Terms, TooFew
from shared.core.secagg.pairwise.unmasking import Masked, Result, open_sum, settle
from shared.errors import Rejected


@dataclass(frozen=True)
class Collecting:
    """Clients send masked vectors. `total` (dimension,) is uniform to the server: it holds all masks."""

    terms: Terms
    advertisements: Mapping[str, Advertisement]
    total: NDArray[np.uint32]
    consents: Mapping[str, bytes]
    decided: tuple[str, ...] | None = None

    @property
    def heard(self) -> Mapping[str, object]:
        """What each client said."""
        return self.consents

    @property
    def roster(self) -> tuple[str, ...]:
        """Who shared keys, ascending."""
        return tuple(sorted(self.advertisements))

    def receive(self, message: MaskedInput) -> "Collecting":
        """Raises: Stale for a second one of a client; Rejected for another shape or type, or a consent that
        is not the client's under this roster."""
        client = message.client_id
        require_new(client, self.consents, self.advertisements, self.decided)
        if message.values.shape != self.total.shape or message.values.dtype != np.uint32:
            raise Rejected(f"the vector of {client} is {message.values.shape} {message.values.dtype}")
        signed = consent_message(self.terms, client, self.roster)
        sealing.verify(self.terms.cohort[client], message.consent, signed)
        consents = {**self.consents, client: message.consent}
        return replace(self, total=self.total + message.values, consents=consents)

    def decide(self) -> tuple[str, ...]:
        """The survivors, ascending.

        Raises: TooFew below the quorum or `fewest_survivors`, or when a client has too few neighbours left:
            its vector is in the sum and does not come out; Unavailable in a replay.
        """
        require_complete(self)
        survivors = tuple(sorted(self.consents))
        needed = max(self.terms.plan.quorum, self.terms.plan.fewest_survivors)
        if len(survivors) < needed:
            raise TooFew("masked vectors", len(survivors), needed)
        threshold = self.terms.plan.threshold
        if alone := self.terms.graph.unsupported(survivors, threshold):
            around = among(self.terms, min(alone), survivors)
            raise TooFew(f"masked vectors around {min(alone)}", len(around) + 1, threshold)
        return survivors

    def close(self) -> tuple["Endorsing", dict[str, SurvivorSet]]:
        """The next phase, and what each survivor is sent. Raises: as `decide`."""
        survivors = self.decide()
        sets = {
            client: SurvivorSet(
                survivors, {peer: self.consents[peer] for peer in among(self.terms, client, survivors)}
            )
            for client in survivors
        }
        return Endorsing(self.terms, self.advertisements, self.total, survivors, {}), sets


@dataclass(frozen=True)
class Endorsing:
    """Survivors sign the set that they stand for."""

    terms: Terms
    advertisements: Mapping[str, Advertisement]
    total: NDArray[np.uint32]
    survivors: tuple[str, ...]
    signatures: Mapping[str, bytes]
    decided: tuple[str, ...] | None = None

    @property
    def heard(self) -> Mapping[str, object]:
        """What each client said."""
        return self.signatures

    def receive(self, message: Endorsement) -> "Endorsing":
        """Raises: Stale for a second one of a client; Rejected for one that does not stand for this set."""
        client = message.client_id
        require_new(client, self.signatures, self.survivors, self.decided)
        roster = tuple(sorted(self.advertisements))
        signed = endorsement_message(self.terms, client, roster, self.survivors)
        sealing.verify(self.terms.cohort[client], message.signature, signed)
        return replace(self, signatures={**self.signatures, client: message.signature})

    def decide(self) -> tuple[str, ...]:
        """Whose endorsements are sent, ascending. Raises: TooFew, below the quorum; Unavailable, replayed."""
        require_complete(self)
        if len(self.signatures) < self.terms.plan.quorum:
            raise TooFew("endorsements", len(self.signatures), self.terms.plan.quorum)
        return tuple(sorted(self.signatures))

    def close(self) -> tuple["Revealing", Endorsements]:
        """The next phase, and what each client that endorsed is sent. Raises: as `decide`."""
        signatures = {client: self.signatures[client] for client in self.decide()}
        masked = Masked(self.terms, self.advertisements, self.survivors, self.total)
        return Revealing(self.terms, masked, {}), Endorsements(signatures)


@dataclass(frozen=True)
class Revealing:
    """Survivors reveal one share of each neighbour."""

    terms: Terms
    masked: Masked
    answers: Mapping[str, Unmasking]

    def receive(self, message: Unmasking) -> "Revealing":
        """Raises: Stale for a second one of a client; Rejected for shares of others than were asked for, or
        for what is no share."""
        client = message.client_id
        require_new(client, self.answers, self.masked.survivors)
        owners = {client, *among(self.terms, client, self.masked.advertisements)}
        alive = owners & self.masked.alive
        if set(message.self_shares) != alive or set(message.key_shares) != owners - alive:
            raise Rejected(f"{client} did not reveal one share of each neighbour")
        if not all(map(is_element, (*message.self_shares.values(), *message.key_shares.values()))):
            raise Rejected(f"{client} revealed what is no share")
        return replace(self, answers={**self.answers, client: message})

    def settle(self) -> "Revealing":
        """The same, with each mask off that these answers open: what is done now `close` need not do."""
        return replace(self, masked=settle(self.masked, self.answers))

    def close(self) -> Result:
        """The sum (dimension,) over the survivors modulo 2^32. Raises: as `open_sum`."""
        return open_sum(self.masked, self.answers)
