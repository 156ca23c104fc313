"""What the robust aggregator does about each event."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from services.robust_aggregator.judging import Judging
from services.robust_aggregator.results import Result, of_judged_groups, of_judged_updates, of_mean
from services.robust_aggregator.state import GroupSum, Round
from shared.errors import Refused, Rejected, Stale
from shared.events import GroupFailed, GroupSummed, RoundAborted, UpdateAggregated
from shared.ports import BlobStore, Telemetry, UnitOfWork
from shared.service import Handlers

log = structlog.get_logger()


@dataclass(frozen=True)
class Aggregator:
    """What the handlers share."""

    blobs: BlobStore
    telemetry: Telemetry
    judging: Judging


async def on_group_over(event: GroupSummed | GroupFailed, unit: UnitOfWork, context: Aggregator) -> None:
    """Take in what became of a group; once there is news from every one, publish the round's update."""
    round_ = await unit.find(Round, event.job_id, event.round_id)
    if round_ is not None and round_.over:
        raise Stale("the round is over")
    round_ = round_ or Round(job_id=event.job_id, round_id=event.round_id)
    group = GroupSum.of(event)
    await unit.save(round_)
    await unit.save(group)
    groups = await unit.select(GroupSum, *round_.key) if event.groups > 1 else [group]
    sums = [group for group in groups if group.total is not None]
    if not sums:
        return
    rule = sums[0].rule
    if len(groups) < event.groups:
        if not rule.core().plain:
            await context.judging.take(round_.key, groups, event.groups)
        return
    await unit.save(round_.replace(over=True))
    try:
        result = await _result(event, groups, context)
    except (Refused, Rejected) as error:
        _fail(event, sums, str(error), unit)
        return
    left_out = {finding.subject: finding.sentence for finding in result.findings if finding.weight == 0}
    rows = len(event.weights) if isinstance(event, GroupSummed) and event.judged else len(sums)
    log.info("aggregated", round_id=event.round_id, rule=rule.name, rows=rows, left_out=left_out)
    unit.publish(
        UpdateAggregated(
            job_id=event.job_id,
            round_id=event.round_id,
            update=await context.blobs.put(result.update.astype("<f4", copy=False).tobytes()),
            weights=dict(result.weights),
            left_out=result.left_out,
            findings=result.findings,
            updates=sums[0].updates,  # with groups nobody keeps any
            uploaded_bytes=sum(group.uploaded_bytes for group in sums),
            seconds={client: took for group in groups for client, took in group.seconds.items()},
            update_norm=float(np.linalg.norm(result.update.astype(np.float64))),
        )
    )


async def on_round_aborted(event: RoundAborted, unit: UnitOfWork, context: Aggregator) -> None:
    """Forget the round, and take in nothing more of it."""
    await unit.save(Round(job_id=event.job_id, round_id=event.round_id, over=True))
    context.judging.drop((event.job_id, event.round_id))


async def _result(
    event: GroupSummed | GroupFailed, groups: Sequence[GroupSum], context: Aggregator
) -> Result:
    totals = [group.total for group in groups if group.total is not None]
    rule = next(group.rule for group in groups if group.total is not None)
    if isinstance(event, GroupSummed) and event.judged:
        return of_judged_updates(event, await context.blobs.get(event.total))
    if rule.single:
        raise Rejected(f"updates were to be judged by {rule.name} where they are summed, and were not")
    if rule.core().plain:
        return of_mean(groups, [await context.blobs.get(total) for total in totals])
    with context.telemetry.span("judge groups", rule=rule.name, rows=len(totals)):
        judged = await context.judging.finish((event.job_id, event.round_id), groups, event.groups)
    return of_judged_groups(groups, judged)


def _fail(event: GroupSummed | GroupFailed, sums: Sequence[GroupSum], reason: str, unit: UnitOfWork) -> None:
    """No group's sum is of any use: the round is over."""
    log.warning("no update", round_id=event.round_id, reason=reason)
    for group in sums:
        unit.publish(
            GroupFailed(
                job_id=event.job_id,
                round_id=event.round_id,
                group_id=group.group_id,
                groups=event.groups,
                reason=reason,
                left_out=group.left_out,
            )
        )


HANDLERS: Handlers[Aggregator] = {
    GroupSummed: on_group_over,
    GroupFailed: on_group_over,
    RoundAborted: on_round_aborted,
}
