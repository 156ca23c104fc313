"""A round's sums, until there is one from every group, and the update that they make: pure."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shared.core.robust import RULES
from shared.errors import Rejected
from shared.events import GroupFailed, GroupSummed
from shared.events.values import BlobRef, LeftOut
from shared.ports import State


class GroupSum(State):
    """What became of one group; `total` is None where it has no sum."""

    kind: ClassVar[str] = "group-sum"

    job_id: str
    round_id: str
    group_id: str
    total: BlobRef | None
    weights: dict[str, float] = {}
    left_out: tuple[LeftOut, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round, group."""
        return (self.job_id, self.round_id, self.group_id)

    @classmethod
    def of(cls, event: GroupSummed | GroupFailed) -> "GroupSum":
        """As secure aggregation reported it."""
        total, weights = (event.total, event.weights) if isinstance(event, GroupSummed) else (None, {})
        return cls(
            job_id=event.job_id,
            round_id=event.round_id,
            group_id=event.group_id,
            total=total,
            weights=weights,
            left_out=event.left_out,
        )


def aggregate(totals: Sequence[bytes], weights: Sequence[float], rule: str) -> tuple[bytes, float]:
    """Apply `rule` to the groups' sums.

    Args:
        totals: float64 little-endian, (d,) each.
        weights: the weight in each sum.
        rule: a name in `RULES`.

    Returns: the update as float32 little-endian bytes, and its L2 norm.
    Raises: Rejected when there is nothing to average, sums differ in length, or a coordinate is not finite.
    """
    if not totals or min(weights) <= 0:
        raise Rejected("a sum of no updates")
    sums: list[NDArray[np.float64]] = [np.frombuffer(total, "<f8") for total in totals]
    if len({len(each) for each in sums}) > 1:
        raise Rejected("sums of different lengths")
    update = RULES[rule](sums, weights)
    if not np.isfinite(update).all():
        raise Rejected("the aggregate has a coordinate that is not finite")
    return update.astype("<f4", copy=False).tobytes(), float(np.linalg.norm(update.astype(np.float64)))
