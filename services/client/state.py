"""The worker's durable states: jobs it was asked to join, rounds it was asked to train, what it pinned."""

import hashlib
from typing import ClassVar, Literal

import numpy as np

from services.client.trainer import Prepared, TrainingResult, TrainingTask
from shared.core.optimisers.scaffold import own
from shared.core.secagg.sealing import SealingKey, bind
from shared.errors import Refused, Rejected, Stale
from shared.events import JobAnnounced, RoundStarted
from shared.events.coordinator import RoundKind
from shared.events.plans import SessionPlan
from shared.events.values import BlobRef, Layout
from shared.job.evaluation import DIMENSION, evaluates
from shared.job.plan import weight_of
from shared.job.specification import JobSpecification
from shared.ports import State
from shared.sessions.contents import Contents
from shared.sessions.terms import SessionTerms


class LocalJob(State):
    """A job. announced -> ready or declined -> closed; `announced` is work for the loop."""

    kind: ClassVar[str] = "local_job"

    job_id: str
    specification: JobSpecification
    noise_multiplier: float
    trace: str = ""
    phase: Literal["announced", "ready", "declined", "closed"] = "announced"
    start: BlobRef | None = None
    layout: Layout | None = None
    rank: int | None = None  # that is trained here, where it is less than the layout's
    epsilon: float | None = None  # the owner's, where it is less than the job's
    own_noise: float | None = None  # noise multiplier for it
    clip_norm: float | None = None  # where adaptive clipping has brought it; never leaves the client
    sealing_key: bytes = b""  # secret; opens what is sealed to this worker as a key holder of the job
    reason: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)


class LocalRound(State):
    """A round. accepted -> submitted, declined or closed; `accepted` and `ready` is work for the loop, again
    after a crash. `started` is what the server said; `session` is the protocol's, secret."""

    kind: ClassVar[str] = "local_round"

    started: RoundStarted
    trace: str = ""
    session: bytes = b""
    control: bytes | None = None  # SCAFFOLD's c_k, if this round's update counts
    ready: bool = True
    phase: Literal["accepted", "submitted", "declined", "closed"] = "accepted"
    reason: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Job and round."""
        return (self.started.job_id, self.started.round_id)


class Control(State):
    """SCAFFOLD's c_k of one job: (d,) float64 little-endian. It never leaves the client."""

    kind: ClassVar[str] = "control"

    job_id: str
    values: bytes

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)


class Pinned(State):
    """What was seen first and must not change."""

    kind: ClassVar[str] = "pinned"

    server_keys: bytes | None = None  # hash of the aggregation service's public keys
    party_keys: bytes | None = None  # hash of those of the parties 1 and 2 of `mpc3`
    records: int | None = None  # declared for the owner's data; public

    @property
    def key(self) -> tuple[str, ...]:
        """There is one."""
        return ("worker",)


def announced(event: JobAnnounced, trace: str) -> LocalJob:
    """The job, as it comes in."""
    return LocalJob(
        job_id=event.job_id,
        specification=event.specification,
        noise_multiplier=event.noise_multiplier,
        start=event.start,
        trace=trace,
    )


def prepared(job: LocalJob, found: Prepared) -> LocalJob:
    """Model and data are there. Raises: Stale unless the job was waiting for it."""
    if job.phase != "announced":
        raise Stale(f"the job is {job.phase}")
    return job.replace(
        phase="ready", layout=found.layout, rank=found.rank, sealing_key=SealingKey.generate().to_bytes()
    )


def declined(job: LocalJob, reason: str) -> LocalJob:
    """The worker takes no part. Raises: Stale unless the job was waiting for an answer."""
    if job.phase != "announced":
        raise Stale(f"the job is {job.phase}")
    return job.replace(phase="declined", reason=reason)


def ended(
    round_: LocalRound, phase: Literal["submitted", "declined", "closed"], reason: str = ""
) -> LocalRound:
    """The round leaves `accepted`. Raises: Stale when it already did."""
    if round_.phase != "accepted":
        raise Stale(f"the round is {round_.phase}")
    return round_.replace(phase=phase, reason=reason)


def pinned_keys(pinned: Pinned, terms: SessionTerms) -> Pinned:
    """Trust the aggregation service's keys on first use. Raises: Refused when they have changed."""
    first, others = terms.aggregation_keys[:1], terms.aggregation_keys[1:]
    found = {"server_keys": _digest(*first, terms.server_key)}
    if others:
        found["party_keys"] = _digest(*others, *terms.party_keys)
    for field, digest in found.items():
        if getattr(pinned, field) not in (None, digest):
            raise Refused(
                "aggregation_key",
                "the aggregation service's keys have changed",
                "restore the keys, or the owner starts a new home",
            )
    return pinned.replace(**found)


def _digest(*keys: bytes) -> bytes:
    return hashlib.sha256(bind(b"fedlora/server-keys/v1", *keys)).digest()


def plan_of(job: LocalJob, kind: RoundKind) -> SessionPlan:
    """How a round of that kind is summed, as the job announced it."""
    if kind == "evaluate":
        return SessionPlan.evaluating(job.specification)
    return SessionPlan.of(job.specification, job.noise_multiplier)


def contents_of(job: LocalJob, started: RoundStarted) -> Contents | None:
    """What the round uploads; None for an evaluation. Raises: Rejected unless the job is prepared."""
    if started.kind == "evaluate":
        return None
    if job.layout is None:
        raise Rejected("the job is not prepared")
    return Contents.of(job.specification, job.layout, started.completed, started.round_id)


def control_after(task: TrainingTask, result: TrainingResult) -> bytes:
    """c_k if the update counts, from c - c_k and the update: c_k' = c_k - c - update / (steps x rate)."""
    if task.control is None:
        raise ValueError("the job has no control variates")
    path = result.steps * task.specification.training.learning_rate
    zero = np.zeros_like(task.control)
    return own(zero, task.control, result.update, path).astype("<f8").tobytes()


def check_terms(terms: SessionTerms, started: RoundStarted, job: LocalJob, own_key: bytes) -> None:
    """Raises: Refused unless the session is the one that the job announced, with this client in it."""
    named = (terms.job_id, terms.round_id, terms.group_id)
    if named != (started.job_id, started.round_id, started.group_id):
        raise Refused("terms", f"the terms are of {terms.group_id}", "send the session's own")
    if started.kind == "evaluate" and not evaluates(job.specification):
        raise Refused("kind", "the job announced no evaluations", "set evaluation.every")
    if terms.plan != plan_of(job, started.kind):
        raise Refused("terms.plan", "updates are summed in another way than the job announced", "keep to it")
    if job.layout is None or terms.layout_sha256 != job.layout.sha256:
        raise Refused("terms.layout_sha256", "the adapter has another layout", "send the job's")
    contents = contents_of(job, started)
    dimension = DIMENSION if contents is None else contents.uploaded
    if terms.dimension != dimension:
        raise Refused("terms.dimension", f"{terms.dimension} values", f"give {dimension}")
    member = terms.members.get(started.client_id)
    if member is None or member.verify_key != own_key:
        raise Refused("terms.members", "this client is not among them under its key", "send the cohort's")


def check_weight(
    terms: SessionTerms, kind: RoundKind, specification: JobSpecification, records: int, client_id: str
) -> None:
    """Raises: Refused when the update would count otherwise than the job says for so many records, or in an
    evaluation, where everyone's counts the same."""
    given = terms.members[client_id].weight
    due = 1.0 if kind == "evaluate" else weight_of(specification, records)
    if abs(given - due) > 1e-9:
        raise Refused("terms.members", f"the weight {given:g} for {records} records", f"give {due:g}")
