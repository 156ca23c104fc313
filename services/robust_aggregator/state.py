"""A round's sums, until there is news from every group, and their plain mean: pure."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from shared.core.robust import mean
from shared.errors import Rejected
from shared.events import GroupFailed, GroupSummed
from shared.events.judgements import LeftOut
from shared.events.plans import RulePlan
from shared.events.values import BlobRef
from shared.ports import State


class Round(State):
    """One round; who takes in news of it locks it.

    Attributes:
        over: it has its update, or never will.
    """

    kind: ClassVar[str] = "round"

    job_id: str
    round_id: str
    over: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round."""
        return (self.job_id, self.round_id)


class GroupSum(State):
    """What became of one group; `total` is None where it has no sum."""

    kind: ClassVar[str] = "group-sum"

    job_id: str
    round_id: str
    group_id: str
    total: BlobRef | None
    rule: RulePlan = RulePlan()
    weights: dict[str, float] = {}
    updates: BlobRef | None = None
    uploaded_bytes: int = 0
    seconds: dict[str, float] = {}
    left_out: tuple[LeftOut, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round, group."""
        return (self.job_id, self.round_id, self.group_id)

    @property
    def weight(self) -> float:
        """In the sum."""
        return sum(self.weights.values())

    @classmethod
    def of(cls, event: GroupSummed | GroupFailed) -> "GroupSum":
        """As secure aggregation reported it."""
        group = cls(
            job_id=event.job_id,
            round_id=event.round_id,
            group_id=event.group_id,
            total=None,
            left_out=event.left_out,
            seconds=event.seconds,
        )
        if isinstance(event, GroupFailed):
            return group
        return group.replace(
            total=event.total,
            rule=event.rule,
            weights=event.weights,
            updates=event.updates,
            uploaded_bytes=event.uploaded_bytes,
        )


def aggregate(totals: Sequence[bytes], weights: Sequence[float]) -> NDArray[np.float32]:
    """The plain mean of groups' sums, (d,).

    Args:
        totals: float64 little-endian, (d,) each.
        weights: the weight in each sum.

    Raises: Rejected when there is nothing to average, sums differ in length, or a coordinate is not finite.
    """
    if not totals or min(weights) <= 0:
        raise Rejected("a sum of no updates")
    sums: list[NDArray[np.float64]] = [np.frombuffer(total, "<f8") for total in totals]
    if len({len(each) for each in sums}) > 1:
        raise Rejected("sums of different lengths")
    return finite(mean(sums, weights))


def finite(update: NDArray[np.floating]) -> NDArray[np.float32]:
    """The update as float32. Raises: Rejected when a coordinate is not finite then."""
    with np.errstate(over="ignore"):
        rounded = update.astype(np.float32, copy=False)
    if not np.isfinite(rounded).all():
        raise Rejected("the aggregate has a coordinate that is not finite")
    return rounded


def shares(groups: Sequence[GroupSum], weights: Mapping[str, float]) -> dict[str, float]:
    """What each client counts, given what each group does: groups' weights by name, of 1 in all."""
    return {
        client: weights[group.group_id] * weight / group.weight
        for group in groups
        for client, weight in group.weights.items()
    }
