"""Clients as they join, answer, and give signs of life."""

import asyncio

from services.coordinator import personal
from services.coordinator.beginning import advance
from services.coordinator.cohort.gathering import registered, with_declined, with_ready
from services.coordinator.context import Coordination
from services.coordinator.jobs import announce
from services.coordinator.limits import largest_delta_times_records
from services.coordinator.state import Client, Job, Seat
from shared.errors import Refused, Stale
from shared.events import ClientDeclined, ClientJoined, ClientReady, ClientSeen
from shared.ports import UnitOfWork


async def on_client_joined(event: ClientJoined, unit: UnitOfWork, context: Coordination) -> None:
    """Register the client, and ask it to take part in what is going on."""
    client = registered(await unit.find(Client, event.client_id), event, unit.now)
    await unit.save(client)
    await context.seen(event.client_id)
    for found in await unit.select(Job):
        if found.active:
            job = await unit.load(Job, *found.key)
            await unit.save(job.replace(announced=tuple(sorted({*job.announced, event.client_id}))))
            announce(job, event.client_id, unit)


async def on_client_seen(event: ClientSeen, unit: UnitOfWork, context: Coordination) -> None:
    """Refresh presence."""
    await context.seen(event.client_id, event.activity)


async def on_client_ready(event: ClientReady, unit: UnitOfWork, context: Coordination) -> None:
    """Count the client in; the first round may begin."""
    await unit.load(Client, event.client_id)
    job = await unit.load(Job, event.job_id)
    if not job.active:
        raise Stale("the job has ended")
    await context.seen(event.client_id)
    largest = await largest_delta_times_records(event.client_id, unit)
    job = await asyncio.to_thread(with_ready, job, event, largest)  # accounting takes a second when it is new
    job = await _with_budget(job, event, unit)
    await unit.save(job)
    if event.sealing_key:
        seat = Seat(
            job_id=job.job_id,
            client_id=event.client_id,
            sealing_key=event.sealing_key,
            sealing_signature=event.sealing_signature,
        )
        await unit.save(seat)
    if not job.round_id:
        await advance(job, unit, context)


async def _with_budget(job: Job, event: ClientReady, unit: UnitOfWork) -> Job:
    """The job, without the client where its owner's epsilon cannot be kept."""
    known = await unit.find(personal.OwnBudget, event.job_id, event.client_id)
    if event.client_id in job.left_out or (known is None and event.epsilon is None):
        return job
    try:
        own = await asyncio.to_thread(personal.planned, job, event.client_id, event.epsilon, known)
    except Refused as refused:
        return job.replace(left_out={**job.left_out, event.client_id: str(refused)})
    if own is not None:
        await unit.save(own)
    return job


async def on_client_declined(event: ClientDeclined, unit: UnitOfWork, context: Coordination) -> None:
    """Count the client out of the job; one round is secure aggregation's affair."""
    if event.round_id is not None:
        raise Stale("about one round")
    job = await unit.load(Job, event.job_id)
    if not job.active:
        raise Stale("the job has ended")
    job = with_declined(job, event.client_id, event.reason)
    await unit.save(job)
    if not job.round_id:
        await advance(job, unit, context)
