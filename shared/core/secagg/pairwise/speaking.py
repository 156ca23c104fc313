"""What the phases of a server have in common: who may speak in one, and when all who must have spoken."""

from collections.abc import Mapping
from typing import Protocol

from shared.core.secagg.pairwise.terms import Terms
from shared.errors import Rejected, Stale, Unavailable


class Heard(Protocol):
    """A phase that is closed."""

    @property
    def heard(self) -> Mapping[str, object]:
        """What each client said."""

    @property
    def decided(self) -> tuple[str, ...] | None:
        """As whom it is replayed."""


def require_new(
    client: str,
    heard: Mapping[str, object],
    expected: Mapping[str, object] | tuple[str, ...],
    decided: tuple[str, ...] | None = None,
) -> None:
    """Raises: Stale for a client that has spoken, or came too late; Rejected for one not `expected`."""
    if client in heard:
        raise Stale(f"{client} has spoken in this phase")
    if client not in expected:
        raise Rejected(f"{client} does not speak in this phase")
    if decided is not None and client not in decided:
        raise Stale(f"{client} came after this phase was closed")


def require_complete(phase: Heard) -> None:
    """Raises: Unavailable in a replay, until everyone was heard who was heard before."""
    if missing := set(phase.decided or ()) - set(phase.heard):
        raise Unavailable(f"{len(missing)} clients that were heard before are missing: {min(missing)}")


def among(terms: Terms, client: str, present: Mapping[str, object] | tuple[str, ...]) -> tuple[str, ...]:
    """Its neighbours in `present`."""
    return tuple(peer for peer in terms.graph.around(client) if peer in present)
