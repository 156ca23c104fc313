"""How a round or a job ends, and who is told."""

from collections.abc import Collection

from services.coordinator.buffering import Buffered
from services.coordinator.state import Job, Outcome, Round
from shared.events import Event, JobClosed, JobEnded, RoundAborted, RoundClosed
from shared.ports import UnitOfWork

GATHER, ROUND = "gather", "round"  # deadlines


async def abort(round_: Round, reason: str, unit: UnitOfWork) -> None:
    """End a round without an update."""
    await over(round_.replace(phase="aborted"), "aborted", reason, unit)
    aborted = RoundAborted(
        job_id=round_.job_id,
        round_id=round_.round_id,
        number=round_.number,
        reason=reason,
        started_at=round_.started_at,
        aborted_at=unit.now,
        root=round_.root,
    )
    publish(aborted, round_, unit)


async def end(job: Job, outcome: Outcome, reason: str, unit: UnitOfWork) -> None:
    """No more rounds; those that clients run alone are aborted, and what is buffered is forgotten."""
    for round_id in sorted(job.running.values()):
        await abort(await unit.load(Round, job.job_id, round_id), f"job {outcome}: {reason}", unit)
    for waiting in await unit.select(Buffered, job.job_id):
        await unit.delete(waiting)
    await unit.save(job.replace(phase="ended", round_id="", running={}))
    await unit.unschedule(GATHER, job.key)
    ended = JobEnded(
        job_id=job.job_id,
        outcome=outcome,
        reason=reason,
        rounds_completed=job.completed,
        adapter=job.adapter if job.completed else None,
        base=job.base,
        layout=job.layout,
        ended_at=unit.now,
    )
    unit.publish(ended, correlation_id=job.job_id)
    for client_id in sorted({*job.announced, *job.ready}):
        closed = JobClosed(client_id=client_id, job_id=job.job_id, outcome=outcome, reason=reason)
        unit.publish(closed, correlation_id=job.job_id)


async def over(
    round_: Round, outcome: str, reason: str, unit: UnitOfWork, counted: Collection[str] = ()
) -> None:
    """Save a round that has ended, and tell its clients, and those whose update counts that it does."""
    await unit.save(round_)
    await unit.unschedule(ROUND, round_.key)
    for reservation in round_.reservations:
        closed = RoundClosed.model_validate(
            {
                "client_id": reservation.client_id,
                "job_id": round_.job_id,
                "round_id": round_.round_id,
                "outcome": outcome,
                "counted": reservation.client_id in counted,
                "reason": reason,
            }
        )
        publish(closed, round_, unit)


def publish(event: Event, round_: Round, unit: UnitOfWork) -> None:
    """Within the round's trace, whatever was being handled."""
    unit.publish(event, correlation_id=round_.round_id, trace=round_.root)
