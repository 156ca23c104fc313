"""Updates that wait for the adapter's next step, and what each counts in it.

Source: Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639,
Algorithm 1, with the weights of its Section 5; here they are normalised by their sum, not by their number.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime

from shared.errors import Rejected
from shared.events.values import BlobRef
from shared.ports import State


class Buffered(State):
    """The update of one client's round.

    Attributes:
        number: of the round.
        update: float32 little-endian.
        weight: the client's own, in (0, 1].
        completed: steps of the adapter that the client began from.
        started_at: of the round.
    """

    kind: ClassVar[str] = "buffered"

    job_id: str
    round_id: str
    number: int
    client_id: str
    update: BlobRef
    weight: float
    completed: int
    uploaded_bytes: int
    started_at: AwareDatetime

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round."""
        return (self.job_id, self.round_id)


def discount(staleness: int) -> float:
    """What an update counts that began so many steps of the adapter ago: 1 / sqrt(1 + staleness)."""
    return 1 / math.sqrt(1 + staleness)


def shares(buffered: Sequence[Buffered], completed: int) -> tuple[float, ...]:
    """Of the mean, each update's: its client's weight, discounted; they sum to 1.

    Args:
        buffered: the updates.
        completed: steps that the adapter has taken so far.
    """
    weights = [one.weight * discount(completed - one.completed) for one in buffered]
    whole = math.fsum(weights)
    return tuple(weight / whole for weight in weights)


def mean(updates: Sequence[bytes], parts: Sequence[float]) -> NDArray[np.float32]:
    """(d,): the updates weighted by their shares, summed in float64.

    Raises: Rejected when they differ in length.
    """
    rows = [np.frombuffer(update, "<f4").astype(np.float64) for update in updates]
    if len({row.size for row in rows}) != 1:
        raise Rejected("buffered updates differ in length")
    total = sum((part * row for part, row in zip(parts, rows, strict=True)), np.zeros(rows[0].size))
    return total.astype(np.float32)
