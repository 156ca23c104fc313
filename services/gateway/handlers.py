"""The gateway's projections: each notice changes a view and becomes a line of the job's feed."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from services.gateway import budgets, standings, state
from services.gateway.budgets import BudgetView
from services.gateway.standings import StandingView
from services.gateway.state import ClientView, JobView
from shared.errors import Stale
from shared.events import (
    BudgetRunningLow,
    ClientDeclined,
    ClientJoined,
    ClientReinstated,
    ClientSeen,
    ClientSuspended,
    Event,
    JobAccepted,
    JobEnded,
    JobRefused,
    JobWaiting,
    LedgerExtended,
    RoundAborted,
    RoundCompleted,
    RoundOpened,
    UpdateAggregated,
)
from shared.events.ids import is_single
from shared.ports import Cache, UnitOfWork

PRESENCE_TTL_S = 60.0
Handler = Callable[[Any, UnitOfWork, Cache], Awaitable[None]]


def feed_of(job_id: str) -> str:
    """The journal stream that holds the job's notices in the order in which they were handled."""
    return f"gateway/feed/{job_id}"


def presence_key(client_id: str) -> str:
    """Where the gateway remembers what a worker last said it was doing."""
    return f"gateway/activity/{client_id}"


async def note(unit: UnitOfWork, job_id: str, event: Event) -> None:
    """Add a line to the job's feed."""
    await unit.append(
        feed_of(job_id),
        {"type": event.type_name, "at": unit.now.isoformat(), "data": event.model_dump(mode="json")},
    )


async def _project(
    event: Any,  # noqa: ANN401 - any notice about a job
    unit: UnitOfWork,
    transition: Callable[[JobView], JobView],
) -> None:
    view = await unit.find(JobView, event.job_id) or JobView(job_id=event.job_id)
    await unit.save(transition(view))
    await note(unit, event.job_id, event)


async def on_job_accepted(event: JobAccepted, unit: UnitOfWork, cache: Cache) -> None:
    """The job can run."""
    await _project(event, unit, lambda view: state.accepted(view, event))


async def on_job_refused(event: JobRefused, unit: UnitOfWork, cache: Cache) -> None:
    """The job is impossible."""
    await _project(event, unit, lambda view: state.refused(view, event))


async def on_job_ended(event: JobEnded, unit: UnitOfWork, cache: Cache) -> None:
    """No more rounds."""
    await _project(event, unit, lambda view: state.ended(view, event))


async def on_round_opened(event: RoundOpened, unit: UnitOfWork, cache: Cache) -> None:
    """A cohort is training."""
    await _project(event, unit, lambda view: state.opened(view, event, unit.now))


async def on_round_completed(event: RoundCompleted, unit: UnitOfWork, cache: Cache) -> None:
    """The global adapter has moved; a rule may have judged clients."""
    await _project(event, unit, lambda view: state.completed(view, event))
    clients = sorted(event.standings)
    known = await unit.find_all(StandingView, [(event.job_id, client) for client in clients])
    views = {view.client_id: view for view in known}
    for client in clients:
        view = views.get(client) or StandingView(job_id=event.job_id, client_id=client)
        await unit.save(standings.updated(view, event.standings[client]))


async def on_client_suspended(event: ClientSuspended, unit: UnitOfWork, cache: Cache) -> None:
    """A job asks a client no more."""
    await unit.save(standings.suspended(await _standing(event.job_id, event.client_id, unit), event))
    await note(unit, event.job_id, event)


async def on_client_reinstated(event: ClientReinstated, unit: UnitOfWork, cache: Cache) -> None:
    """A job asks a client again."""
    await unit.save(standings.reinstated(await _standing(event.job_id, event.client_id, unit), event))
    await note(unit, event.job_id, event)


async def on_job_waiting(event: JobWaiting, unit: UnitOfWork, cache: Cache) -> None:
    """The next round cannot begin yet."""
    await _project(event, unit, lambda view: state.waited(view, event))


async def on_round_aborted(event: RoundAborted, unit: UnitOfWork, cache: Cache) -> None:
    """The round gave nothing."""
    if is_single(event.round_id):
        await note(unit, event.job_id, event)
        return
    await _project(event, unit, lambda view: state.aborted(view, event))


async def on_update_aggregated(event: UpdateAggregated, unit: UnitOfWork, cache: Cache) -> None:
    """The round's update is known."""
    if is_single(event.round_id):
        await note(unit, event.job_id, event)
        return
    await _project(event, unit, lambda view: state.aggregated(view, event))


async def on_ledger_extended(event: LedgerExtended, unit: UnitOfWork, cache: Cache) -> None:
    """A client's spending is one entry longer."""
    await unit.save(budgets.extended(await _budget(event.job_id, event.client_id, unit), event))
    await note(unit, event.job_id, event)


async def on_budget_running_low(event: BudgetRunningLow, unit: UnitOfWork, cache: Cache) -> None:
    """A client is near its limit."""
    await unit.save(budgets.running_low(await _budget(event.job_id, event.client_id, unit), event))
    await note(unit, event.job_id, event)


async def on_client_declined(event: ClientDeclined, unit: UnitOfWork, cache: Cache) -> None:
    """A worker takes no part, and says why."""
    if await unit.find(JobView, event.job_id) is None:
        raise Stale(f"no job {event.job_id}")
    await note(unit, event.job_id, event)


async def on_client_joined(event: ClientJoined, unit: UnitOfWork, cache: Cache) -> None:
    """A worker is there, perhaps again."""
    await unit.save(
        ClientView(
            client_id=event.client_id,
            key_sha256=hashlib.sha256(event.verify_key).hexdigest(),
            version=event.version,
            joined_at=unit.now,
        )
    )
    await cache.put(presence_key(event.client_id), "joined", PRESENCE_TTL_S)


async def on_client_seen(event: ClientSeen, unit: UnitOfWork, cache: Cache) -> None:
    """A sign of life; only the cache remembers it."""
    await cache.put(presence_key(event.client_id), event.activity or "waiting", PRESENCE_TTL_S)


async def _budget(job_id: str, client_id: str, unit: UnitOfWork) -> BudgetView:
    found = await unit.find(BudgetView, job_id, client_id)
    return found or BudgetView(job_id=job_id, client_id=client_id)


async def _standing(job_id: str, client_id: str, unit: UnitOfWork) -> StandingView:
    found = await unit.find(StandingView, job_id, client_id)
    return found or StandingView(job_id=job_id, client_id=client_id)


HANDLERS: Mapping[type[Event], Handler] = {
    JobAccepted: on_job_accepted,
    JobRefused: on_job_refused,
    JobEnded: on_job_ended,
    JobWaiting: on_job_waiting,
    ClientSuspended: on_client_suspended,
    ClientReinstated: on_client_reinstated,
    RoundOpened: on_round_opened,
    RoundCompleted: on_round_completed,
    RoundAborted: on_round_aborted,
    UpdateAggregated: on_update_aggregated,
    LedgerExtended: on_ledger_extended,
    BudgetRunningLow: on_budget_running_low,
    ClientDeclined: on_client_declined,
    ClientJoined: on_client_joined,
    ClientSeen: on_client_seen,
}
