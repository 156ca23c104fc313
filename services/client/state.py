"""The worker's durable states: jobs it was asked to join, rounds it was asked to train, what it pinned."""

from typing import ClassVar, Literal

from shared.errors import Refused, Stale
from shared.events import JobAnnounced, RoundStarted
from shared.events.values import Layout
from shared.job.specification import JobSpecification
from shared.ports import State


class LocalJob(State):
    """A job. announced -> ready or declined -> closed; `announced` is work for the loop."""

    kind: ClassVar[str] = "local_job"

    job_id: str
    specification: JobSpecification
    noise_multiplier: float
    trace: str = ""
    phase: Literal["announced", "ready", "declined", "closed"] = "announced"
    layout: Layout | None = None
    clip_norm: float | None = None  # where adaptive clipping has brought it; never leaves the client
    reason: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)


class LocalRound(State):
    """A round. accepted -> submitted, declined or closed; `accepted` is work for the loop, again after
    a crash. `started` is what the server said."""

    kind: ClassVar[str] = "local_round"

    started: RoundStarted
    trace: str = ""
    phase: Literal["accepted", "submitted", "declined", "closed"] = "accepted"
    reason: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Job and round."""
        return (self.started.job_id, self.started.round_id)


class Pinned(State):
    """What was seen first and must not change."""

    kind: ClassVar[str] = "pinned"

    aggregation_key: bytes | None = None
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
        trace=trace,
    )


def prepared(job: LocalJob, layout: Layout) -> LocalJob:
    """Model and data are there. Raises: Stale unless the job was waiting for it."""
    if job.phase != "announced":
        raise Stale(f"the job is {job.phase}")
    return job.replace(phase="ready", layout=layout)


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


def pinned_key(pinned: Pinned, aggregation_key: bytes) -> Pinned:
    """Trust the aggregation key on first use. Raises: Refused when it has changed."""
    if pinned.aggregation_key is None:
        return pinned.replace(aggregation_key=aggregation_key)
    if pinned.aggregation_key != aggregation_key:
        raise Refused(
            "aggregation_key",
            "the aggregation key has changed",
            "restore the key, or the owner starts a new home",
        )
    return pinned
