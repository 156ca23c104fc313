"""Clients, jobs and rounds."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import AwareDatetime

from shared.events.coordinator import RoundKind
from shared.events.judgements import LeftOut
from shared.events.values import BlobRef, Layout, PoissonSampled, Reservation
from shared.job.evaluation import due
from shared.job.plan import mechanism_of, planned_steps
from shared.job.specification import JobSpecification
from shared.ports import State

Outcome = Literal["completed", "budget-exhausted", "failed", "cancelled"]


class Client(State):
    """A client that joined; its verify key is the one it first came with."""

    kind: ClassVar[str] = "client"

    client_id: str
    verify_key: bytes
    joined_at: AwareDatetime

    @property
    def key(self) -> tuple[str, ...]:
        """The client."""
        return (self.client_id,)


class Seat(State):
    """What is sealed to a client as a key holder of a job, as it signed it."""

    kind: ClassVar[str] = "seat"

    job_id: str
    client_id: str
    sealing_key: bytes
    sealing_signature: bytes

    @property
    def key(self) -> tuple[str, ...]:
        """Job, client."""
        return (self.job_id, self.client_id)


class Job(State):
    """A job from its submission on.

    Attributes:
        ready: client -> digest of the layout it can train.
        records: client -> its declared record count.
        layouts: digest -> layout, of those that were offered.
        left_out: clients without part in the job, and why.
        faulty: clients whose messages made a sum impossible, and where; they do not come back.
        suspended: clients that are not asked until a person reinstates them, and why.
        waiting: why the next round cannot begin, as it was said last.
        number: of the latest round; 0 before the first.
        round_id: of the round in progress, or empty.
        running: of an asynchronous job, client -> its round in progress.
        spent: of an asynchronous job, clients whose budget is spent, and how they were refused.
        misses: of an asynchronous job, client -> rounds without an update since its latest one.
        evaluated: what `progress` was at the latest evaluation, whatever became of it.
        losses: that evaluations released, in their order.
        voters: clients that were charged for their votes on when to stop: further ones cost nothing.
        ranks: client -> its rank, where it is less than the layout's.
        start: tensors in place of the public seed's.
        base: what is added to frozen weights, for methods that change them.
        optimiser: the server optimiser's state.
        steps: local ones that completed rounds have taken.
        first_pace: norm of an update, a local step, after the first round; 0 before.
        pace: the same of the latest round.
    """

    kind: ClassVar[str] = "job"

    job_id: str
    specification: JobSpecification
    noise_multiplier: float
    accepted_at: AwareDatetime
    phase: Literal["gathering", "running", "ended", "refused"] = "gathering"
    announced: tuple[str, ...] = ()
    ready: dict[str, str] = {}
    records: dict[str, int] = {}
    layouts: dict[str, Layout] = {}
    left_out: dict[str, str] = {}
    faulty: dict[str, str] = {}
    suspended: dict[str, str] = {}
    waiting: str = ""
    layout: Layout | None = None
    adapter: BlobRef | None = None
    number: int = 0
    round_id: str = ""
    running: dict[str, str] = {}
    spent: dict[str, str] = {}
    misses: dict[str, int] = {}
    completed: int = 0
    failures: int = 0
    evaluated: int = 0
    losses: tuple[float, ...] = ()
    voters: tuple[str, ...] = ()
    ranks: dict[str, int] = {}
    start: BlobRef | None = None
    base: BlobRef | None = None
    optimiser: BlobRef | None = None
    steps: int = 0
    first_pace: float = 0.0
    pace: float = 0.0

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)

    @property
    def active(self) -> bool:
        """Whether clients may still take part."""
        return self.phase in ("gathering", "running")

    @property
    def excluded(self) -> dict[str, str]:
        """Clients that cannot be in a cohort, and why."""
        return {**self.left_out, **self.faulty, **self.suspended, **self.unreliable, **self.spent}

    @property
    def unreliable(self) -> dict[str, str]:
        """Clients whose rounds failed more often in a row than an asynchronous job bears."""
        retries = self.specification.rounds.retries
        return {
            client: f"{count} of its rounds failed in a row"
            for client, count in self.misses.items()
            if count > retries
        }

    @property
    def candidates(self) -> list[str]:
        """Clients that can be in a cohort, sorted."""
        excluded = self.excluded
        return sorted(client for client in self.ready if client not in excluded)

    @property
    def progress(self) -> int:
        """Planned rounds whose steps were taken: the completed ones, but where steps adapt, which takes more
        rounds."""
        return self.steps // self.specification.training.local_steps

    @property
    def finished(self) -> bool:
        """Whether every planned step was taken, in however many rounds."""
        return self.steps >= planned_steps(self.specification)

    @property
    def next_steps(self) -> int:
        """Local steps of the next round.

        Where they adapt, as many less as the update's norm a step has shrunk, by the root: long rounds while
        there is far to go, short ones near the end. The norm was released with the update, so it costs no
        privacy. Source: Wang, Joshi 2019, arXiv:1810.08313, Section 4 (there of the training loss).
        """
        training = self.specification.training
        left = max(1, planned_steps(self.specification) - self.steps)
        if not training.adaptive_steps or not self.first_pace:
            return min(training.local_steps, left)
        share = min(1.0, math.sqrt(self.pace / self.first_pace))
        return min(max(1, math.ceil(training.local_steps * share)), left)

    @property
    def mechanism(self) -> PoissonSampled:
        """What one client releases in the next round of training."""
        steps = self.next_steps
        return PoissonSampled.of(mechanism_of(self.specification, self.noise_multiplier, steps))

    @property
    def purpose(self) -> RoundKind:
        """Of its next round."""
        return "evaluate" if due(self.specification, self.progress, self.evaluated) else "train"

    @property
    def next_mechanism(self) -> PoissonSampled:
        """What one client releases in the next round."""
        if self.purpose == "evaluate":
            return PoissonSampled.of_evaluation(self.specification)
        return self.mechanism

    @property
    def charged(self) -> tuple[str, ...]:
        """Clients for whom the next round costs nothing: it asks a vote, and they were charged for all."""
        return self.voters if self.purpose == "evaluate" else ()

    @property
    def vote_again(self) -> PoissonSampled:
        """What those release in the next round."""
        return self.next_mechanism.model_copy(update={"steps": 0})


class Round(State):
    """One attempt at one round.

    Attributes:
        completed: what the job's was when clients were told the adapter; None before.
    """

    kind: ClassVar[str] = "round"

    job_id: str
    round_id: str
    number: int
    cohort: tuple[str, ...]
    root: str
    started_at: AwareDatetime
    deadline: AwareDatetime
    phase: Literal["budgeting", "opening", "training", "completed", "aborted"] = "budgeting"
    reservations: tuple[Reservation, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    purpose: RoundKind = "train"
    local_steps: int = 0
    completed: int | None = None
    groups: dict[str, tuple[str, ...]] = {}
    started: tuple[str, ...] = ()  # groups whose clients were started
    failed: dict[str, str] = {}  # group -> why it has no sum

    @property
    def key(self) -> tuple[str, ...]:
        """Job, round."""
        return (self.job_id, self.round_id)

    @property
    def over(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.phase in ("completed", "aborted")


def grouped(round_id: str, shuffled: Sequence[str], size: int | None) -> dict[str, tuple[str, ...]]:
    """Cut a cohort, in a random order, into groups of `size` or a little more; one group without a size."""
    count = 1 if size is None else max(1, len(shuffled) // size)
    return {f"{round_id}-g{index + 1}": tuple(shuffled[index::count]) for index in range(count)}
