"""The adapter's step by a round's update, and what is said of it."""

import asyncio

from services.coordinator.adapter import combining, stepping
from services.coordinator.adapter.stepping import Came, Stand
from services.coordinator.cohort.pace import remember
from services.coordinator.cohort.suspending import after_judging
from services.coordinator.context import Coordination
from services.coordinator.ending import over, publish
from services.coordinator.state import Job, Round
from shared.core.lora.methods import METHODS
from shared.errors import Rejected, Stale
from shared.events import RoundCompleted, UpdateAggregated
from shared.events.values import BlobRef
from shared.ports import UnitOfWork
from shared.sessions.contents import Contents


async def move(
    job: Job, round_: Round, event: UpdateAggregated, unit: UnitOfWork, context: Coordination
) -> Job:
    """The job once its adapter has moved; the round is over, and said to be.

    Raises: Rejected for an update that is not the round's.
    """
    if job.layout is None or job.adapter is None:
        raise Stale("the job has no adapter")
    moved = await _moved(job, round_, event, context)
    if job.specification.rounds.selection != "uniform":
        await remember([one.client_id for one in round_.reservations], event.seconds, unit)
    counted = tuple(sorted(client for client, weight in event.weights.items() if weight))
    await over(round_.replace(phase="completed"), "completed", "", unit, counted)
    moved, standings = await after_judging(moved, round_, event, unit)
    completed = RoundCompleted(
        job_id=job.job_id,
        round_id=round_.round_id,
        number=round_.number,
        local_steps=round_.local_steps,
        uploaded_bytes=event.uploaded_bytes,
        adapter=moved.adapter or job.adapter,
        base=moved.base,
        contributors=counted,
        records={client: job.records[client] for client in counted if client in job.records},
        rule=job.specification.aggregation.robust,
        weights=event.weights,
        left_out=(*round_.left_out, *event.left_out),
        findings=event.findings,
        groups=round_.groups if len(round_.groups) > 1 else {},
        standings=standings,
        update_norm=event.update_norm,
        started_at=round_.started_at,
        completed_at=unit.now,
        root=round_.root,
    )
    publish(completed, round_, unit)
    return taken(moved, round_.local_steps, event.update_norm).replace(round_id="")


def taken(moved: Job, local_steps: int, update_norm: float) -> Job:
    """The job with one more step of its adapter, after so many local ones."""
    pace = update_norm / max(1, local_steps)
    return moved.replace(
        completed=moved.completed + 1,
        steps=moved.steps + local_steps,
        first_pace=moved.first_pace or pace,
        pace=pace,
        failures=0,
    )


async def control_of(job: Job, context: Coordination) -> BlobRef | None:
    """What clients correct their steps by, for SCAFFOLD alone."""
    if job.specification.server.optimizer != "scaffold" or job.layout is None:
        return None
    state = await context.blobs.get(job.optimiser) if job.optimiser else b""
    control = stepping.control_of(job.specification, job.layout, state)
    return await context.blobs.put(control.astype("<f8").tobytes())


async def _moved(job: Job, round_: Round, event: UpdateAggregated, context: Coordination) -> Job:
    if job.layout is None or job.adapter is None:
        raise Stale("the job has no adapter")
    specification, blobs = job.specification, context.blobs
    one_by_one = not METHODS[specification.lora.method].linear
    given = event.updates if one_by_one else event.update
    if given is None:
        raise Rejected("single updates were to be kept, and were not")
    came = Came(
        update=await blobs.get(given),
        weights=event.weights,
        ranks=job.ranks,
        records=job.records,
        clients=len(job.ready),
        steps=round_.local_steps,
        noise_multiplier=job.noise_multiplier,
    )
    if one_by_one:
        known = await blobs.get(job.adapter), await blobs.get(job.base) if job.base else b""
        after, base = await asyncio.to_thread(combining.combined, specification, job.layout, came, known)
        return job.replace(adapter=await blobs.put(after), base=await blobs.put(base) if base else None)
    return await stepped(job, round_.round_id, came, context)


async def stepped(job: Job, round_id: str, came: Came, context: Coordination) -> Job:
    """The job with the adapter and the optimiser's state after a round's mean update.

    Raises: Rejected for an update that is not the round's, or an adapter that would not be finite.
    """
    if job.layout is None or job.adapter is None:
        raise Stale("the job has no adapter")
    specification, blobs = job.specification, context.blobs
    optimiser = await blobs.get(job.optimiser) if job.optimiser else b""
    before = Stand(await blobs.get(job.adapter), optimiser)
    contents = Contents.of(specification, job.layout, job.completed, round_id)
    stand = await asyncio.to_thread(stepping.stepped, specification, job.layout, contents, came, before)
    kept = await blobs.put(stand.optimiser) if stand.optimiser else None
    return job.replace(adapter=await blobs.put(stand.adapter), optimiser=kept)
