"""Errors whose type says whose fault it is, and so what the bus does with the message."""

from dataclasses import dataclass


class FedloraError(Exception):
    """The root of every error that fedlora raises on purpose."""


class Outcome(FedloraError):
    """A handler's way to end without effect; the subclass decides what becomes of the message."""


class Stale(Outcome):
    """A duplicate, or too late to matter: acknowledge and forget."""


class Unavailable(Outcome):
    """Too early, or a dependency is away: deliver again after a backoff."""


class Rejected(Outcome):
    """Can never succeed: dead-letter it with this reason."""


class Unroutable(Unavailable):
    """Nobody has declared a queue for this event yet."""


@dataclass(unsafe_hash=True)  # not frozen: Python sets __traceback__ on what is raised
class Refused(FedloraError):
    """A request that a person made and can mend.

    `field` is a dotted path into what was submitted, `reason` says what is wrong, and `remedy`
    names the nearest setting that works.
    """

    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason} ({self.remedy})"
