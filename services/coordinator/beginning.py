"""How the next round begins, or what it waits for."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from services.coordinator.adapter import initial as adapters
from services.coordinator.cohort import selecting
from services.coordinator.cohort.gathering import agreed, gathered, hopeless
from services.coordinator.cohort.pace import paces_of
from services.coordinator.context import Coordination
from services.coordinator.ending import GATHER, end
from services.coordinator.starting import start_each, start_together
from services.coordinator.state import Client, Job
from shared.events import JobWaiting
from shared.job.refusals.cohort import cohort_refusals
from shared.ports import UnitOfWork
from shared.sessions.contents import Contents

log = structlog.get_logger()


async def advance(job: Job, unit: UnitOfWork, context: Coordination) -> None:
    """Begin the next round if enough clients are ready and present; otherwise look again later."""
    if reason := hopeless(job):
        await end(job, "failed", reason, unit)
        return
    everyone = context.settings.gather_everyone
    if job.phase == "gathering" and not gathered(job, unit.now, everyone):
        over = (unit.now - job.accepted_at).total_seconds() >= job.specification.rounds.gather_s
        await _look_again(job, awaited(job, job.candidates) if over else "", unit, context)
        return
    job = agreed(job)
    known = [client for client in await unit.select(Client) if client.client_id in job.ready]
    present = await context.present(known, unit.now)
    candidates = [client for client in job.candidates if client in present]
    rounds = job.specification.rounds
    reason = awaited(job, candidates)
    if reason and job.purpose == "evaluate":  # nobody waits for an evaluation
        job = job.replace(evaluated=job.progress)
        if job.finished:
            await end(job, "completed", "all rounds are done", unit)
            return
    layout = job.layout
    if layout is None or reason:
        await _look_again(job, reason, unit, context)
        return
    if job.adapter is None:
        start = await context.blobs.get(job.start) if job.start else b""
        first = adapters.initial(job.specification, layout, start)
        job = job.replace(adapter=await context.blobs.put(first))
    if rounds.asynchronous:
        await start_each(job, candidates, unit, context)
        return
    paces = {} if rounds.selection == "uniform" else await paces_of(candidates, unit)
    cohort = selecting.cohort(job.specification, candidates, paces, context.random.bytes)
    contents = Contents.of(job.specification, layout, job.completed, "")
    refused = await asyncio.to_thread(cohort_refusals, job.specification, len(cohort), contents.uploaded)
    if refused:
        await end(job, "failed", f"a cohort of {len(cohort)} cannot be summed: {refused[0]}", unit)
        return
    await start_together(job, cohort, unit, context)


def awaited(job: Job, candidates: Sequence[str]) -> str:
    """What the next round waits for; empty when it can begin.

    Args:
        job: with its layout, if there is one already.
        candidates: those that are present.
    """
    wanted, root = job.specification.rounds.min_clients, job.specification.aggregation.root
    if len(candidates) < wanted:
        reason = f"{len(candidates)} clients are ready and present, {wanted} are needed"
        return reason + (f"; suspended: {', '.join(sorted(job.suspended))}" if job.suspended else "")
    if job.layout is None:
        return "no adapter layout is that of most clients"
    if root is not None and root not in candidates:
        why = job.excluded.get(root) or ("it is not present" if root in job.ready else "it is not ready")
        return f"no round without {root}, by whose update the others are measured: {why}"
    return ""


async def _look_again(job: Job, reason: str, unit: UnitOfWork, context: Coordination) -> None:
    if reason and reason != job.waiting:
        log.info("waiting", job_id=job.job_id, reason=reason)
        number = 1 + (job.completed if job.specification.rounds.asynchronous else job.number)
        waiting = JobWaiting(job_id=job.job_id, number=number, reason=reason, since=unit.now)
        unit.publish(waiting, correlation_id=job.job_id)
    await unit.save(job.replace(waiting=reason))
    gather_until = job.accepted_at + timedelta(seconds=job.specification.rounds.gather_s)
    later = unit.now + timedelta(seconds=context.settings.look_again_s)
    await unit.schedule(GATHER, job.key, gather_until if gather_until > unit.now else later)
