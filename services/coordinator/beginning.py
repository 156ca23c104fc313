"""How the next round begins, or what it waits for."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from services.coordinator import adapter as adapters
from services.coordinator import selecting
from services.coordinator.context import Coordination
from services.coordinator.ending import GATHER, ROUND, end, publish
from services.coordinator.gathering import agreed, gathered, hopeless
from services.coordinator.pace import paces_of
from services.coordinator.state import Client, Job, Round
from shared.events import BudgetRequested, JobWaiting
from shared.events.ids import round_id_of
from shared.events.judgements import LeftOut
from shared.job.refusals_cohort import cohort_refusals
from shared.ports import UnitOfWork
from shared.sessions.contents import Contents

log = structlog.get_logger()


async def advance(job: Job, unit: UnitOfWork, context: Coordination) -> None:
    """Begin the next round if enough clients are ready and present; otherwise look again later."""
    if reason := hopeless(job):
        await end(job, "failed", reason, unit)
        return
    if job.phase == "gathering" and not gathered(job, unit.now):
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
    if job.layout is None or reason:
        await _look_again(job, reason, unit, context)
        return
    paces = {} if rounds.selection == "uniform" else await paces_of(candidates, unit)
    cohort = selecting.cohort(job.specification, candidates, paces, context.random.bytes)
    contents = Contents.of(job.specification, job.layout, job.completed, "")
    refused = await asyncio.to_thread(cohort_refusals, job.specification, len(cohort), contents.uploaded)
    if refused:
        await end(job, "failed", f"a cohort of {len(cohort)} cannot be summed: {refused[0]}", unit)
        return
    if job.adapter is None:
        start = await context.blobs.get(job.start) if job.start else b""
        first = adapters.initial(job.specification, job.layout, start)
        job = job.replace(adapter=await context.blobs.put(first))
    number = job.number + 1
    deadline = unit.now + timedelta(seconds=rounds.deadline_s)
    round_ = Round(
        job_id=job.job_id,
        round_id=round_id_of(job.job_id, number),
        number=number,
        cohort=cohort,
        root=context.telemetry.new_root(),
        started_at=unit.now,
        deadline=deadline,
        purpose=job.purpose,
        local_steps=job.next_steps if job.purpose == "train" else 0,
        left_out=tuple(LeftOut(client_id=name, reason=why) for name, why in sorted(job.excluded.items())),
    )
    await unit.save(round_)
    await unit.save(job.replace(phase="running", number=number, round_id=round_.round_id, waiting=""))
    await unit.unschedule(GATHER, job.key)
    expires_at = deadline + timedelta(seconds=context.settings.grace_s)
    await unit.schedule(ROUND, round_.key, expires_at, trace=round_.root)
    publish(
        BudgetRequested(
            job_id=job.job_id,
            round_id=round_.round_id,
            clients=round_.cohort,
            mechanism=job.next_mechanism,
            planned_rounds=rounds.count,
            epsilon=job.specification.privacy.epsilon,
            delta=job.specification.privacy.delta,
            expires_at=expires_at,
            records={name: job.records[name] for name in round_.cohort if name in job.records},
        ),
        round_,
        unit,
    )


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
        waiting = JobWaiting(job_id=job.job_id, number=job.number + 1, reason=reason, since=unit.now)
        unit.publish(waiting, correlation_id=job.job_id)
    await unit.save(job.replace(waiting=reason))
    gather_until = job.accepted_at + timedelta(seconds=job.specification.rounds.gather_s)
    later = unit.now + timedelta(seconds=context.settings.look_again_s)
    await unit.schedule(GATHER, job.key, gather_until if gather_until > unit.now else later)
