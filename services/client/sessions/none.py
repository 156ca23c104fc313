"""Protocol `none`: the service reads the update."""

import numpy as np
from numpy.typing import NDArray

from services.client.sessions.base import ClientSession, Encoded
from shared.core.randomness import RandomBytes
from shared.core.secagg import fixed_point


class Opened(ClientSession):
    """Fixed point, nothing hidden."""

    def encrypt(self, state: bytes, update: NDArray[np.float32], random_bytes: RandomBytes) -> Encoded:
        """As `ClientSession`."""
        weighted = update * np.float32(self.terms.members[self.client_id].weight)
        return Encoded(fixed_point.to_bytes(fixed_point.encode(weighted)))
