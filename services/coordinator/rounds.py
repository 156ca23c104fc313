"""A round from its budget to the adapter's step, and what follows it."""

from services.coordinator import asynchronous, evaluating
from services.coordinator.adapter.moving import control_of, move
from services.coordinator.beginning import advance
from services.coordinator.cohort import selecting
from services.coordinator.cohort.members import members_of
from services.coordinator.context import Coordination
from services.coordinator.ending import abort, end, publish
from services.coordinator.state import Job, Round, grouped
from shared.errors import Stale
from shared.events import (
    BudgetRefused,
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
from shared.events.judgements import LeftOut
from shared.events.plans import SessionPlan
from shared.ports import UnitOfWork
from shared.sessions.contents import Contents


async def on_budget_reserved(event: BudgetReserved, unit: UnitOfWork, context: Coordination) -> None:
    """Ask for a session with those who may spend."""
    round_ = await _current(event.job_id, event.round_id, unit)
    if round_.phase != "budgeting":
        raise Stale("the budget is reserved")
    job = await unit.load(Job, event.job_id)
    round_ = round_.replace(
        reservations=event.reservations, left_out=(*round_.left_out, *event.refused), phase="opening"
    )
    if round_.purpose == "evaluate":
        await evaluating.on_reserved(job, round_, unit, context)
        return
    rounds = job.specification.rounds
    if len(event.reservations) < (1 if rounds.asynchronous else rounds.min_clients):
        await _exhausted(job, round_, event.refused, unit)
        return
    root = job.specification.aggregation.root
    if root is not None and root not in {item.client_id for item in event.reservations}:
        why = next((item.reason for item in event.refused if item.client_id == root), "not reserved")
        await _ended_by_budget(round_, f"no round without the update of {root}: {why}", job, unit)
        return
    layout = job.layout
    if layout is None:
        raise Stale("the job has no layout")
    shuffled = context.shuffled([item.client_id for item in event.reservations])
    groups = grouped(round_.round_id, shuffled, job.specification.aggregation.group_size)
    contents = Contents.of(job.specification, layout, job.completed, round_.round_id)
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
            dimension=contents.uploaded,
            enough=selecting.enough(job.specification, len(group), len(event.reservations)),
            deadline=round_.deadline,
        )
        publish(requested, round_, unit)


async def on_budget_refused(event: BudgetRefused, unit: UnitOfWork, context: Coordination) -> None:
    """Nobody may spend: the job is over."""
    round_ = await _current(event.job_id, event.round_id, unit)
    if round_.phase != "budgeting":
        raise Stale("the budget is reserved")
    if round_.purpose == "evaluate":
        await evaluating.skip(round_, "no client has budget for an evaluation", unit, context)
        return
    job = await unit.load(Job, event.job_id)
    if job.specification.rounds.asynchronous:
        await asynchronous.on_refused(job, round_, event.refused, unit, context)
        return
    await _exhausted(job, round_, event.refused, unit)


async def on_session_opened(event: SessionOpened, unit: UnitOfWork, context: Coordination) -> None:
    """Start the group's clients."""
    round_ = await _current(event.job_id, event.round_id, unit)
    if event.group_id in round_.started or event.group_id not in round_.groups:
        raise Stale("the clients were started")
    job = await unit.load(Job, event.job_id)
    if job.layout is None or job.adapter is None:
        raise Stale("the job has no adapter")
    control = await control_of(job, context) if round_.purpose == "train" else None
    first = not round_.started
    started = (*round_.started, event.group_id)
    round_ = round_.replace(phase="training", started=started, completed=job.completed)
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
                kind=round_.purpose,
                completed=job.completed,
                adapter=job.adapter,
                base=job.base,
                control=control,
                layout_sha256=job.layout.sha256,
                reservation=reservation,
                terms=event.terms,
                deadline=round_.deadline,
            ),
            round_,
            unit,
        )
    if not first or job.specification.rounds.asynchronous:
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
    if round_.purpose == "evaluate":
        await evaluating.on_sum(job, round_, event, unit, context)
        return
    if job.specification.rounds.asynchronous:
        await asynchronous.on_update(job, round_, event, unit, context)
        return
    aggregation, wanted = job.specification.aggregation, job.specification.rounds.min_clients
    came = len(event.weights) + (aggregation.root is not None)  # whose update came, or nobody were judged
    if came < wanted:
        await _retry(round_, f"{came} updates came, {wanted} are needed", unit, context)
        return
    job = await move(job, round_, event, unit, context)
    await evaluating.go_on(job, unit, context)


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
    out = {client for client, weight in event.weights.items() if not weight}
    out |= {item.client_id for item in event.left_out if item.sent_wrong}
    attributes = {
        "job_id": event.job_id,
        "round_id": event.round_id,
        "outcome": "completed",
        "rule": event.rule,
        "judged": len(event.weights),
        "left_out_count": len(out),
        "left_out": sorted(out),
    }
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
    if round_.purpose == "evaluate":
        await evaluating.skip(round_, reason, unit, context)
        return
    job = await unit.load(Job, round_.job_id)
    if job.specification.rounds.asynchronous:
        await asynchronous.on_failed(job, round_, reason, unit, context)
        return
    await abort(round_, reason, unit)
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
    await _ended_by_budget(round_, reason, job, unit)


async def _ended_by_budget(round_: Round, reason: str, job: Job, unit: UnitOfWork) -> None:
    await abort(round_, reason, unit)
    await end(job, "budget-exhausted", reason, unit)
