"""Clients that a job asks no more, for their score or because a person says so, and those it asks again."""

import structlog

from services.coordinator.beginning import advance
from services.coordinator.cohort.standing import Room, Standing, findings_of, judged_again, suspended_by_score
from services.coordinator.context import Coordination
from services.coordinator.ending import publish
from services.coordinator.state import Client, Job, Round
from shared.errors import Rejected, Stale
from shared.events import (
    ClientReinstated,
    ClientSuspended,
    ReinstatementRequested,
    SuspensionRequested,
    UpdateAggregated,
    judgements,
)
from shared.ports import UnitOfWork

log = structlog.get_logger()


async def after_judging(
    job: Job, round_: Round, event: UpdateAggregated, unit: UnitOfWork
) -> tuple[Job, dict[str, judgements.Standing]]:
    """What a completed round does to the standing of those it judged.

    Returns: the job, unsaved, without those whom it suspends; and the standings that changed, saved.
    """
    aggregation = job.specification.aggregation
    findings = findings_of(event, aggregation.root)
    if not any(finding is not None for finding in findings.values()):
        return job, {}
    known = await unit.find_all(Standing, [(job.job_id, client) for client in findings])
    standings = judged_again(job.job_id, {one.client_id: one for one in known}, findings)
    if aggregation.suspend_at is not None:
        room = Room(
            frozenset(job.candidates),
            job.specification.rounds.min_clients,
            len(job.suspended),
            aggregation.malicious,
        )
        changed = suspended_by_score(standings, aggregation.suspend_at, room, unit.now)
        standings |= changed
        for client, standing in changed.items():
            why = {"client": client, "job_id": job.job_id, "reason": standing.suspended or standing.spared}
            if standing.suspended:
                log.warning("suspended", **why)
                publish(_notice(standing), round_, unit)
            else:
                log.warning("not suspended", **why)
        newly = {client: one.suspended for client, one in changed.items() if one.suspended}
        job = job.replace(suspended={**job.suspended, **newly})
    for standing in standings.values():
        await unit.save(standing)
    return job, {client: standing.value() for client, standing in standings.items()}


async def on_suspension_requested(
    event: SuspensionRequested, unit: UnitOfWork, context: Coordination
) -> None:
    """Ask the client no more, whatever its score; a round that it is in goes on with it."""
    job, standing = await _found(event.job_id, event.client_id, unit)
    if event.client_id == job.specification.aggregation.root:
        raise Rejected(f"the others are measured by the update of {event.client_id}: cancel the job instead")
    if standing.suspended:
        raise Stale(f"{event.client_id} is suspended")
    standing = standing.suspend(event.reason, event.requested_by, unit.now)
    await unit.save(standing)
    job = job.replace(suspended={**job.suspended, event.client_id: standing.suspended})
    await unit.save(job)
    log.warning("suspended", client=event.client_id, job_id=job.job_id, reason=standing.suspended)
    unit.publish(_notice(standing), correlation_id=job.job_id)


async def on_reinstatement_requested(
    event: ReinstatementRequested, unit: UnitOfWork, context: Coordination
) -> None:
    """Ask the client again, from the next round on."""
    job, before = await _found(event.job_id, event.client_id, unit)
    if not before.suspended:
        raise Stale(f"{event.client_id} is not suspended")
    standing = before.reinstate(event.reason, event.requested_by, unit.now)
    await unit.save(standing)
    job = job.replace(suspended={name: why for name, why in job.suspended.items() if name != event.client_id})
    await unit.save(job)
    log.info("reinstated", client=event.client_id, job_id=job.job_id, reason=event.reason)
    reinstated = ClientReinstated(
        job_id=job.job_id,
        client_id=event.client_id,
        reason=event.reason,
        reinstated_by=event.requested_by,
        before=before.value(),
        standing=standing.value(),
        at=unit.now,
    )
    unit.publish(reinstated, correlation_id=job.job_id)
    if not job.round_id:
        await advance(job, unit, context)


def _notice(standing: Standing) -> ClientSuspended:
    latest = standing.changes[-1]
    return ClientSuspended(
        job_id=standing.job_id,
        client_id=standing.client_id,
        reason=latest.reason,
        suspended_by=latest.by,
        standing=standing.value(),
        at=latest.at,
    )


async def _found(job_id: str, client_id: str, unit: UnitOfWork) -> tuple[Job, Standing]:
    job = await unit.load(Job, job_id)
    if not job.active:
        raise Stale("the job has ended")
    await unit.load(Client, client_id)
    known = await unit.find(Standing, job_id, client_id)
    return job, known or Standing(job_id=job_id, client_id=client_id)
