"""Jobs and rounds, published by the coordinator."""

from typing import Literal

from pydantic import PositiveFloat

from shared.events.base import Channel, Event, Timestamp
from shared.events.ids import ClientId, GroupId, JobId, RoundId, Sha256
from shared.events.judgements import Finding, LeftOut, Standing
from shared.events.plans import SessionPlan
from shared.events.values import BlobRef, Layout, Member, PoissonSampled, Reservation
from shared.job.specification import JobSpecification

RoundKind = Literal["train", "evaluate"]


class JobAccepted(Event, type="job.accepted.v1", mandatory=False):
    """The job can run; clients are being asked."""

    job_id: JobId
    specification: JobSpecification
    noise_multiplier: PositiveFloat  # planned over all rounds
    accepted_at: Timestamp
    start: BlobRef | None = None  # as in JobSubmitted


class JobRefused(Event, type="job.refused.v1", mandatory=False):
    """The job is impossible; nothing was started."""

    job_id: JobId
    field: str
    reason: str
    remedy: str


class JobAnnounced(Event, type="job.announced.v1", channel=Channel.DOWN):
    """A client is asked to take part: load the model, check the data, answer ready or declined."""

    client_id: ClientId
    job_id: JobId
    specification: JobSpecification
    noise_multiplier: PositiveFloat
    start: BlobRef | None = None  # as in JobSubmitted


class JobWaiting(Event, type="job.waiting.v1", mandatory=False):
    """The next round cannot begin yet, and why; said once for each reason."""

    job_id: JobId
    number: int  # of the round that is waited for
    reason: str
    since: Timestamp


class BudgetRequested(Event, type="budget.requested.v1"):
    """May these clients spend this mechanism in this round?"""

    job_id: JobId
    round_id: RoundId
    clients: tuple[ClientId, ...]
    mechanism: PoissonSampled
    mechanisms: dict[ClientId, PoissonSampled] = {}  # of those with another one
    epsilons: dict[ClientId, PositiveFloat] = {}  # of those whose owners allow less than the job's
    planned_rounds: int  # the whole plan, so that a fixed one is composed by PLD
    epsilon: PositiveFloat
    delta: PositiveFloat
    expires_at: Timestamp  # not reported by then counts as spent
    records: dict[ClientId, int] = {}  # declared counts, of those clients whose count is known


class SessionRequested(Event, type="session.requested.v1", sharded=True):
    """Secure aggregation shall collect one group's uploads."""

    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    members: dict[ClientId, Member]
    plan: SessionPlan
    layout_sha256: Sha256
    dimension: int
    groups: int = 1  # of the round
    enough: int | None = None  # updates that are summed without waiting for more
    deadline: Timestamp


class RoundOpened(Event, type="round.opened.v1", mandatory=False):
    """The cohort is fixed; its clients may train. A notice to observers."""

    job_id: JobId
    round_id: RoundId
    number: int
    cohort: tuple[ClientId, ...]
    left_out: tuple[LeftOut, ...]
    deadline: Timestamp


class RoundStarted(Event, type="round.started.v1", channel=Channel.DOWN):
    """One client of the cohort may train."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId
    group_id: GroupId
    number: int  # of this round, from 1
    kind: RoundKind = "train"
    completed: int = 0  # rounds that have moved the adapter so far
    adapter: BlobRef  # trainable tensors, float32, safetensors
    base: BlobRef | None = None  # what is added to frozen weights, times LoRA's scale; float32, safetensors
    control: BlobRef | None = None  # SCAFFOLD's common control variate, (d,) float64 little-endian
    layout_sha256: Sha256
    reservation: Reservation
    terms: BlobRef  # of the session, the same for the whole group; see shared/sessions/terms.py
    deadline: Timestamp


class RoundClosed(Event, type="round.closed.v1", channel=Channel.DOWN):
    """The round is over for this client, whatever it has done so far."""

    client_id: ClientId
    job_id: JobId
    round_id: RoundId
    outcome: Literal["completed", "aborted"]
    counted: bool = False  # whether this client's update is in the sum
    reason: str = ""


class RoundCompleted(Event, type="round.completed.v1"):
    """The global adapter has moved, or was evaluated."""

    job_id: JobId
    round_id: RoundId
    number: int
    kind: RoundKind = "train"
    metrics: dict[str, float] = {}  # of an evaluation, from noisy sums
    local_steps: int = 0  # of each client
    uploaded_bytes: int = 0  # by all clients
    adapter: BlobRef
    base: BlobRef | None = None  # as in RoundStarted
    contributors: tuple[ClientId, ...]
    records: dict[ClientId, int] = {}  # that contributors have declared
    rule: str = ""  # that judged
    weights: dict[ClientId, float] = {}  # of the update, those left out by the rule included with 0
    left_out: tuple[LeftOut, ...]
    findings: tuple[Finding, ...] = ()  # about clients, or groups where those were judged
    groups: dict[GroupId, tuple[ClientId, ...]] = {}  # where there is more than one
    standings: dict[ClientId, Standing] = {}  # of those whose standing this round has changed
    update_norm: float
    started_at: Timestamp
    completed_at: Timestamp
    root: str  # traceparent of the round's root span, exported when this event is handled


class RoundAborted(Event, type="round.aborted.v1"):
    """The round ends without an update; what was reserved and may have been released is spent."""

    job_id: JobId
    round_id: RoundId
    number: int
    reason: str
    started_at: Timestamp
    aborted_at: Timestamp
    root: str


class ClientSuspended(Event, type="client.suspended.v1", mandatory=False):
    """A job does not ask this client any more, until somebody reinstates it."""

    job_id: JobId
    client_id: ClientId
    reason: str
    suspended_by: str = ""  # a person; empty: its score
    standing: Standing
    at: Timestamp


class ClientReinstated(Event, type="client.reinstated.v1", mandatory=False):
    """A person has let a suspended client back; its score begins anew."""

    job_id: JobId
    client_id: ClientId
    reason: str
    reinstated_by: str
    before: Standing
    standing: Standing
    at: Timestamp


class JobEnded(Event, type="job.ended.v1", mandatory=False):
    """No more rounds."""

    job_id: JobId
    outcome: Literal["completed", "budget-exhausted", "failed", "cancelled"]
    reason: str
    rounds_completed: int
    adapter: BlobRef | None
    base: BlobRef | None = None  # as in RoundStarted
    layout: Layout | None
    ended_at: Timestamp


class JobClosed(Event, type="job.closed.v1", channel=Channel.DOWN):
    """The client may forget the job."""

    client_id: ClientId
    job_id: JobId
    outcome: str
    reason: str = ""
