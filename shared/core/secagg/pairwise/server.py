"""The server's side of one round: each phase takes one kind of message, and is closed when its time is over.

Phases are frozen. A message in its phase returns a new phase; one that comes again or late is `Stale`. Masked
vectors are added as they come: the server holds one sum, whatever the size of the cohort.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from shared.core.secagg.pairwise import keys
from shared.core.secagg.pairwise.messages import (
    Advertisement,
    Delivery,
    Endorsement,
    KeyList,
    MaskedInput,
    SealedShares,
    Unmasking,
)
from shared.core.secagg.pairwise.speaking import among, require_complete, require_new
from shared.core.secagg.pairwise.summing import Collecting, Endorsing, Revealing
from shared.core.secagg.pairwise.terms import Terms, TooFew
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
        require_new(message.client_id, self.advertisements, self.terms.cohort, self.decided)
        keys.check(self.terms, message)
        return replace(self, advertisements={**self.advertisements, message.client_id: message})

    def decide(self) -> tuple[str, ...]:
        """Who stays, ascending: what `close` goes by. Raises: TooFew; Unavailable in a replay."""
        require_complete(self)
        return _enough("advertised keys", self.advertisements, self.terms)

    def close(self) -> tuple["Sharing", dict[str, KeyList]]:
        """The next phase, and what each client that is still in it is sent. Raises: as `decide`."""
        present = self.decide()
        advertisements = {client: self.advertisements[client] for client in present}
        lists = {
            client: KeyList({peer: advertisements[peer] for peer in among(self.terms, client, present)})
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
        require_new(message.client_id, self.shares, self.advertisements, self.decided)
        if set(message.sealed) != set(among(self.terms, message.client_id, self.advertisements)):
            raise Rejected(f"{message.client_id} did not share with all its neighbours, or with others")
        return replace(self, shares={**self.shares, message.client_id: message})

    def decide(self) -> tuple[str, ...]:
        """The roster, ascending. Raises: TooFew; Unavailable in a replay."""
        require_complete(self)
        return _enough("shared keys", self.shares, self.terms)

    def close(self) -> tuple["Collecting", dict[str, Delivery]]:
        """The next phase, and what each client that is still in it is sent. Raises: as `decide`."""
        roster = self.decide()
        deliveries = {
            client: Delivery(
                roster,
                {peer: self.shares[peer].sealed[client] for peer in among(self.terms, client, roster)},
            )
            for client in roster
        }
        public = {client: self.advertisements[client] for client in roster}
        total = np.zeros(self.terms.dimension, np.uint32)
        return Collecting(self.terms, public, total, {}), deliveries


AnyPhase = Advertising | Sharing | Collecting | Endorsing | Revealing
Closable = TypeVar("Closable", Advertising, Sharing, Collecting, Endorsing)
_ORDER = (Advertising, Sharing, Collecting, Endorsing, Revealing)
_SPEAKS = (Advertisement, SealedShares, MaskedInput, Endorsement, Unmasking)


def _enough(stage: str, present: Mapping[str, object], terms: Terms) -> tuple[str, ...]:
    """Ascending, without those who have too few neighbours."""
    left = terms.graph.supported(present, terms.plan.threshold)
    needed = max(terms.plan.quorum, terms.plan.fewest_survivors)
    for clients in (present, left):
        if len(clients) < needed:
            raise TooFew(stage, len(clients), needed)
    return tuple(sorted(left))
