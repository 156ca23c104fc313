"""The coordinator's table: which function handles which event."""

from services.coordinator import clients, jobs, limits, rounds
from services.coordinator.cohort import suspending
from services.coordinator.context import Coordination
from services.coordinator.ending import GATHER, ROUND
from shared.errors import Rejected
from shared.events import (
    BudgetRefused,
    BudgetReserved,
    ClientDeclined,
    ClientJoined,
    ClientReady,
    ClientSeen,
    DeadlinePassed,
    GroupFailed,
    JobCancelled,
    JobSubmitted,
    LimitRaised,
    ReinstatementRequested,
    RoundAborted,
    RoundCompleted,
    SessionOpened,
    SuspensionRequested,
    UpdateAggregated,
)
from shared.ports import UnitOfWork
from shared.service import Handlers

DEADLINES = {GATHER: jobs.on_gathered, ROUND: rounds.on_round_deadline}


async def on_deadline_passed(event: DeadlinePassed, unit: UnitOfWork, context: Coordination) -> None:
    """Hand a deadline to whoever set it."""
    if event.name not in DEADLINES:
        raise Rejected(f"nobody sets the deadline {event.name}")
    await DEADLINES[event.name](event, unit, context)


HANDLERS: Handlers[Coordination] = {
    JobSubmitted: jobs.on_job_submitted,
    JobCancelled: jobs.on_job_cancelled,
    ClientJoined: clients.on_client_joined,
    ClientSeen: clients.on_client_seen,
    ClientReady: clients.on_client_ready,
    ClientDeclined: clients.on_client_declined,
    BudgetReserved: rounds.on_budget_reserved,
    BudgetRefused: rounds.on_budget_refused,
    SessionOpened: rounds.on_session_opened,
    GroupFailed: rounds.on_group_failed,
    UpdateAggregated: rounds.on_update_aggregated,
    RoundCompleted: rounds.on_round_completed,
    RoundAborted: rounds.on_round_aborted,
    LimitRaised: limits.on_limit_raised,
    SuspensionRequested: suspending.on_suspension_requested,
    ReinstatementRequested: suspending.on_reinstatement_requested,
    DeadlinePassed: on_deadline_passed,
}
