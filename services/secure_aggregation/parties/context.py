"""What party 1 or 2 has in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.secure_aggregation.parties.link import Links
from services.secure_aggregation.parties.others import keys_from
from services.secure_aggregation.parties.seat import Seat
from services.secure_aggregation.parties.side import SECRETS, Side
from services.secure_aggregation.pieces import Pieces
from services.secure_aggregation.protocols.base import Keys
from shared.core.secagg.mpc3.terms import PARTIES
from shared.errors import Rejected, Unavailable
from shared.ports import UnitOfWork
from shared.sessions.terms import SessionTerms, mpc3_terms

Key = tuple[str, ...]
Work = Callable[[UnitOfWork], Awaitable[None]]


async def _unbuilt(work: Work) -> None:
    raise Unavailable("the party is starting")


@dataclass
class Place:
    """One session. `arrived` is notified at each upload that was taken in or refused."""

    terms: SessionTerms
    side: Side
    pieces: Pieces = field(default_factory=Pieces)
    refused: dict[str, str] = field(default_factory=dict)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)


@dataclass
class Custody:
    """The handlers' context at party 1 or 2.

    Attributes:
        index: of this party.
        known: verify and sealing key of a party that was asked for them.
    """

    index: int
    keys: Keys
    links: Links
    transact: Callable[[Work], Awaitable[None]] = _unbuilt
    places: dict[Key, Place] = field(default_factory=dict)
    known: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def third(self) -> int:
        """The party that is neither this one nor 0."""
        return PARTIES - self.index

    def place(self, seat: Seat) -> Place:
        """The session in memory; empty after a restart."""
        if seat.key not in self.places:
            terms = SessionTerms.from_bytes(seat.terms)
            agreed = mpc3_terms(terms)
            random_bytes = self.keys.repeatable(SECRETS, agreed.digest)
            side = Side(agreed, self.index, self.keys.signing, random_bytes, seat.closed)
            self.places[seat.key] = Place(terms, side, refused=dict(seat.refused))
        return self.places[seat.key]

    async def keys_of_third(self) -> tuple[bytes, bytes]:
        """Asked of itself, not of party 0. Raises: Unavailable, Rejected."""
        if self.third not in self.known:
            self.known[self.third] = keys_from(await self.links.ask(self.third, "keys"))
        return self.known[self.third]


def held_open(seat: Seat | None) -> Seat:
    """The seat. Raises: Unavailable before the session is open; Rejected when it is over."""
    if seat is None:
        raise Unavailable("the session is not open here")
    if seat.over:
        raise Rejected("the session is over")
    return seat


def public_keys(keys: Keys) -> list[bytes]:
    """Verify key and sealing key, as a party tells them to the others."""
    return [keys.signing.public_key().public_bytes_raw(), keys.sealing.public]
