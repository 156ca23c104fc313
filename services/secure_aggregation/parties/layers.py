"""The norm check at one party: each step may come again, with the same message only."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.mpc3 import norm_check
from shared.core.secagg.mpc3.accumulator import Accumulator
from shared.core.secagg.mpc3.party import Party
from shared.core.secagg.mpc3.shares import held_by
from shared.errors import Rejected, Unavailable


class Layers:
    """What this party said at each step, and a digest of what it heard.

    Args:
        party: frozen.
        held: its sums.
    """

    def __init__(self, party: Party, held: Accumulator) -> None:
        self._index = party.index
        self._steps = norm_check.compare(party, held)
        self._said = [next(self._steps)]
        self._heard: list[bytes] = []
        self._bits: NDArray[np.uint64] | None = None
        self._broken = False

    @property
    def heard(self) -> int:
        """Steps that are over."""
        return len(self._heard)

    @property
    def done(self) -> bool:
        """Whether nothing is left but to open the bits."""
        return self._bits is not None

    def say(self, step: int) -> bytes:
        """The message of that step for the party before. Raises: Unavailable when it is not there."""
        if not 0 <= step < len(self._said):
            raise Unavailable(f"no message of step {step} of the norm check yet")
        return self._said[step]

    def hear(self, step: int, message: bytes) -> None:
        """Take the message of the party after this one.

        Raises: Rejected for another message than before, a step that is not next, or one that does not fit.
        """
        digest = hashlib.sha256(message).digest()
        if 0 <= step < len(self._heard):
            if self._heard[step] != digest:
                raise Rejected(f"another message of step {step} of the norm check than before")
            return
        if self._broken or self.done or step != len(self._heard):
            raise Rejected(f"step {step} of the norm check is not the next, {len(self._heard)}")
        try:
            self._said.append(self._steps.send(message))
        except StopIteration as stop:
            self._bits = stop.value
        except Rejected:
            self._broken = True
            raise
        self._heard.append(digest)

    def verdict_for(self, receiver: int) -> bytes:
        """What opens the bits at another party. Raises: Unavailable before the last step."""
        for_after, for_before = norm_check.verdict(self._known_bits())
        return for_after if receiver == held_by(self._index)[1] else for_before

    def conclude(self, party: Party, verdicts: dict[int, bytes]) -> Party:
        """Open the bits with what the other two said, by party. Raises: as `norm_check.conclude`."""
        before, after = (self._index - 1) % 3, (self._index + 1) % 3
        return norm_check.conclude(party, self._known_bits(), verdicts[before], verdicts[after])

    def _known_bits(self) -> NDArray[np.uint64]:
        if self._bits is None:
            raise Unavailable(f"the norm check is at step {len(self._heard)}")
        return self._bits
