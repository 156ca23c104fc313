"""What the gateway knows about jobs, rounds, clients and budgets, projected from events.

Notices may come twice and in any order, so each transition gives the same view whatever came before.
"""

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from shared.events import (
    BudgetRunningLow,
    JobAccepted,
    JobEnded,
    JobRefused,
    JobSubmitted,
    LedgerExtended,
    RoundAborted,
    RoundCompleted,
    RoundOpened,
    UpdateAggregated,
)
from shared.events.values import BlobRef, Layout
from shared.job.specification import JobSpecification
from shared.ports import State

JobStatus = Literal["submitted", "running", "refused", "completed", "budget-exhausted", "failed", "cancelled"]
OPEN_STATUSES = frozenset({"submitted", "running"})


class RoundView(BaseModel):
    """One round, as far as it has come. Lists of clients are ids; `left_out` maps id to reason."""

    model_config = ConfigDict(frozen=True)

    number: int
    round_id: str
    status: Literal["open", "completed", "aborted"] = "open"
    cohort: tuple[str, ...] = ()
    contributors: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    reason: str = ""
    update_norm: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    root: str = ""


class JobView(State):
    """One job: what was asked, how far it is, what it gave."""

    kind: ClassVar[str] = "gateway.job"

    job_id: str
    status: JobStatus = "submitted"
    specification: JobSpecification | None = None
    submitted_by: str = ""
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    noise_multiplier: float | None = None
    reason: str = ""
    remedy: str = ""
    rounds: dict[int, RoundView] = {}
    adapter: BlobRef | None = None
    layout: Layout | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in OPEN_STATUSES


class Spent(BaseModel):
    """A client's epsilon after one ledger entry."""

    model_config = ConfigDict(frozen=True)

    round_id: str
    outcome: str
    epsilon: float
    epsilon_rdp: float
    sequence: int


class BudgetView(State):
    """What one client has spent in one job, entry by entry."""

    kind: ClassVar[str] = "gateway.budget"

    job_id: str
    client_id: str
    epsilon_limit: float = 0.0
    delta: float = 0.0
    running_low: bool = False
    entries: dict[int, Spent] = {}

    @property
    def key(self) -> tuple[str, ...]:
        """The job and the client."""
        return (self.job_id, self.client_id)

    @property
    def epsilon(self) -> float:
        """By PLD, after the latest entry."""
        return self.entries[max(self.entries)].epsilon if self.entries else 0.0

    @property
    def epsilon_rdp(self) -> float:
        """By RDP, after the latest entry."""
        return self.entries[max(self.entries)].epsilon_rdp if self.entries else 0.0


class ClientView(State):
    """A worker that has joined at least once."""

    kind: ClassVar[str] = "gateway.client"

    client_id: str
    key_sha256: str
    version: str = ""
    joined_at: datetime

    @property
    def key(self) -> tuple[str, ...]:
        """The client."""
        return (self.client_id,)


def submitted(view: JobView, event: JobSubmitted, now: datetime) -> JobView:
    """Somebody asked."""
    return view.replace(
        specification=view.specification or event.specification,
        submitted_by=event.submitted_by,
        submitted_at=view.submitted_at or now,
    )


def accepted(view: JobView, event: JobAccepted) -> JobView:
    """The job can run."""
    return view.replace(
        status="running" if view.status == "submitted" else view.status,
        specification=event.specification,
        noise_multiplier=event.noise_multiplier,
        submitted_at=view.submitted_at or event.accepted_at,
    )


def refused(view: JobView, event: JobRefused) -> JobView:
    """The job is impossible."""
    return view.replace(status="refused", reason=f"{event.field}: {event.reason}", remedy=event.remedy)


def ended(view: JobView, event: JobEnded) -> JobView:
    """No more rounds."""
    return view.replace(
        status=event.outcome,
        reason=event.reason,
        adapter=event.adapter or view.adapter,
        layout=event.layout or view.layout,
        ended_at=event.ended_at,
    )


def opened(view: JobView, event: RoundOpened, now: datetime) -> JobView:
    """A cohort is training."""
    before = _round(view, event.number, event.round_id)
    left_out = {**before.left_out, **{one.client_id: one.reason for one in event.left_out}}
    return _with_round(
        view,
        before.model_copy(
            update={
                "cohort": event.cohort,
                "left_out": left_out,
                "started_at": before.started_at or now,
            }
        ),
    )


def completed(view: JobView, event: RoundCompleted) -> JobView:
    """The global adapter has moved; the latest round's adapter is the job's."""
    before = _round(view, event.number, event.round_id)
    round_ = before.model_copy(
        update={
            "status": "completed",
            "contributors": event.contributors,
            "left_out": {**before.left_out, **{one.client_id: one.reason for one in event.left_out}},
            "update_norm": event.update_norm,
            "started_at": event.started_at,
            "ended_at": event.completed_at,
            "root": event.root,
        }
    )
    later = any(one.number > event.number and one.status == "completed" for one in view.rounds.values())
    keep = view.over or later
    return _with_round(view, round_).replace(adapter=view.adapter if keep else event.adapter)


def aborted(view: JobView, event: RoundAborted) -> JobView:
    """The round gave nothing."""
    round_ = _round(view, event.number, event.round_id).model_copy(
        update={
            "status": "aborted",
            "reason": event.reason,
            "started_at": event.started_at,
            "ended_at": event.aborted_at,
            "root": event.root,
        }
    )
    return _with_round(view, round_)


def aggregated(view: JobView, event: UpdateAggregated) -> JobView:
    """The round's update is known; its number is the end of the round's name."""
    number = int(event.round_id.rpartition("-r")[2])
    before = _round(view, number, event.round_id)
    left_out = {**before.left_out, **{one.client_id: one.reason for one in event.left_out}}
    return _with_round(
        view, before.model_copy(update={"update_norm": event.update_norm, "left_out": left_out})
    )


def extended(view: BudgetView, event: LedgerExtended) -> BudgetView:
    """One more ledger entry of this client."""
    spent = Spent(
        round_id=event.round_id,
        outcome=event.outcome,
        epsilon=event.epsilon,
        epsilon_rdp=event.epsilon_rdp,
        sequence=event.sequence,
    )
    return view.replace(
        epsilon_limit=event.epsilon_limit,
        delta=event.delta,
        entries={**view.entries, event.sequence: spent},
    )


def running_low(view: BudgetView, event: BudgetRunningLow) -> BudgetView:
    """The warning line was passed."""
    return view.replace(running_low=True, epsilon_limit=event.epsilon_limit)


def _round(view: JobView, number: int, round_id: str) -> RoundView:
    return view.rounds.get(number) or RoundView(number=number, round_id=round_id)


def _with_round(view: JobView, round_: RoundView) -> JobView:
    return view.replace(
        rounds={**view.rounds, round_.number: round_},
        status="running" if view.status == "submitted" else view.status,
    )
