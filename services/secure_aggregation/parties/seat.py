"""What is durable of a session at party 1 or 2: the shares are held messages, which the broker repeats."""

from typing import ClassVar

from pydantic import AwareDatetime

from shared.ports import State


class Seat(State):
    """One session.

    Attributes:
        terms: of the session, as party 0 gave them.
        closed: whose uploads this party held when it closed; None before. Never changed once it is there.
        commitments: of all three parties to their coins; empty before this party heard them. Never changed.
        survivors: digest of the set that this party signed; empty before. Never changed once it is there.
        checking: the norm check has begun, which is done once.
        flagged: whom it found; None before its end. Never changed once it is there.
        selection: digest of the one that this party signed; empty before. Never changed once it is there.
        over: nothing is taken in or said any more.
    """

    kind: ClassVar[str] = "mpc3-seat"

    session: tuple[str, str, str]
    terms: bytes
    deadline: AwareDatetime
    closed: tuple[str, ...] | None = None
    commitments: bytes = b""
    survivors: bytes = b""
    checking: bool = False
    flagged: tuple[str, ...] | None = None
    selection: bytes = b""
    refused: dict[str, str] = {}
    over: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round, group."""
        return self.session
