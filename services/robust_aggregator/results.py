"""A round's update, and who has what part in it, from what its groups' sums are: pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.robust_aggregator.state import GroupSum, aggregate, finite, shares
from shared.core.robust.judging.rows import Judged
from shared.events import GroupSummed
from shared.events.judgements import Finding, LeftOut
from shared.sessions.judging import findings_of, left_out_by_rule


@dataclass(frozen=True)
class Result:
    """What `UpdateAggregated` says; `update` is (d,), finite."""

    update: NDArray[np.float32]
    weights: Mapping[str, float]
    left_out: tuple[LeftOut, ...]
    findings: tuple[Finding, ...] = ()


def of_mean(groups: Sequence[GroupSum], totals: Sequence[bytes]) -> Result:
    """Every unit of weight counts the same.

    Args:
        groups: all that reported.
        totals: float64 little-endian, (d,) each, of those with a sum, in their order.

    Raises: Rejected as `aggregate`.
    """
    sums = [group for group in groups if group.total is not None]
    update = aggregate(totals, [group.weight for group in sums])
    whole = sum(group.weight for group in sums)
    weights = shares(sums, {group.group_id: group.weight / whole for group in sums})
    return Result(update, weights, left_out_before(groups))


def of_judged_groups(groups: Sequence[GroupSum], judged: Judged) -> Result:
    """Each client counts its share of what its group does; those of a group without weight are left out.

    Raises: Rejected when a coordinate is not finite.
    """
    rule = next(group.rule for group in groups if group.total is not None)
    findings = findings_of(judged.weights, judged.reasons)
    found = {item.client_id: item.reason for item in left_out_by_rule(rule.name, judged.weights, findings)}
    sums = [group for group in groups if group.total is not None]
    left_out = (*left_out_before(groups), *_with_their_groups(sums, found))
    return Result(finite(judged.update), shares(sums, judged.weights), left_out, findings)


def of_judged_updates(event: GroupSummed, total: bytes) -> Result:
    """As the session judged them; `total` is the update, float64 little-endian.

    Raises: Rejected when a coordinate is not finite.
    """
    update = finite(np.frombuffer(total, "<f8"))
    return Result(update, event.weights, event.left_out, event.findings)


def left_out_before(groups: Sequence[GroupSum]) -> tuple[LeftOut, ...]:
    """Clients that are in no sum."""
    return tuple(item for group in groups for item in group.left_out)


def _with_their_groups(groups: Sequence[GroupSum], found: Mapping[str, str]) -> Iterator[LeftOut]:
    for group in groups:
        if group.group_id in found:
            reason = f"its group {group.group_id} was {found[group.group_id]}"
            yield from (LeftOut(client_id=client, reason=reason) for client in sorted(group.weights))
