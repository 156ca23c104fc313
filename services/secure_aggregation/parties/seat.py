"""What is durable of a session at party 1 or 2: the shares are held messages, which the broker repeats."""

from typing import ClassVar

from pydantic import AwareDatetime

from shared.ports import State


class Seat(State):
    """One session.

    Attributes:
        terms: of the session, as party 0 gave them.
        closed: whose uploads this party held when it closed; None before. Never changed once it is there.
        survivors: digest of the set that this party signed; empty before. Never changed once it is there.
        over: nothing is taken in or said any more.
    """

    kind: ClassVar[str] = "mpc3-seat"

    session: tuple[str, str, str]
    terms: bytes
    deadline: AwareDatetime
    closed: tuple[str, ...] | None = None
    survivors: bytes = b""
    refused: dict[str, str] = {}
    over: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round, group."""
        return self.session
