"""What the worker asks of a protocol: what to say in each stage, and its update as bytes for the server."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from shared.core.randomness import RandomBytes
from shared.core.secagg import encoding
from shared.errors import Rejected
from shared.sessions.terms import SessionTerms, encoding_of


@dataclass(frozen=True)
class Position:
    """Where a client is in a session.

    Attributes:
        state: what the protocol remembers; made durable before anything below is sent. Secret.
        answers: (stage, payload), to be sent now.
        ready: whether the update can be encrypted.
    """

    state: bytes = b""
    answers: tuple[tuple[str, bytes], ...] = ()
    ready: bool = True


@dataclass(frozen=True)
class Encoded:
    """An update on its way.

    Attributes:
        content: for the service, before it is sealed.
        state: as in `Position`, from here on.
        clipped: the share of coordinates that were beyond the bound.
        others: for further parties of the service, in their order, each before it is sealed.
    """

    content: bytes
    state: bytes = b""
    clipped: float = 0.0
    others: tuple[bytes, ...] = ()


class ClientSession(ABC):
    """One client in one session. Holds nothing: what must be remembered is in `Position.state`."""

    def __init__(self, terms: SessionTerms, client_id: str, identity: Ed25519PrivateKey) -> None:
        self.terms, self.client_id, self.identity = terms, client_id, identity

    def begin(self, random_bytes: RandomBytes) -> Position:
        """The client enters the session. Raises: Rejected or Refused for terms that it does not accept."""
        return Position()

    def advance(self, state: bytes, stage: str, payload: bytes, random_bytes: RandomBytes) -> Position:
        """The server tells what a stage needs. Raises: Rejected for what is out of place."""
        raise Rejected(f"protocol {self.terms.plan.protocol} has no stage {stage!r}")

    def integers(self, update: NDArray[np.float32], random_bytes: RandomBytes) -> encoding.Encoded:
        """(d,) encoded for the session: weighted, or, where noise is divided, with this client's share of it;
        such an update is scaled already, and there is no way to encode one without.

        Raises: Rejected for an update that cannot be encoded.
        """
        weight = 1.0 if self.terms.plan.noise else self.terms.members[self.client_id].weight
        return encoding.encode(encoding_of(self.terms), update, weight, random_bytes)

    @abstractmethod
    def encrypt(self, state: bytes, update: NDArray[np.float32], random_bytes: RandomBytes) -> Encoded:
        """Encode and encrypt (d,), once. Raises: Rejected for an update that cannot be encoded."""
