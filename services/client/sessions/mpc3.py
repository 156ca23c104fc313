"""Protocol `mpc3` at the client: it cuts its update into three shares, and each party gets two."""

import numpy as np
from numpy.typing import NDArray

from services.client.sessions.base import ClientSession, Encoded, Position
from shared.core.randomness import RandomBytes
from shared.core.secagg.mpc3.client import share
from shared.sessions.terms import mpc3_terms


class Shared(ClientSession):
    """One share a party number; any one party's two say nothing."""

    def begin(self, random_bytes: RandomBytes) -> Position:
        """As `ClientSession`."""
        mpc3_terms(self.terms)
        return Position()

    def encrypt(self, state: bytes, update: NDArray[np.float32], random_bytes: RandomBytes) -> Encoded:
        """As `ClientSession`."""
        encoded = self.integers(update, random_bytes)
        terms = mpc3_terms(self.terms)
        first, *others = share(encoded.values, terms, self.client_id, self.identity, random_bytes)
        return Encoded(first, clipped=encoded.clipped, others=tuple(others))
