"""How a round starts: with the question whether its clients have budget for it."""

from collections.abc import Sequence
from datetime import timedelta

from services.coordinator import personal
from services.coordinator.cohort import selecting
from services.coordinator.cohort.pace import Pace, paces_of
from services.coordinator.context import Coordination
from services.coordinator.ending import GATHER, ROUND, publish
from services.coordinator.state import Job, Round
from shared.events import BudgetRequested
from shared.events.ids import round_id_of, single_round_id_of
from shared.events.judgements import LeftOut
from shared.ports import UnitOfWork


async def start_together(job: Job, cohort: tuple[str, ...], unit: UnitOfWork, context: Coordination) -> None:
    """One round of the whole cohort."""
    round_id = round_id_of(job.job_id, job.number + 1)
    job = await _start(job, round_id, cohort, unit, context)
    await unit.save(job.replace(round_id=round_id))
    await unit.unschedule(GATHER, job.key)


async def start_each(job: Job, candidates: Sequence[str], unit: UnitOfWork, context: Coordination) -> None:
    """A round for each client that is free, as many as there may be at once; look again later for the rest.

    Args:
        job: asynchronous, with an adapter.
        candidates: that are present.
        unit: of the event that is handled.
        context: the coordinator's.
    """
    rounds = job.specification.rounds
    free = [client for client in candidates if client not in job.running]
    known = {client: Pace(client_id=client) for client in free}
    if rounds.selection != "uniform":
        known = await paces_of(free, unit)
    most = rounds.clients_per_round
    room = None if most is None else max(0, most - len(job.running))
    weights = selecting.weights(job.specification, known)
    for client in selecting.sample(weights, room, context.random.bytes):
        round_id = single_round_id_of(job.job_id, job.number + 1)
        job = await _start(job, round_id, (client,), unit, context)
        job = job.replace(running={**job.running, client: round_id})
    await unit.save(job)
    full = most is not None and len(job.running) >= most
    if full or set(job.candidates) <= job.running.keys():
        await unit.unschedule(GATHER, job.key)
    else:
        later = unit.now + timedelta(seconds=context.settings.look_again_s)
        await unit.schedule(GATHER, job.key, later)


async def _start(
    job: Job, round_id: str, cohort: tuple[str, ...], unit: UnitOfWork, context: Coordination
) -> Job:
    """The job, unsaved, with one more round."""
    rounds, number = job.specification.rounds, job.number + 1
    deadline = unit.now + timedelta(seconds=rounds.deadline_s)
    round_ = Round(
        job_id=job.job_id,
        round_id=round_id,
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
    expires_at = deadline + timedelta(seconds=context.settings.grace_s)
    await unit.schedule(ROUND, round_.key, expires_at, trace=round_.root)
    own = await personal.budgets_of(job, cohort, unit)
    trained = own if job.purpose == "train" else {}
    publish(
        BudgetRequested(
            job_id=job.job_id,
            round_id=round_.round_id,
            clients=round_.cohort,
            mechanism=job.next_mechanism,
            mechanisms={
                **{name: personal.mechanism_of(job, one) for name, one in trained.items()},
                **{name: job.vote_again for name in cohort if name in job.charged},
            },
            epsilons={name: one.epsilon for name, one in own.items()},
            planned_rounds=rounds.count,
            epsilon=job.specification.privacy.epsilon,
            delta=job.specification.privacy.delta,
            expires_at=expires_at,
            records={name: job.records[name] for name in round_.cohort if name in job.records},
        ),
        round_,
        unit,
    )
    return job.replace(phase="running", number=number, waiting="")
