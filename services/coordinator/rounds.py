"""A round from its cohort to the adapter's step, and what follows it."""

import asyncio
from datetime import timedelta

from services.coordinator import adapter as adapters
from services.coordinator.context import Coordination
from services.coordinator.ending import GATHER, ROUND, abort, end, over, publish
from services.coordinator.members import members_of
from services.coordinator.state import (
    Client,
    Job,
    Round,
    agreed,
    gathered,
    grouped,
    hopeless,
)
from shared.errors import Stale
from shared.events import (
    BudgetRefused,
    BudgetRequested,
    BudgetReserved,
    DeadlinePassed,
    GroupFailed,
    RoundAborted,
    RoundCompleted,
    RoundOpened,
    RoundStarted,
    SessionOpened,
    SessionRequested,
    UpdateAggregated,
)
from shared.events.ids import round_id_of
from shared.events.values import LeftOut, SessionPlan
from shared.job.refusals_cohort import cohort_refusals
from shared.ports import UnitOfWork


async def advance(job: Job, unit: UnitOfWork, context: Coordination) -> None:
    """Begin the next round if enough clients are ready and present; otherwise look again later."""
    if reason := hopeless(job):
        await end(job, "failed", reason, unit)
        return
    if job.phase == "gathering" and not gathered(job, unit.now):
        await _look_again(job, unit, context)
        return
    job = agreed(job)
    known = [client for client in await unit.select(Client) if client.client_id in job.ready]
    present = await context.present(known, unit.now)
    candidates = [client for client in job.candidates if client in present]
    rounds = job.specification.rounds
    if job.layout is None or len(candidates) < rounds.min_clients:
        await _look_again(job, unit, context)
        return
    cohort = context.sample(candidates, rounds.clients_per_round)
    refused = await asyncio.to_thread(cohort_refusals, job.specification, len(cohort), job.layout.dimension)
    if refused:
        await end(job, "failed", f"a cohort of {len(cohort)} cannot be summed: {refused[0]}", unit)
        return
    if job.adapter is None:
        job = job.replace(adapter=await context.blobs.put(adapters.initial(job.specification, job.layout)))
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
        left_out=tuple(
            LeftOut(client_id=name, reason=why)
            for name, why in sorted({**job.left_out, **job.faulty}.items())
        ),
    )
    await unit.save(round_)
    await unit.save(job.replace(phase="running", number=number, round_id=round_.round_id))
    await unit.unschedule(GATHER, job.key)
    expires_at = deadline + timedelta(seconds=context.settings.grace_s)
    await unit.schedule(ROUND, round_.key, expires_at, trace=round_.root)
    publish(
        BudgetRequested(
            job_id=job.job_id,
            round_id=round_.round_id,
            clients=round_.cohort,
            mechanism=job.mechanism,
            planned_rounds=rounds.count,
            epsilon=job.specification.privacy.epsilon,
            delta=job.specification.privacy.delta,
            expires_at=expires_at,
            records={name: job.records[name] for name in round_.cohort if name in job.records},
        ),
        round_,
        unit,
    )


async def on_budget_reserved(event: BudgetReserved, unit: UnitOfWork, context: Coordination) -> None:
    """Ask for a session with those who may spend."""
    round_ = await _current(event.job_id, event.round_id, unit)
    if round_.phase != "budgeting":
        raise Stale("the budget is reserved")
    job = await unit.load(Job, event.job_id)
    round_ = round_.replace(
        reservations=event.reservations, left_out=(*round_.left_out, *event.refused), phase="opening"
    )
    min_clients = job.specification.rounds.min_clients
    if len(event.reservations) < min_clients:
        await _exhausted(job, round_, event.refused, unit)
        return
    layout = job.layout
    if layout is None:
        raise Stale("the job has no layout")
    shuffled = context.shuffled([item.client_id for item in event.reservations])
    groups = grouped(round_.round_id, shuffled, job.specification.aggregation.group_size)
    members = await members_of(groups, job, unit)
    round_ = round_.replace(groups=groups)
    await unit.save(round_)
    for group_id, group in groups.items():
        requested = SessionRequested(
            job_id=job.job_id,
            round_id=round_.round_id,
            group_id=group_id,
            groups=len(groups),
            members={client: members[client] for client in sorted(group) if client in members},
            plan=SessionPlan.of(job.specification, job.noise_multiplier),
            layout_sha256=layout.sha256,
            dimension=layout.dimension,
            deadline=round_.deadline,
        )
        publish(requested, round_, unit)


async def on_budget_refused(event: BudgetRefused, unit: UnitOfWork, context: Coordination) -> None:
    """Nobody may spend: the job is over."""
    round_ = await _current(event.job_id, event.round_id, unit)
    if round_.phase != "budgeting":
        raise Stale("the budget is reserved")
    await _exhausted(await unit.load(Job, event.job_id), round_, event.refused, unit)


async def on_session_opened(event: SessionOpened, unit: UnitOfWork, context: Coordination) -> None:
    """Start the group's clients."""
    round_ = await _current(event.job_id, event.round_id, unit)
    if event.group_id in round_.started or event.group_id not in round_.groups:
        raise Stale("the clients were started")
    job = await unit.load(Job, event.job_id)
    if job.layout is None or job.adapter is None:
        raise Stale("the job has no adapter")
    first = not round_.started
    round_ = round_.replace(phase="training", started=(*round_.started, event.group_id))
    await unit.save(round_)
    group = set(round_.groups[event.group_id])
    for reservation in round_.reservations:
        if reservation.client_id not in group:
            continue
        publish(
            RoundStarted(
                client_id=reservation.client_id,
                job_id=job.job_id,
                round_id=round_.round_id,
                group_id=event.group_id,
                number=round_.number,
                adapter=job.adapter,
                layout_sha256=job.layout.sha256,
                reservation=reservation,
                terms=event.terms,
                deadline=round_.deadline,
            ),
            round_,
            unit,
        )
    if not first:
        return
    opened = RoundOpened(
        job_id=job.job_id,
        round_id=round_.round_id,
        number=round_.number,
        cohort=tuple(reservation.client_id for reservation in round_.reservations),
        left_out=round_.left_out,
        deadline=round_.deadline,
    )
    publish(opened, round_, unit)


async def on_update_aggregated(event: UpdateAggregated, unit: UnitOfWork, context: Coordination) -> None:
    """Move the global adapter; the next round begins, or the job ends."""
    round_ = await _current(event.job_id, event.round_id, unit)
    job = await unit.load(Job, event.job_id)
    if job.layout is None or job.adapter is None:
        raise Stale("the job has no adapter")
    wanted = job.specification.rounds.min_clients
    if len(event.weights) < wanted:
        await _retry(round_, f"{len(event.weights)} updates came, {wanted} are needed", unit, context)
        return
    before, update = await context.blobs.get(job.adapter), await context.blobs.get(event.update)
    rate = job.specification.aggregation.server_learning_rate
    adapter = await context.blobs.put(adapters.moved(before, update, job.layout, rate))
    await over(round_.replace(phase="completed"), "completed", "", unit)
    completed = RoundCompleted(
        job_id=job.job_id,
        round_id=round_.round_id,
        number=round_.number,
        adapter=adapter,
        contributors=tuple(sorted(event.weights)),
        left_out=(*round_.left_out, *event.left_out),
        update_norm=event.update_norm,
        started_at=round_.started_at,
        completed_at=unit.now,
        root=round_.root,
    )
    publish(completed, round_, unit)
    job = job.replace(adapter=adapter, completed=job.completed + 1, failures=0, round_id="")
    if job.completed >= job.specification.rounds.count:
        await end(job, "completed", "all rounds are done", unit)
        return
    await unit.save(job)
    await advance(job, unit, context)


async def on_group_failed(event: GroupFailed, unit: UnitOfWork, context: Coordination) -> None:
    """Leave the faulty out from now on. When no group is left, try again with a new round."""
    round_ = await _current(event.job_id, event.round_id, unit)
    job = await unit.load(Job, event.job_id)
    if event.faulty:
        reasons = dict.fromkeys(event.faulty, f"named as faulty in {event.round_id}")
        await unit.save(job.replace(faulty={**job.faulty, **reasons}))
    round_ = round_.replace(failed={**round_.failed, event.group_id: event.reason})
    await unit.save(round_)
    if round_.failed.keys() >= round_.groups.keys():
        await _retry(round_, event.reason, unit, context, counted=not event.faulty)


async def on_round_deadline(event: DeadlinePassed, unit: UnitOfWork, context: Coordination) -> None:
    """Give a round up whose aggregate did not come in time."""
    job_id, round_id = event.subject
    round_ = await _current(job_id, round_id, unit)
    await _retry(round_, f"no aggregate by the deadline (the round was {round_.phase})", unit, context)


async def on_round_completed(event: RoundCompleted, unit: UnitOfWork, context: Coordination) -> None:
    """Export the round's root span: again after a crash, never not at all."""
    attributes = {"job_id": event.job_id, "round_id": event.round_id, "outcome": "completed"}
    context.telemetry.export_root(event.root, "round", event.started_at, event.completed_at, attributes)


async def on_round_aborted(event: RoundAborted, unit: UnitOfWork, context: Coordination) -> None:
    """Export the round's root span."""
    attributes = {"job_id": event.job_id, "round_id": event.round_id, "outcome": "aborted"}
    context.telemetry.export_root(event.root, "round", event.started_at, event.aborted_at, attributes)


async def _current(job_id: str, round_id: str, unit: UnitOfWork) -> Round:
    # The job first: every handler locks in this order.
    await unit.load(Job, job_id)
    round_ = await unit.load(Round, job_id, round_id)
    if round_.over:
        raise Stale(f"the round is {round_.phase}")
    return round_


async def _retry(
    round_: Round, reason: str, unit: UnitOfWork, context: Coordination, *, counted: bool = True
) -> None:
    """A new round. One that failed by clients who are left out from now on is not `counted`: there are only
    so many of them."""
    await abort(round_, reason, unit)
    job = await unit.load(Job, round_.job_id)
    job = job.replace(round_id="", failures=job.failures + counted)
    retries = job.specification.rounds.retries
    if job.failures > retries:
        await end(job, "failed", f"{job.failures} rounds failed in a row; the last: {reason}", unit)
        return
    await unit.save(job)
    await advance(job, unit, context)


async def _exhausted(job: Job, round_: Round, refused: tuple[LeftOut, ...], unit: UnitOfWork) -> None:
    reason = "too few clients have privacy budget left"
    if refused:
        reason += f"; {refused[0].client_id}: {refused[0].reason}"
    await abort(round_, reason, unit)
    await end(job, "budget-exhausted", reason, unit)


async def _look_again(job: Job, unit: UnitOfWork, context: Coordination) -> None:
    await unit.save(job)
    gather_until = job.accepted_at + timedelta(seconds=job.specification.rounds.gather_s)
    later = unit.now + timedelta(seconds=context.settings.look_again_s)
    await unit.schedule(GATHER, job.key, gather_until if gather_until > unit.now else later)
