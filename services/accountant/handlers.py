"""Reserve, commit, release, expire: each decision one line of the ledger."""

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
    held = {one.client_id: one for one in await unit.select(Held, event.round_id)}
    refused: list[LeftOut] = []
    if event.epsilon > settings.largest_epsilon or event.delta > settings.largest_delta:
        reason = (
            f"epsilon {event.epsilon:g} at delta {event.delta:g} is over this federation's limit of "
            f"{settings.largest_epsilon:g} at {settings.largest_delta:g}"
        )
        refused = [LeftOut(client_id=client_id, reason=reason) for client_id in event.clients]
    else:
        limits = Limits(event.epsilon, event.delta, settings.client_epsilon, settings.largest_delta)
        job = await unit.find(Ledger, "job", event.job_id) or Ledger(job_id=event.job_id)
        overall = await unit.find(Ledger, "all") or Ledger(job_id="")
        in_job, over_all = dict(job.clients), dict(overall.clients)
        for client_id in event.clients:
            if client_id in held:
                continue
            decision = decide(
                in_job.get(client_id, Spending()),
                over_all.get(client_id, Spending()),
                event.mechanism,
                limits,
            )
            if isinstance(decision, Denied):
                refused.append(LeftOut(client_id=client_id, reason=decision.reason))
                continue
            in_job[client_id], over_all[client_id] = decision.in_job, decision.overall
            held[client_id] = await _reserve(event, client_id, decision, unit, settings)
        await unit.save(job.model_copy(update={"clients": in_job}))
        await unit.save(overall.model_copy(update={"clients": over_all}))
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
    held = await unit.find(Held, event.round_id, event.client_id)
    if held is None or held.reservation_id != event.reservation_id or held.job_id != event.job_id:
        raise Rejected(f"{event.client_id} has no reservation {event.reservation_id} in {event.round_id}")
    settled, unused = settle(held, event.steps)
    if unused is not None:
        job = await unit.load(Ledger, "job", held.job_id)
        overall = await unit.load(Ledger, "all")
        in_job = job.of(held.client_id).minus(unused)
        await unit.save(job.with_client(held.client_id, in_job))
        await unit.save(overall.with_client(held.client_id, overall.of(held.client_id).minus(unused)))
        settled = settled.replace(
            epsilon_after=in_job.epsilon(held.delta), epsilon_rdp_after=in_job.epsilon(held.delta, "rdp")
        )
    await unit.save(settled)
    await _record(settled, settled.status, unit)


async def on_deadline(event: DeadlinePassed, unit: UnitOfWork, settings: AccountantSettings) -> None:
    """Whatever nobody reported in time is spent: it may have been released."""
    round_id: RoundId = event.subject[0]
    for held in await unit.select(Held, round_id):
        if held.status == "reserved":
            expired = held.replace(status="expired")
            await unit.save(expired)
            await _record(expired, "expired", unit)


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
    await _journal(held, "reserved", unit)
    if held.epsilon_after >= settings.warn_at * held.epsilon_limit:
        unit.publish(
            BudgetRunningLow(
                job_id=held.job_id,
                client_id=client_id,
                epsilon=held.epsilon_after,
                epsilon_limit=held.epsilon_limit,
            )
        )
    return held


async def _record(held: Held, outcome: str, unit: UnitOfWork) -> None:
    """A settled reservation: a line in the ledger, and a notice to observers."""
    sequence, digest = await _journal(held, outcome, unit)
    unit.publish(
        LedgerExtended(
            job_id=held.job_id,
            round_id=held.round_id,
            client_id=held.client_id,
            outcome=outcome,
            epsilon=held.epsilon_after,
            epsilon_rdp=held.epsilon_rdp_after,
            epsilon_limit=held.epsilon_limit,
            delta=held.delta,
            sequence=sequence,
            entry_sha256=digest,
            recorded_at=unit.now,
        )
    )


async def _journal(held: Held, outcome: str, unit: UnitOfWork) -> tuple[int, str]:
    entry = await unit.append(
        LEDGER,
        {
            "outcome": outcome,
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
