"""Protocol `oneshot` at the client: it speaks once."""

import numpy as np
from numpy.typing import NDArray

from services.client.sessions.base import ClientSession, Encoded, Position
from shared.core.randomness import RandomBytes
from shared.core.secagg import sealing
from shared.core.secagg.oneshot import client
from shared.errors import Rejected
from shared.sessions import uploads
from shared.sessions.terms import check_committee, oneshot_terms


class Encrypted(ClientSession):
    """The update under a fresh secret, the secret shared among the committee."""

    def begin(self, random_bytes: RandomBytes) -> Position:
        """As `ClientSession`."""
        check_committee(self.terms)
        oneshot_terms(self.terms)
        return Position()

    def encrypt(self, state: bytes, update: NDArray[np.float32], random_bytes: RandomBytes) -> Encoded:
        """As `ClientSession`."""
        encoded = self.integers(update, random_bytes)
        mine = client.Client(oneshot_terms(self.terms), self.client_id)
        mine = client.encrypt(mine, encoded.values, self.identity, random_bytes)
        if mine.upload is None:
            raise Rejected("nothing was encrypted")
        sender = self.terms.sender(self.client_id)
        sealed = [
            sealing.seal(share, holder.sealing_key, sender.share_info(holder.holder_id))
            for holder, share in zip(self.terms.committee, mine.shares, strict=True)
        ]
        return Encoded(uploads.join(mine.upload, sealed), clipped=encoded.clipped)
