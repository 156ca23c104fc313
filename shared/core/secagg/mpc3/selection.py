"""Which weighted sum is opened: what the parties sign before any of them releases a share."""

import hashlib
from dataclasses import dataclass

from shared.core.secagg.mpc3.messages import HASH_BYTES
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

DOMAIN = b"fedlora/mpc3/selection/v1"
WEIGHT_BYTES = 4


@dataclass(frozen=True)
class Selection:
    """The integer weight of each survivor.

    Attributes:
        survivors_digest: of the frozen set.
        unit: the weight that costs nothing: an upload with another one has to be delivered again. 1 for a
            rule that selects.
        weights: of the survivors, in their order.
    """

    survivors_digest: bytes
    unit: int
    weights: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Digest, then unit and weights in 4 bytes each, big-endian."""
        numbers = (self.unit, *self.weights)
        return self.survivors_digest + b"".join(number.to_bytes(WEIGHT_BYTES, "big") for number in numbers)

    def message(self) -> bytes:
        """What every party signs."""
        return bind(DOMAIN, self.to_bytes())

    @property
    def digest(self) -> bytes:
        """By which releases name it."""
        return hashlib.sha256(self.message()).digest()


def selection_from_bytes(content: bytes) -> Selection:
    """Inverse of `Selection.to_bytes`. Raises: Rejected for another length."""
    numbers, rest = divmod(len(content) - HASH_BYTES, WEIGHT_BYTES)
    if numbers < 1 or rest:
        raise Rejected(f"a selection of {len(content)} bytes")
    starts = range(HASH_BYTES, len(content), WEIGHT_BYTES)
    unit, *weights = (int.from_bytes(content[at : at + WEIGHT_BYTES], "big") for at in starts)
    return Selection(content[:HASH_BYTES], unit, tuple(weights))
