"""The server's side of one round: each phase takes one kind of message, and is closed when its time is over.

Phases are frozen. A message in its phase returns a new phase; one that comes again or late is `Stale`. Masked
vectors are added as they come: the server holds one sum, whatever the size of the cohort.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg import sealing
from shared.core.secagg.pairwise import keys
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
from shared.core.secagg.pairwise.shamir import is_element
from shared.core.secagg.pairwise.terms import Terms, TooFew
from shared.core.secagg.pairwise.unmasking import Masked, Result, open_sum, settle
from shared.errors import Rejected, Stale, Unavailable

Message = Advertisement | SealedShares | MaskedInput | Endorsement | Unmasking


def start(terms: Terms) -> "Advertising":
    """The first phase."""
    return Advertising(terms, {})


def replayed(phase: "Closable", decided: tuple[str, ...]) -> "Closable":
    """A phase that has heard nobody, to be closed again as it was: with `decided`, as `decide` gave it.

    It hears these clients alone, in any order, and closes when it heard all: into the same next phase, with
    the same messages. A server that stores each decision before it sends what `close` returns, and is given
    the messages again, goes on where it was.

    Raises: Rejected for a phase that has heard someone.
    """
    if phase.heard:
        raise Rejected("a stage is replayed from its start")
    return replace(phase, decided=decided)


def receive(phase: "AnyPhase", message: Message) -> "AnyPhase":
    """Give a message to the phase it belongs to.

    Raises: Stale for one of an earlier phase; Rejected for one of a later phase, but Unavailable while a
        phase is replayed, for then the next one has been begun; or as that phase does.
    """
    position, belongs = _ORDER.index(type(phase)), _SPEAKS.index(type(message))
    if position == belongs:
        return phase.receive(message)  # type: ignore[arg-type]
    if belongs < position:
        raise Stale(f"{message.client_id} is late")
    if not isinstance(phase, Revealing) and phase.decided is not None:
        raise Unavailable(f"{message.client_id} is early: the stage before is being replayed")
    raise Rejected(f"{message.client_id} is early")


@dataclass(frozen=True)
class Advertising:
    """Clients advertise keys."""

    terms: Terms
    advertisements: Mapping[str, Advertisement]
    decided: tuple[str, ...] | None = None

    @property
    def heard(self) -> Mapping[str, object]:
        """What each client said."""
        return self.advertisements

    def receive(self, message: Advertisement) -> "Advertising":
        """Raises: Stale for a second one of a client; Rejected for one that is not signed for this round."""
        _new(message.client_id, self.advertisements, self.terms.cohort, self.decided)
        keys.check(self.terms, message)
        return replace(self, advertisements={**self.advertisements, message.client_id: message})

    def decide(self) -> tuple[str, ...]:
        """Who stays, ascending: what `close` goes by. Raises: TooFew; Unavailable in a replay."""
        _complete(self)
        return _enough("advertised keys", self.advertisements, self.terms)

    def close(self) -> tuple["Sharing", dict[str, KeyList]]:
        """The next phase, and what each client that is still in it is sent. Raises: as `decide`."""
        present = self.decide()
        advertisements = {client: self.advertisements[client] for client in present}
        lists = {
            client: KeyList({peer: advertisements[peer] for peer in _among(self.terms, client, present)})
            for client in present
        }
        return Sharing(self.terms, advertisements, {}), lists


@dataclass(frozen=True)
class Sharing:
    """Clients share their secrets with neighbours."""

    terms: Terms
    advertisements: Mapping[str, Advertisement]
    shares: Mapping[str, SealedShares]
    decided: tuple[str, ...] | None = None

    @property
    def heard(self) -> Mapping[str, object]:
        """What each client said."""
        return self.shares

    def receive(self, message: SealedShares) -> "Sharing":
        """Raises: Stale for a second one of a client; Rejected for one that leaves a neighbour out."""
        _new(message.client_id, self.shares, self.advertisements, self.decided)
        if set(message.sealed) != set(_among(self.terms, message.client_id, self.advertisements)):
            raise Rejected(f"{message.client_id} did not share with all its neighbours, or with others")
        return replace(self, shares={**self.shares, message.client_id: message})

    def decide(self) -> tuple[str, ...]:
        """The roster, ascending. Raises: TooFew; Unavailable in a replay."""
        _complete(self)
        return _enough("shared keys", self.shares, self.terms)

    def close(self) -> tuple["Collecting", dict[str, Delivery]]:
        """The next phase, and what each client that is still in it is sent. Raises: as `decide`."""
        roster = self.decide()
        deliveries = {
            client: Delivery(
                roster,
                {peer: self.shares[peer].sealed[client] for peer in _among(self.terms, client, roster)},
            )
            for client in roster
        }
        public = {client: self.advertisements[client] for client in roster}
        total = np.zeros(self.terms.dimension, np.uint32)
        return Collecting(self.terms, public, total, {}), deliveries


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
        _new(client, self.consents, self.advertisements, self.decided)
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
        _complete(self)
        survivors = tuple(sorted(self.consents))
        needed = max(self.terms.plan.quorum, self.terms.plan.fewest_survivors)
        if len(survivors) < needed:
            raise TooFew("masked vectors", len(survivors), needed)
        threshold = self.terms.plan.threshold
        if alone := self.terms.graph.unsupported(survivors, threshold):
            around = _among(self.terms, min(alone), survivors)
            raise TooFew(f"masked vectors around {min(alone)}", len(around) + 1, threshold)
        return survivors

    def close(self) -> tuple["Endorsing", dict[str, SurvivorSet]]:
        """The next phase, and what each survivor is sent. Raises: as `decide`."""
        survivors = self.decide()
        sets = {
            client: SurvivorSet(
                survivors, {peer: self.consents[peer] for peer in _among(self.terms, client, survivors)}
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
        _new(client, self.signatures, self.survivors, self.decided)
        roster = tuple(sorted(self.advertisements))
        signed = endorsement_message(self.terms, client, roster, self.survivors)
        sealing.verify(self.terms.cohort[client], message.signature, signed)
        return replace(self, signatures={**self.signatures, client: message.signature})

    def decide(self) -> tuple[str, ...]:
        """Whose endorsements are sent, ascending. Raises: TooFew, below the quorum; Unavailable, replayed."""
        _complete(self)
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
        _new(client, self.answers, self.masked.survivors)
        owners = {client, *_among(self.terms, client, self.masked.advertisements)}
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


AnyPhase = Advertising | Sharing | Collecting | Endorsing | Revealing
Closable = TypeVar("Closable", Advertising, Sharing, Collecting, Endorsing)
_ORDER = (Advertising, Sharing, Collecting, Endorsing, Revealing)
_SPEAKS = (Advertisement, SealedShares, MaskedInput, Endorsement, Unmasking)


def _new(
    client: str,
    heard: Mapping[str, object],
    expected: Mapping[str, object] | tuple[str, ...],
    decided: tuple[str, ...] | None = None,
) -> None:
    if client in heard:
        raise Stale(f"{client} has spoken in this phase")
    if client not in expected:
        raise Rejected(f"{client} does not speak in this phase")
    if decided is not None and client not in decided:
        raise Stale(f"{client} came after this phase was closed")


def _complete(phase: Advertising | Sharing | Collecting | Endorsing) -> None:
    if missing := set(phase.decided or ()) - set(phase.heard):
        raise Unavailable(f"{len(missing)} clients that were heard before are missing: {min(missing)}")


def _among(terms: Terms, client: str, present: Mapping[str, object] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(peer for peer in terms.graph.around(client) if peer in present)


def _enough(stage: str, present: Mapping[str, object], terms: Terms) -> tuple[str, ...]:
    """Ascending, without those who have too few neighbours."""
    left = terms.graph.supported(present, terms.plan.threshold)
    needed = max(terms.plan.quorum, terms.plan.fewest_survivors)
    for clients in (present, left):
        if len(clients) < needed:
            raise TooFew(stage, len(clients), needed)
    return tuple(sorted(left))
