"""The worker's own privacy ledger: what it reserved and released, so that no server makes it overspend."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from services.client.policy import Policy
from shared.core.privacy import Mechanism, epsilon
from shared.core.privacy.filters import admits_over_jobs
from shared.errors import Refused
from shared.events.ids import ReservationId, RoundId
from shared.events.values import PoissonSampled, Reservation
from shared.ports import State


class Entry(BaseModel):
    """One round. `released`: nothing left the client, so it costs nothing."""

    model_config = ConfigDict(frozen=True)

    round_id: RoundId
    reservation_id: ReservationId
    mechanism: PoissonSampled
    phase: Literal["reserved", "spent", "released"] = "reserved"


class Ledger(State):
    """What one job was announced to cost, and what it has cost. Change it by the functions below."""

    kind: ClassVar[str] = "ledger"

    job_id: str
    epsilon: float
    delta: float
    announced: PoissonSampled  # kind, q, sigma and steps of one round
    entries: tuple[Entry, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """The job."""
        return (self.job_id,)


def spent(ledger: Ledger) -> float:
    """Epsilon at the ledger's delta of everything released or reserved."""
    return epsilon(_mechanisms(ledger), ledger.delta)


def reserve(  # noqa: PLR0913 - what is asked, what is had, and who allows it
    ledger: Ledger,
    round_id: str,
    reservation: Reservation,
    others: Sequence[Ledger],
    policy: Policy,
    *,
    announced: PoissonSampled | None = None,
) -> Ledger:
    """Set a round's cost aside, beside the ledgers of this worker's `others`, its other jobs.

    `announced` is what such a round costs at the most; the ledger's own for a round of training.

    Raises: Refused for a repeated round, weaker privacy than was announced, more epsilon than was
        announced, or more over all jobs than the owner allows.
    """
    asked, announced = reservation.mechanism, announced or ledger.announced
    if any(entry.round_id == round_id for entry in ledger.entries):
        raise Refused("round_id", f"{round_id} repeats a round", "start a round with a new number")
    if any(entry.reservation_id == reservation.reservation_id for entry in ledger.entries):
        raise Refused("reservation", "repeats an earlier reservation", "reserve afresh for each round")
    if reservation.delta > ledger.delta:
        raise _weaker("delta", reservation.delta, ledger.delta)
    if reservation.epsilon_limit > ledger.epsilon:
        raise _weaker("epsilon_limit", reservation.epsilon_limit, ledger.epsilon)
    if asked.kind != announced.kind or asked.l2_sensitivity != announced.l2_sensitivity:
        raise Refused("reservation", f"{asked.kind} where {announced.kind} was announced", "ask for that")
    if asked.l2_sensitivity is not None and asked != announced:
        raise Refused("reservation", "a session adds the noise that was announced", "charge for that")
    if asked.noise_multiplier < announced.noise_multiplier:
        raise _weaker("noise_multiplier", asked.noise_multiplier, announced.noise_multiplier)
    if asked.sampling_rate > announced.sampling_rate:
        raise _weaker("sampling_rate", asked.sampling_rate, announced.sampling_rate)
    if asked.steps > announced.steps:
        raise _weaker("steps", asked.steps, announced.steps)
    if asked.bits_noise_multiplier != announced.bits_noise_multiplier:
        raise Refused("reservation", "it charges clipping bits otherwise", "ask what was announced")
    entry = Entry(round_id=round_id, reservation_id=reservation.reservation_id, mechanism=asked)
    after = ledger.replace(entries=(*ledger.entries, entry))
    total = spent(after)
    if total > ledger.epsilon:
        reason = f"the round would bring epsilon to {total:.4g}, the limit is {ledger.epsilon:g}"
        raise Refused("epsilon", reason, "end the job")
    everything = [mechanism for one in (after, *others) for mechanism in _mechanisms(one)]
    if not admits_over_jobs(_mechanisms(after), everything, policy.lifetime_epsilon, policy.largest_delta):
        reason = f"over all jobs the round would pass the owner's epsilon of {policy.lifetime_epsilon:g}"
        raise Refused("epsilon", reason, "ask no more of this worker; its owner may raise lifetime_epsilon")
    return after


def commit(ledger: Ledger, round_id: str, steps: int) -> Ledger:
    """The round's update is in the outbox. Raises: ValueError unless it was reserved for `steps`."""
    entry = _reserved(ledger, round_id)
    if not 0 <= steps <= entry.mechanism.steps:
        raise ValueError(f"{steps} steps ran, {entry.mechanism.steps} were reserved")
    ran = entry.mechanism.model_copy(update={"steps": steps})
    return _with(ledger, entry.model_copy(update={"mechanism": ran, "phase": "spent"}))


def release(ledger: Ledger, round_id: str) -> Ledger:
    """The round ends and nothing left the client. Raises: ValueError unless it was reserved."""
    return _with(ledger, _reserved(ledger, round_id).model_copy(update={"phase": "released"}))


def _reserved(ledger: Ledger, round_id: str) -> Entry:
    for entry in ledger.entries:
        if entry.round_id == round_id and entry.phase == "reserved":
            return entry
    raise ValueError(f"{round_id} holds no reservation")


def _with(ledger: Ledger, changed: Entry) -> Ledger:
    return ledger.replace(
        entries=tuple(changed if entry.round_id == changed.round_id else entry for entry in ledger.entries)
    )


def _mechanisms(ledger: Ledger) -> list[Mechanism]:
    return [entry.mechanism.core() for entry in ledger.entries if entry.phase != "released"]


def _weaker(field: str, asked: float, announced: float) -> Refused:
    return Refused(f"reservation.{field}", f"{asked:g} is weaker than announced", f"ask {announced:g}")
