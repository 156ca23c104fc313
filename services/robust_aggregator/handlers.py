"""What the robust aggregator does about each event."""

from dataclasses import dataclass

from services.robust_aggregator.state import aggregate
from shared.events import GroupSummed, UpdateAggregated
from shared.ports import BlobStore, UnitOfWork
from shared.service import Handlers


@dataclass(frozen=True)
class Aggregator:
    """What the handlers share."""

    blobs: BlobStore
    rule: str


async def on_group_summed(event: GroupSummed, unit: UnitOfWork, context: Aggregator) -> None:
    """Turn the only group's sum into the round's update."""
    update, norm = aggregate(
        await context.blobs.get(event.total), event.fraction_bits, len(event.members), context.rule
    )
    unit.publish(
        UpdateAggregated(
            job_id=event.job_id,
            round_id=event.round_id,
            update=await context.blobs.put(update),
            weights=dict.fromkeys(event.members, 1 / len(event.members)),
            left_out=event.left_out,
            update_norm=norm,
        )
    )


HANDLERS: Handlers[Aggregator] = {GroupSummed: on_group_summed}
