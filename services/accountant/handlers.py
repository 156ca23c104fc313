"""Reserve, commit, release, expire: each decision one line of the ledger."""

from collections.abc import Iterable

from services.accountant.settings import AccountantSettings
from services.accountant.state import Denied, Granted, Held, Ledger, Limits, Spending, decide, settle
from shared.errors import Rejected
from shared.events import (
    BudgetRefused,
    BudgetRequested,
    BudgetReserved,
    BudgetRunningLow,
    BudgetSpent,
    DeadlinePassed,
    LedgerExtended,
)
from shared.events.base import derived_event_id
from shared.events.ids import ClientId, RoundId
from shared.events.values import LeftOut, Reservation
from shared.ports import UnitOfWork
from shared.service import Handlers

LEDGER = "ledger"
EXPIRED = "reservations.expired"


async def on_budget_requested(event: BudgetRequested, unit: UnitOfWork, settings: AccountantSettings) -> None:
    """Reserve for the whole cohort in one transaction; a repeat returns the same reservations."""
    # The job's ledger is locked before anything else of the job is read: replicas take turns.
    job = await unit.find(Ledger, "job", event.job_id) or Ledger(job_id=event.job_id)
    known = {one.client_id: one for one in await unit.select(Held, event.round_id)}
    held = {name: one for name, one in known.items() if one.status != "released"}
    refused = [
        LeftOut(
            client_id=name, reason="its reservation for this round was released: nothing may run under it"
        )
        for name in event.clients
        if name in known and name not in held
    ]
    asking = [client_id for client_id in event.clients if client_id not in known]
    if event.epsilon > settings.largest_epsilon or event.delta > settings.largest_delta:
        reason = (
            f"epsilon {event.epsilon:g} at delta {event.delta:g} is over this federation's limit of "
            f"{settings.largest_epsilon:g} at {settings.largest_delta:g}"
        )
        refused += [LeftOut(client_id=client_id, reason=reason) for client_id in asking]
    elif asking:
        granted, denied = await _decide_all(event, job, asking, unit, settings)
        refused += denied
        for client_id, decision in granted.items():
            held[client_id] = await _reserve(event, client_id, decision, unit, settings)
    if not held:
        unit.publish(BudgetRefused(job_id=event.job_id, round_id=event.round_id, refused=tuple(refused)))
        return
    await unit.schedule(EXPIRED, (event.round_id,), event.expires_at)
    unit.publish(
        BudgetReserved(
            job_id=event.job_id,
            round_id=event.round_id,
            reservations=tuple(_as_value(held[client_id]) for client_id in sorted(held)),
            refused=tuple(refused),
        )
    )


async def on_budget_spent(event: BudgetSpent, unit: UnitOfWork, settings: AccountantSettings) -> None:
    """Commit what was used; what provably never left the client returns to its budget."""
    job = await unit.find(Ledger, "job", event.job_id)  # the lock, as above
    held = await unit.find(Held, event.round_id, event.client_id)
    if (
        job is None
        or held is None
        or (held.reservation_id, held.job_id) != (event.reservation_id, event.job_id)
    ):
        raise Rejected(f"{event.client_id} has no reservation {event.reservation_id} in {event.round_id}")
    settled, unused = settle(held, event.steps)
    in_job = job.of(held.client_id)
    if unused is not None:
        in_job = in_job.minus(unused)
        overall = await unit.load(Ledger, "all")
        await unit.save(job.with_client(held.client_id, in_job))
        await unit.save(overall.with_client(held.client_id, overall.of(held.client_id).minus(unused)))
    await _record(_standing(settled, in_job), unit)


async def on_deadline(event: DeadlinePassed, unit: UnitOfWork, settings: AccountantSettings) -> None:
    """Whatever nobody reported in time is spent: it may have been released."""
    round_id: RoundId = event.subject[0]
    reservations = await unit.select(Held, round_id)
    if not reservations:
        return
    job = await unit.load(Ledger, "job", reservations[0].job_id)  # the lock: what was read is read again
    for held in await unit.select(Held, round_id):
        if held.status == "reserved":
            await _record(_standing(held.replace(status="expired"), job.of(held.client_id)), unit)


async def _decide_all(
    event: BudgetRequested,
    job: Ledger,
    asking: Iterable[ClientId],
    unit: UnitOfWork,
    settings: AccountantSettings,
) -> tuple[dict[ClientId, Granted], list[LeftOut]]:
    """Decide for each client, and save the ledgers that result."""
    limits = Limits(event.epsilon, event.delta, settings.client_epsilon, settings.largest_delta)
    overall = await unit.find(Ledger, "all") or Ledger(job_id="")
    granted: dict[ClientId, Granted] = {}
    denied: list[LeftOut] = []
    for client_id in dict.fromkeys(asking):
        decision = decide(job.of(client_id), overall.of(client_id), event.mechanism, limits)
        if isinstance(decision, Denied):
            denied.append(LeftOut(client_id=client_id, reason=decision.reason))
        else:
            granted[client_id] = decision
    if granted:
        await unit.save(job.with_clients({name: one.in_job for name, one in granted.items()}))
        await unit.save(overall.with_clients({name: one.overall for name, one in granted.items()}))
    return granted, denied


def _standing(held: Held, in_job: Spending) -> Held:
    """With the figures that hold once it is settled: other rounds may have moved them since it was made."""
    return held.replace(
        epsilon_after=in_job.epsilon(held.delta), epsilon_rdp_after=in_job.epsilon(held.delta, "rdp")
    )


async def _reserve(
    event: BudgetRequested,
    client_id: ClientId,
    granted: Granted,
    unit: UnitOfWork,
    settings: AccountantSettings,
) -> Held:
    held = Held(
        reservation_id=derived_event_id(event.round_id, client_id, 0),
        job_id=event.job_id,
        round_id=event.round_id,
        client_id=client_id,
        mechanism=event.mechanism,
        epsilon_after=granted.epsilon_after,
        epsilon_rdp_after=granted.in_job.epsilon(event.delta, "rdp"),
        epsilon_limit=event.epsilon,
        delta=event.delta,
        expires_at=event.expires_at,
    )
    await unit.save(held)
    await _journal(held, unit)
    if granted.epsilon_before < settings.warn_at * held.epsilon_limit <= held.epsilon_after:
        unit.publish(
            BudgetRunningLow(
                job_id=held.job_id,
                client_id=client_id,
                epsilon=held.epsilon_after,
                epsilon_limit=held.epsilon_limit,
            )
        )
    return held


async def _record(held: Held, unit: UnitOfWork) -> None:
    """A settled reservation: its state, a line in the ledger, and a notice to observers."""
    await unit.save(held)
    sequence, digest = await _journal(held, unit)
    unit.publish(
        LedgerExtended(
            job_id=held.job_id,
            round_id=held.round_id,
            client_id=held.client_id,
            outcome=held.status,
            epsilon=held.epsilon_after,
            epsilon_rdp=held.epsilon_rdp_after,
            epsilon_limit=held.epsilon_limit,
            delta=held.delta,
            sequence=sequence,
            entry_sha256=digest,
            recorded_at=unit.now,
        )
    )


async def _journal(held: Held, unit: UnitOfWork) -> tuple[int, str]:
    entry = await unit.append(
        LEDGER,
        {
            "outcome": held.status,
            "job": held.job_id,
            "round": held.round_id,
            "client": held.client_id,
            "reservation": held.reservation_id,
            "mechanism": held.mechanism.model_dump(mode="json"),
            "epsilon": held.epsilon_after,
            "epsilon_rdp": held.epsilon_rdp_after,
            "epsilon_limit": held.epsilon_limit,
            "delta": held.delta,
            "at": unit.now.isoformat(),
        },
    )
    return entry.sequence, entry.entry_sha256


def _as_value(held: Held) -> Reservation:
    return Reservation(
        reservation_id=held.reservation_id,
        client_id=held.client_id,
        mechanism=held.mechanism,
        epsilon_after=held.epsilon_after,
        epsilon_limit=held.epsilon_limit,
        delta=held.delta,
    )


HANDLERS: Handlers[AccountantSettings] = {
    BudgetRequested: on_budget_requested,
    BudgetSpent: on_budget_spent,
    DeadlinePassed: on_deadline,
}
