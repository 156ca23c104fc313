"""What the gateway knows about jobs, rounds and clients, projected from events.

Notices may come twice and in any order, so each transition gives the same view whatever came before.
"""

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from shared.events import (
    JobAccepted,
    JobEnded,
    JobRefused,
    JobSubmitted,
    JobWaiting,
    RoundAborted,
    RoundCompleted,
    RoundOpened,
    UpdateAggregated,
)
from shared.events.coordinator import RoundKind
from shared.events.judgements import Finding
from shared.events.values import BlobRef, Layout
from shared.job.specification import JobSpecification
from shared.ports import State

JobStatus = Literal["submitted", "running", "refused", "completed", "budget-exhausted", "failed", "cancelled"]
OPEN_STATUSES = frozenset({"submitted", "running"})


class RoundView(BaseModel):
    """One round, as far as it has come. Lists of clients are ids; `left_out` maps id to reason.

    Attributes:
        rule: that judged the updates, or the sums of groups.
        weights: client -> what it counts in the update, of 1 in all; 0 for those that the rule left out.
        findings: what the rule measured of clients, or groups, that count less than their share.
        groups: of clients, where there is more than one.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    round_id: str
    status: Literal["open", "completed", "aborted"] = "open"
    cohort: tuple[str, ...] = ()
    contributors: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    rule: str = ""
    weights: dict[str, float] = {}
    findings: tuple[Finding, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    reason: str = ""
    update_norm: float | None = None
    kind: RoundKind = "train"
    metrics: dict[str, float] = {}
    local_steps: int = 0
    uploaded_bytes: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    root: str = ""


class Waiting(BaseModel):
    """What round `number` waits for."""

    model_config = ConfigDict(frozen=True)

    number: int
    reason: str
    since: datetime


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
    records: dict[str, int] = {}  # declared, by client
    start: BlobRef | None = None  # tensors in place of the public seed's
    adapter: BlobRef | None = None
    base: BlobRef | None = None  # what the adapter's method added to frozen weights
    layout: Layout | None = None
    waiting: Waiting | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status not in OPEN_STATUSES

    @property
    def waits_for(self) -> str:
        """Why the next round cannot begin; empty when it has begun, or nothing was said."""
        waiting = self.waiting
        begun = waiting is None or any(number >= waiting.number for number in self.rounds)
        return "" if waiting is None or begun or self.over else waiting.reason


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
        start=event.start,
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
        base=event.base or view.base,
        layout=event.layout or view.layout,
        ended_at=event.ended_at,
    )


def waited(view: JobView, event: JobWaiting) -> JobView:
    """The next round cannot begin yet."""
    before = view.waiting
    if before is not None and (before.number, before.since) >= (event.number, event.since):
        return view
    return view.replace(waiting=Waiting(number=event.number, reason=event.reason, since=event.since))


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
            "rule": event.rule,
            "weights": event.weights,
            "findings": event.findings,
            "groups": event.groups,
            "update_norm": event.update_norm,
            "kind": event.kind,
            "metrics": event.metrics,
            "local_steps": event.local_steps,
            "uploaded_bytes": event.uploaded_bytes,
            "started_at": event.started_at,
            "ended_at": event.completed_at,
            "root": event.root,
        }
    )
    later = any(one.number > event.number and one.status == "completed" for one in view.rounds.values())
    keep = view.over or later
    moved = _with_round(view, round_)
    moved = moved.replace(records={**view.records, **event.records})
    return moved if keep else moved.replace(adapter=event.adapter, base=event.base)


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
    changes = {
        "update_norm": event.update_norm,
        "left_out": left_out,
        "weights": event.weights,
        "findings": event.findings,
    }
    return _with_round(view, before.model_copy(update=changes))


def _round(view: JobView, number: int, round_id: str) -> RoundView:
    return view.rounds.get(number) or RoundView(number=number, round_id=round_id)


def _with_round(view: JobView, round_: RoundView) -> JobView:
    return view.replace(
        rounds={**view.rounds, round_.number: round_},
        status="running" if view.status == "submitted" else view.status,
    )
