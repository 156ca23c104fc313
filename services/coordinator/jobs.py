"""A job from submission to its end."""

import asyncio
from datetime import timedelta

import structlog

from services.coordinator.beginning import advance
from services.coordinator.context import Coordination
from services.coordinator.ending import GATHER, abort, end
from services.coordinator.state import Client, Job, Round
from shared.errors import Stale
from shared.events import DeadlinePassed, JobAccepted, JobAnnounced, JobCancelled, JobRefused, JobSubmitted
from shared.job.plan import planned_noise
from shared.job.refusals import refusals
from shared.ports import UnitOfWork

log = structlog.get_logger()


async def on_job_submitted(event: JobSubmitted, unit: UnitOfWork, context: Coordination) -> None:
    """Refuse what is impossible; plan the noise of the rest, and ask every present client."""
    if await unit.find(Job, event.job_id):
        raise Stale("the job is known")
    refused = await asyncio.to_thread(refusals, event.specification)
    job = Job(
        job_id=event.job_id,
        specification=event.specification,
        noise_multiplier=0 if refused else await asyncio.to_thread(planned_noise, event.specification),
        accepted_at=unit.now,
        start=event.start,
    )
    if refused:
        await unit.save(job.replace(phase="refused"))
        first = refused[0]
        unit.publish(
            JobRefused(job_id=job.job_id, field=first.field, reason=first.reason, remedy=first.remedy),
            correlation_id=job.job_id,
        )
        return
    unit.publish(
        JobAccepted(
            job_id=job.job_id,
            specification=job.specification,
            noise_multiplier=job.noise_multiplier,
            accepted_at=unit.now,
            start=job.start,
        ),
        correlation_id=job.job_id,
    )
    if job.specification.aggregation.secure == "none":
        log.warning("secure: none, the aggregation service reads each update", job_id=job.job_id)
    present = tuple(sorted(await context.present(await unit.select(Client), unit.now)))
    for client_id in present:
        announce(job, client_id, unit)
    await unit.save(job.replace(announced=present))
    gather = timedelta(seconds=job.specification.rounds.gather_s)
    await unit.schedule(GATHER, job.key, unit.now + gather)


def announce(job: Job, client_id: str, unit: UnitOfWork) -> None:
    """Ask one client to take part."""
    unit.publish(
        JobAnnounced(
            client_id=client_id,
            job_id=job.job_id,
            specification=job.specification,
            noise_multiplier=job.noise_multiplier,
            start=job.start,
        ),
        correlation_id=job.job_id,
    )


async def on_job_cancelled(event: JobCancelled, unit: UnitOfWork, context: Coordination) -> None:
    """Abort the round in progress and end the job."""
    job = await unit.load(Job, event.job_id)
    if not job.active:
        raise Stale("the job has ended")
    reason = event.reason or "cancelled"
    if job.round_id:
        await abort(await unit.load(Round, job.job_id, job.round_id), f"job cancelled: {reason}", unit)
    await end(job, "cancelled", reason, unit)


async def on_gathered(event: DeadlinePassed, unit: UnitOfWork, context: Coordination) -> None:
    """Look whether there are enough clients for the next round, and look again later if not."""
    job = await unit.load(Job, *event.subject)
    if not job.active or job.round_id:
        raise Stale("nothing to gather for")
    await advance(job, unit, context)
