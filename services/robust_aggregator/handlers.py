"""What the robust aggregator does about each event."""

from dataclasses import dataclass

from services.robust_aggregator.state import GroupSum, aggregate
from shared.errors import Stale
from shared.events import GroupFailed, GroupSummed, UpdateAggregated
from shared.ports import BlobStore, UnitOfWork
from shared.service import Handlers


@dataclass(frozen=True)
class Aggregator:
    """What the handlers share."""

    blobs: BlobStore
    rule: str


async def on_group_over(event: GroupSummed | GroupFailed, unit: UnitOfWork, context: Aggregator) -> None:
    """Once there is news from every group, turn the sums into the round's update."""
    groups = [GroupSum.of(event)]
    if event.groups > 1:
        await unit.save(groups[0])
        groups = await unit.select(GroupSum, event.job_id, event.round_id)
        if len(groups) < event.groups:
            return
    summed = [group for group in groups if group.total is not None]
    if not summed:
        raise Stale("no group has a sum")
    totals = [await context.blobs.get(group.total) for group in summed if group.total is not None]
    update, norm = aggregate(totals, [sum(group.weights.values()) for group in summed], context.rule)
    weights = {client: weight for group in summed for client, weight in group.weights.items()}
    whole = sum(weights.values())
    unit.publish(
        UpdateAggregated(
            job_id=event.job_id,
            round_id=event.round_id,
            update=await context.blobs.put(update),
            weights={client: weight / whole for client, weight in weights.items()},
            left_out=tuple(item for group in groups for item in group.left_out),
            update_norm=norm,
        )
    )


HANDLERS: Handlers[Aggregator] = {GroupSummed: on_group_over, GroupFailed: on_group_over}
