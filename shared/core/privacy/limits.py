"""The ceilings of a federation, and what the log of their changes says.

Each ceiling holds for everyone unless a client has its own. The environment may lower one; raising
it takes an administrator, and a reason that the log keeps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

LimitName = Literal["epsilon", "delta", "delta-times-records", "client-epsilon"]
NAMES: tuple[LimitName, ...] = get_args(LimitName)
MEANING: Mapping[str, str] = {
    "epsilon": "epsilon of one job",
    "delta": "delta of one job",
    "delta-times-records": "delta times a client's declared records",
    "client-epsilon": "epsilon of one client over all its jobs",
}
UNRAISED: Mapping[LimitName, float] = {
    "epsilon": 10.0,
    "delta": 1e-5,
    "delta-times-records": 0.1,
    "client-epsilon": 10.0,
}
UPPER: Mapping[LimitName, float] = {"delta": 1.0, "delta-times-records": 1.0}  # no guarantee from there on


@dataclass(frozen=True)
class LimitChange:
    """One entry of the log.

    Attributes:
        client: whose; empty for everyone without one of their own.
        old: before it; None where the client had none of its own, or at the first start.
        new: None where the client's own was taken back.
        by, reason: who changed it and why.
        at: ISO 8601.
    """

    sequence: int
    entry_sha256: str
    limit: str
    client: str
    old: float | None
    new: float | None
    by: str
    reason: str
    at: str

    @classmethod
    def of(cls, sequence: int, entry_sha256: str, body: Mapping[str, Any]) -> "LimitChange":
        """From a line's body. Raises: KeyError where it is none."""
        names = ("limit", "client", "old", "new", "by", "reason", "at")
        return cls(sequence, entry_sha256, **{name: body[name] for name in names})


def in_force(changes: Iterable[LimitChange]) -> tuple[LimitChange, ...]:
    """For each limit the change that set it, in the order of NAMES, everyone's before the clients' own."""
    latest = {(change.limit, change.client): change for change in changes}
    places = {str(name): place for place, name in enumerate(NAMES)}
    kept = [change for change in latest.values() if change.new is not None and change.limit in places]
    return tuple(sorted(kept, key=lambda change: (places[change.limit], change.client)))


def possible(limit: LimitName, value: float) -> bool:
    """Whether a limit can be `value` at all."""
    return 0 < value < UPPER.get(limit, float("inf"))
