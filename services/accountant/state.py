"""What each client has spent and reserved, and the rules by which that may grow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from shared.core.privacy import Mechanism, composed, epsilon, epsilons
from shared.core.privacy.filters import admits_over_jobs
from shared.core.privacy.mechanisms import without
from shared.errors import Rejected, Stale
from shared.events.ids import ClientId, JobId, ReservationId, RoundId
from shared.events.values import PoissonSampled
from shared.ports import State


class Spending(BaseModel):
    """One client's composition, run-length encoded."""

    model_config = ConfigDict(frozen=True)
    mechanisms: tuple[PoissonSampled, ...] = ()

    def core(self) -> tuple[Mechanism, ...]:
        """As the accountants take it."""
        return tuple(value.core() for value in self.mechanisms)

    def plus(self, mechanism: PoissonSampled) -> "Spending":
        """With one more."""
        return _spending(composed([*self.core(), mechanism.core()]))

    def minus(self, mechanism: PoissonSampled) -> "Spending":
        """Less one that was never released. Raises: ValueError when it is not contained."""
        return _spending(without(self.core(), mechanism.core()))

    def epsilon(self, delta: float, accountant: str = "pld") -> float:
        """Of the whole composition."""
        return epsilon(self.core(), delta, accountant)


def epsilons_at(wanted: Sequence[tuple[Spending, float]], accountant: str = "pld") -> list[float]:
    """Of each spending at its delta; of a cohort at once is several times faster than one by one.

    What was found is remembered: `Spending.epsilon` has it then.
    """
    by_delta: dict[float, list[int]] = {}
    for index, (_, delta) in enumerate(wanted):
        by_delta.setdefault(delta, []).append(index)
    found: dict[int, float] = {}
    for delta, indices in by_delta.items():
        compositions = [wanted[index][0].core() for index in indices]
        found.update(zip(indices, epsilons(compositions, delta, accountant), strict=True))
    return [found[index] for index in range(len(wanted))]


class Terms(State):
    """A job's epsilon and delta, fixed at its first request; later ones may only be stricter.

    Whoever reads or changes anything of a job's spending locks this row first: replicas take turns.
    """

    kind: ClassVar[str] = "terms"
    job_id: JobId
    epsilon: float
    delta: float

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)


class Ledger(State):
    """One client's spent and reserved: in one job, or (job_id empty) in the federation's whole life.

    Attributes:
        running_low: in a job, whether the warning line is passed.
        own_epsilon: in a job, the least that its owner was said to allow; None where that is the job's.
    """

    kind: ClassVar[str] = "ledger"
    job_id: str
    client_id: ClientId
    spending: Spending = Spending()
    running_low: bool = False
    own_epsilon: float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """By job, then client; or by client."""
        return ("job", self.job_id, self.client_id) if self.job_id else ("client", self.client_id)


class Held(State):
    """One client's reservation for one round, and how it ended."""

    kind: ClassVar[str] = "reservation"
    reservation_id: ReservationId
    job_id: JobId
    round_id: RoundId
    client_id: ClientId
    mechanism: PoissonSampled
    status: Literal["reserved", "committed", "expired", "released"] = "reserved"
    epsilon_after: float
    epsilon_rdp_after: float
    epsilon_limit: float
    delta: float
    expires_at: datetime

    @property
    def key(self) -> tuple[str, ...]:
        """By round, then client."""
        return (self.round_id, self.client_id)


@dataclass(frozen=True)
class Limits:
    """The ceilings of one client in one request.

    Attributes:
        epsilon, delta: of the client in the job.
        client_epsilon, client_delta: of the client over all its jobs.
    """

    epsilon: float
    delta: float
    client_epsilon: float
    client_delta: float


@dataclass(frozen=True)
class Asking:
    """Where a client that asks stands: spent and reserved in the job, over all its jobs, its ceilings, and
    what it would release."""

    in_job: Spending
    overall: Spending
    limits: Limits
    mechanism: PoissonSampled


@dataclass(frozen=True)
class Granted:
    """The client may spend; its compositions with the new mechanism in them."""

    in_job: Spending
    overall: Spending
    limits: Limits
    mechanism: PoissonSampled
    epsilon_after: float
    epsilon_rdp_after: float
    overall_epsilon_after: float


@dataclass(frozen=True)
class Denied:
    """The client may not spend."""

    reason: str


def agreed(known: Terms | None, asked: Terms) -> Terms | Denied:
    """The terms that hold from this request on: those of the first, or stricter ones."""
    if known is None:
        return asked
    if asked.epsilon > known.epsilon or asked.delta > known.delta:
        return Denied(
            f"the job began with epsilon {known.epsilon:g} at delta {known.delta:g}; "
            f"{asked.epsilon:g} at {asked.delta:g} is weaker"
        )
    return asked


def decide_all(asking: Mapping[ClientId, Asking]) -> dict[ClientId, Granted | Denied]:
    """Whether what was spent, what is reserved and what is asked stay under both limits together.

    Compared strictly: a plan keeps more distance from its limit than two machines' figures differ
    (`noise_multiplier_for`), so that none needs slack here. A cohort's figures are computed at once.
    """
    in_job = [(one.in_job.plus(one.mechanism), one.limits.delta) for one in asking.values()]
    overall = [(one.overall.plus(one.mechanism), one.limits.client_delta) for one in asking.values()]
    figures = zip(epsilons_at(in_job), epsilons_at(in_job, "rdp"), epsilons_at(overall), strict=True)
    return {
        client_id: _decide(one, Granted(job_after, overall_after, one.limits, one.mechanism, *found))
        for (client_id, one), (job_after, _), (overall_after, _), found in zip(
            asking.items(), in_job, overall, figures, strict=True
        )
    }


def _decide(one: Asking, wanted: Granted) -> Granted | Denied:
    limits = wanted.limits
    if wanted.epsilon_after > limits.epsilon:
        return Denied(
            f"epsilon {one.in_job.epsilon(limits.delta):.3f} is spent of {limits.epsilon:g}; "
            f"this round would make it {wanted.epsilon_after:.3f}"
        )
    if wanted.overall_epsilon_after > limits.client_epsilon:
        return Denied(
            f"over all jobs epsilon would be {wanted.overall_epsilon_after:.3f} at delta "
            f"{limits.client_delta:g}, limit {limits.client_epsilon:g}"
        )
    budget = (limits.client_epsilon, limits.client_delta)
    if not admits_over_jobs(wanted.in_job.core(), wanted.overall.core(), *budget):
        return Denied(
            f"what a second job asks may follow from the first one's result: over all jobs only epsilon "
            f"{limits.client_epsilon:g} by a Renyi filter is a guarantee, and it admits no more"
        )
    return wanted


def settle(held: Held, steps: int) -> tuple[Held, PoissonSampled | None]:
    """Count what the client reports.

    Returns: the settled reservation, and the part of its mechanism that was not used.
    Raises: Stale when it was settled before (an expired one stays spent, whatever comes later);
        Rejected when more is reported than was reserved.
    """
    if held.status != "reserved":
        raise Stale(f"{held.reservation_id} is {held.status}")
    reserved = held.mechanism
    if steps > reserved.steps:
        raise Rejected(f"{held.client_id} reports {steps} steps of {reserved.steps} reserved")
    unused = reserved.model_copy(update={"steps": reserved.steps - steps}) if steps < reserved.steps else None
    used = reserved.model_copy(update={"steps": steps})
    status = "committed" if steps else "released"
    return held.replace(status=status, mechanism=used), unused


def _spending(mechanisms: tuple[Mechanism, ...]) -> Spending:
    return Spending(mechanisms=tuple(PoissonSampled.of(mechanism) for mechanism in mechanisms))
