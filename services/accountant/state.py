"""What each client has spent and reserved, and the rules by which that may grow."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from shared.core.privacy import Mechanism, composed, epsilon
from shared.core.privacy.mechanisms import without
from shared.errors import Rejected, Stale
from shared.events.ids import ClientId, JobId, ReservationId, RoundId
from shared.events.values import PoissonGaussian
from shared.ports import State


class Spending(BaseModel):
    """One client's composition, run-length encoded."""

    model_config = ConfigDict(frozen=True)
    mechanisms: tuple[PoissonGaussian, ...] = ()

    def core(self) -> tuple[Mechanism, ...]:
        """As the accountants take it."""
        return tuple(value.core() for value in self.mechanisms)

    def plus(self, mechanism: PoissonGaussian) -> "Spending":
        """With one more."""
        return _spending(composed([*self.core(), mechanism.core()]))

    def minus(self, mechanism: PoissonGaussian) -> "Spending":
        """Less one that was never released. Raises: ValueError when it is not contained."""
        return _spending(without(self.core(), mechanism.core()))

    def epsilon(self, delta: float, accountant: str = "pld") -> float:
        """Of the whole composition."""
        return epsilon(self.core(), delta, accountant)


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
    """

    kind: ClassVar[str] = "ledger"
    job_id: str
    client_id: ClientId
    spending: Spending = Spending()
    running_low: bool = False

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
    mechanism: PoissonGaussian
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
class Granted:
    """The client may spend; its compositions with the new mechanism in them."""

    in_job: Spending
    overall: Spending
    limits: Limits
    epsilon_after: float


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


def decide(in_job: Spending, overall: Spending, asked: PoissonGaussian, limits: Limits) -> Granted | Denied:
    """Whether what was spent, what is reserved and what is asked stay under both limits together.

    Compared strictly: a plan keeps more distance from its limit than two machines' figures differ
    (`noise_multiplier_for`), so that none needs slack here.
    """
    job_after, overall_after = in_job.plus(asked), overall.plus(asked)
    before, epsilon_after = in_job.epsilon(limits.delta), job_after.epsilon(limits.delta)
    if epsilon_after > limits.epsilon:
        return Denied(
            f"epsilon {before:.3f} is spent of {limits.epsilon:g}; "
            f"this round would make it {epsilon_after:.3f}"
        )
    overall_epsilon = overall_after.epsilon(limits.client_delta)
    if overall_epsilon > limits.client_epsilon:
        return Denied(
            f"over all jobs epsilon would be {overall_epsilon:.3f} at delta {limits.client_delta:g}, "
            f"limit {limits.client_epsilon:g}"
        )
    return Granted(job_after, overall_after, limits, epsilon_after)


def settle(held: Held, steps: int) -> tuple[Held, PoissonGaussian | None]:
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
    return Spending(mechanisms=tuple(PoissonGaussian.of(mechanism) for mechanism in mechanisms))
