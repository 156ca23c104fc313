"""Protocol `none`: the service reads the update."""

import numpy as np
from numpy.typing import NDArray

from services.client.sessions.base import ClientSession, Encoded, Position
from shared.core.randomness import RandomBytes
from shared.core.secagg import fixed_point
from shared.errors import Rejected


class Opened(ClientSession):
    """Fixed point, nothing hidden."""

    def begin(self, random_bytes: RandomBytes) -> Position:
        """As `ClientSession`."""
        if self.terms.plan.noise is not None:
            raise Rejected("protocol none opens each update, and these have no noise of their own")
        return Position()

    def encrypt(self, state: bytes, update: NDArray[np.float32], random_bytes: RandomBytes) -> Encoded:
        """As `ClientSession`."""
        self.begin(random_bytes)
        weighted = update * np.float32(self.terms.members[self.client_id].weight)
        return Encoded(fixed_point.to_bytes(fixed_point.encode(weighted)))
