"""Rounds of one client each: an update joins a buffer, and a full buffer moves the adapter.

Source: Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from services.coordinator import buffering
from services.coordinator.adapter.moving import stepped, taken
from services.coordinator.adapter.stepping import Came
from services.coordinator.beginning import advance
from services.coordinator.buffering import Buffered
from services.coordinator.cohort.pace import remember
from services.coordinator.context import Coordination
from services.coordinator.ending import abort, end, over
from services.coordinator.state import Job, Round
from shared.errors import Stale
from shared.events import RoundCompleted, UpdateAggregated
from shared.events.ids import round_id_of
from shared.events.judgements import LeftOut
from shared.job.plan import weight_of
from shared.ports import UnitOfWork


async def on_update(
    job: Job, round_: Round, event: UpdateAggregated, unit: UnitOfWork, context: Coordination
) -> None:
    """Buffer the update; move the adapter where there are enough; the client is free again."""
    [client] = round_.cohort
    if round_.completed is None:
        raise Stale("nobody was started")
    await over(round_.replace(phase="completed"), "completed", "", unit, (client,))
    attributes = {"job_id": job.job_id, "round_id": round_.round_id, "outcome": "buffered"}
    context.telemetry.export_root(round_.root, "round", round_.started_at, unit.now, attributes)
    if job.specification.rounds.selection != "uniform":
        await remember([client], event.seconds, unit)
    job = _freed(job, client, misses=0)
    latest = Buffered(
        job_id=job.job_id,
        round_id=round_.round_id,
        number=round_.number,
        client_id=client,
        update=event.update,
        weight=weight_of(job.specification, job.records.get(client, 1)),
        completed=round_.completed,
        uploaded_bytes=event.uploaded_bytes,
        started_at=round_.started_at,
    )
    others = [one for one in await unit.select(Buffered, job.job_id) if one.key != latest.key]
    if len(others) + 1 < job.specification.rounds.buffer:
        await unit.save(latest)
        await unit.save(job)
        await advance(job, unit, context)
        return
    buffered = sorted((*others, latest), key=lambda one: one.number)
    job = await _move(job, buffered, round_.local_steps, unit, context)
    for one in others:
        await unit.delete(one)
    if job.finished:
        await end(job, "completed", "all rounds are done", unit)
        return
    await unit.save(job)
    await advance(job, unit, context)


async def on_refused(
    job: Job, round_: Round, refused: Sequence[LeftOut], unit: UnitOfWork, context: Coordination
) -> None:
    """Ask the client no more: its budget is spent."""
    [client] = round_.cohort
    reason = next((one.reason for one in refused if one.client_id == client), "no privacy budget is left")
    await abort(round_, reason, unit)
    job = _freed(job, client).replace(spent={**job.spent, client: reason})
    await _go_on(job, reason, unit, context)


async def on_failed(job: Job, round_: Round, reason: str, unit: UnitOfWork, context: Coordination) -> None:
    """Ask the client again, unless that has failed too often in a row."""
    [client] = round_.cohort
    await abort(round_, reason, unit)
    if job.specification.rounds.selection != "uniform":
        await remember([client], {}, unit)
    job = _freed(job, client, misses=job.misses.get(client, 0) + 1)
    await _go_on(job, reason, unit, context)


async def _go_on(job: Job, latest: str, unit: UnitOfWork, context: Coordination) -> None:
    """The next rounds, or the end where too few clients can go on."""
    wanted = job.specification.rounds.min_clients
    left = len(job.candidates)
    if left >= wanted or not {*job.spent, *job.unreliable}:
        await unit.save(job)
        await advance(job, unit, context)
        return
    by_budget = left + len(job.spent) >= wanted
    why = "too few clients have privacy budget left" if by_budget else "the rounds of too many clients failed"
    await end(job, "budget-exhausted" if by_budget else "failed", f"{why}; the last: {latest}", unit)


def _freed(job: Job, client: str, *, misses: int | None = None) -> Job:
    running = {name: round_id for name, round_id in job.running.items() if name != client}
    if misses is None:
        return job.replace(running=running)
    return job.replace(running=running, misses={**job.misses, client: misses})


async def _move(
    job: Job, buffered: Sequence[Buffered], local_steps: int, unit: UnitOfWork, context: Coordination
) -> Job:
    """The job, unsaved, after the step of its adapter that the buffered updates make."""
    parts = buffering.shares(buffered, job.completed)
    updates = [await context.blobs.get(one.update) for one in buffered]
    mean = buffering.mean(updates, parts)
    weights: dict[str, float] = defaultdict(float)
    for one, part in zip(buffered, parts, strict=True):
        weights[one.client_id] += part
    came = Came(
        update=mean.astype("<f4").tobytes(),
        weights=dict(weights),
        ranks={},
        records=job.records,
        clients=len(job.ready),
        steps=local_steps,
        noise_multiplier=job.noise_multiplier,
        buffered=[(one.client_id, part) for one, part in zip(buffered, parts, strict=True)],
    )
    number = job.completed + 1
    round_id = round_id_of(job.job_id, number)
    moved = await stepped(job, round_id, came, context)
    norm = float(np.linalg.norm(mean.astype(np.float64)))
    completed = RoundCompleted(
        job_id=job.job_id,
        round_id=round_id,
        number=number,
        local_steps=local_steps,
        uploaded_bytes=sum(one.uploaded_bytes for one in buffered),
        adapter=moved.adapter,
        base=moved.base,
        contributors=tuple(sorted(weights)),
        records={client: job.records[client] for client in sorted(weights) if client in job.records},
        rule=job.specification.aggregation.robust,
        weights=dict(sorted(weights.items())),
        left_out=tuple(LeftOut(client_id=name, reason=why) for name, why in sorted(job.excluded.items())),
        update_norm=norm,
        started_at=min(one.started_at for one in buffered),
        completed_at=unit.now,
        root=context.telemetry.new_root(),
    )
    unit.publish(completed, correlation_id=round_id, trace=completed.root)
    return taken(moved, local_steps, norm)
