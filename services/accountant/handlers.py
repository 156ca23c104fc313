"""Reserve, commit, release, expire: each decision one line of the ledger."""

from collections.abc import Iterable

from services.accountant import limits, metrics
from services.accountant.context import Accounting
from services.accountant.state import (
    Asking,
    Denied,
    Granted,
    Held,
    Ledger,
    Limits,
    Spending,
    Terms,
    agreed,
    decide_all,
    epsilons_at,
    settle,
)
from shared.errors import Rejected
from shared.events import (
    BudgetRefused,
    BudgetRequested,
    BudgetReserved,
    BudgetRunningLow,
    BudgetSpent,
    DeadlinePassed,
    LedgerExtended,
    LimitRaised,
)
from shared.events.base import derived_event_id
from shared.events.ids import ClientId, RoundId
from shared.events.judgements import LeftOut
from shared.events.values import Reservation
from shared.ports import UnitOfWork
from shared.service import Handlers

LEDGER = "ledger"
EXPIRED = "reservations.expired"


async def on_budget_requested(event: BudgetRequested, unit: UnitOfWork, context: Accounting) -> None:
    """Reserve for the whole cohort in one transaction; a repeat returns the same reservations."""
    # The job's terms are locked before anything else of the job is read: replicas take turns.
    terms = await unit.find(Terms, event.job_id)
    known = {one.client_id: one for one in await unit.select(Held, event.round_id)}
    held = {name: one for name, one in known.items() if one.status != "released"}
    refused = [
        LeftOut(
            client_id=name, reason="its reservation for this round was released: nothing may run under it"
        )
        for name in event.clients
        if name in known and name not in held
    ]
    asking = sorted({client_id for client_id in event.clients if client_id not in known})
    if asking:
        granted, denied = await _decide_all(event, terms, asking, unit, context)
        refused += [LeftOut(client_id=name, reason=denied[name].reason) for name in sorted(denied)]
        for client_id, decision in granted.items():
            held[client_id] = await _reserve(event, client_id, decision, unit)
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


async def on_budget_spent(event: BudgetSpent, unit: UnitOfWork, context: Accounting) -> None:
    """Commit what was used; what provably never left the client returns to its budget."""
    await unit.find(Terms, event.job_id)  # the lock, as above
    held = await unit.find(Held, event.round_id, event.client_id)
    if held is None or (held.reservation_id, held.job_id) != (event.reservation_id, event.job_id):
        raise Rejected(f"{event.client_id} has no reservation {event.reservation_id} in {event.round_id}")
    settled, unused = settle(held, event.steps)
    in_job = await unit.load(Ledger, "job", held.job_id, held.client_id)
    if unused is not None:
        overall = await unit.load(Ledger, "client", held.client_id)
        spending = in_job.spending.minus(unused)
        in_job = in_job.replace(spending=spending)
        if in_job.running_low:
            in_job = _warned(in_job, spending.epsilon(held.delta), held.epsilon_limit, context)
        await unit.save(in_job)
        await unit.save(overall.replace(spending=overall.spending.minus(unused)))
    await _record(_standing(settled, in_job.spending), unit)


async def on_deadline(event: DeadlinePassed, unit: UnitOfWork, context: Accounting) -> None:
    """Whatever nobody reported in time is spent: it may have been released."""
    round_id: RoundId = event.subject[0]
    reservations = await unit.select(Held, round_id)
    if not reservations:
        return
    job_id = reservations[0].job_id
    await unit.load(Terms, job_id)  # the lock: what was read is read again
    in_job = await _in_job(job_id, unit)
    expired = [one for one in await unit.select(Held, round_id) if one.status == "reserved"]
    spent = [(in_job[one.client_id].spending, one.delta) for one in expired]
    for accountant in ("pld", "rdp"):
        epsilons_at(spent, accountant)
    for held, (spending, _) in zip(expired, spent, strict=True):
        await _record(_standing(held.replace(status="expired"), spending), unit)


async def _in_job(job_id: str, unit: UnitOfWork) -> dict[ClientId, Ledger]:
    return {one.client_id: one for one in await unit.select(Ledger, "job", job_id)}


async def _decide_all(
    event: BudgetRequested,
    known: Terms | None,
    asking: Iterable[ClientId],
    unit: UnitOfWork,
    context: Accounting,
) -> tuple[dict[ClientId, Granted], dict[ClientId, Denied]]:
    """Decide for each client, and save the terms and ledgers that result."""
    terms = agreed(known, Terms(job_id=event.job_id, epsilon=event.epsilon, delta=event.delta))
    if isinstance(terms, Denied):
        return {}, dict.fromkeys(asking, terms)
    await unit.save(terms)
    ceilings = await limits.ceilings(unit, context.settings)
    in_job = await _in_job(event.job_id, unit)
    before = {c: _owned(in_job.get(c) or Ledger(job_id=event.job_id, client_id=c), event) for c in asking}
    bounds = {
        c: limits.bounds(terms, c, event.records.get(c), ceilings, one.own_epsilon)
        for c, one in before.items()
    }
    denied = {client_id: one for client_id, one in bounds.items() if isinstance(one, Denied)}
    allowed = {client_id: one for client_id, one in bounds.items() if isinstance(one, Limits)}
    overall = await _overall(allowed, unit)
    standing = {
        c: Asking(before[c].spending, overall[c].spending, one, event.mechanisms.get(c, event.mechanism))
        for c, one in allowed.items()
    }
    granted: dict[ClientId, Granted] = {}
    for client_id, decision in decide_all(standing).items():
        if isinstance(decision, Denied):
            denied[client_id] = decision
            continue
        granted[client_id] = decision
        mine = before[client_id].replace(spending=decision.in_job)
        mine = in_job[client_id] = _warned(mine, decision.epsilon_after, decision.limits.epsilon, context)
        await unit.save(mine)
        await unit.save(overall[client_id].replace(spending=decision.overall))
        if mine.running_low and not before[client_id].running_low:
            unit.publish(_running_low(mine, decision))
    metrics.show(terms, in_job.values(), ceilings, context.telemetry)
    return granted, denied


def _owned(ledger: Ledger, event: BudgetRequested) -> Ledger:
    """With the least epsilon that its owner was said to allow; a later request may only be stricter."""
    known = (ledger.own_epsilon, event.epsilons.get(ledger.client_id))
    return ledger.replace(own_epsilon=min((one for one in known if one is not None), default=None))


async def _overall(clients: Iterable[ClientId], unit: UnitOfWork) -> dict[ClientId, Ledger]:
    """Each client's over all jobs. Other jobs lock these rows too, in the order of their keys."""
    found = await unit.find_all(Ledger, [("client", client_id) for client_id in clients])
    known = {one.client_id: one for one in found}
    return {c: known.get(c) or Ledger(job_id="", client_id=c) for c in clients}


def _running_low(ledger: Ledger, granted: Granted) -> BudgetRunningLow:
    return BudgetRunningLow(
        job_id=ledger.job_id,
        client_id=ledger.client_id,
        epsilon=granted.epsilon_after,
        epsilon_limit=granted.limits.epsilon,
    )


def _warned(ledger: Ledger, epsilon: float, limit: float, context: Accounting) -> Ledger:
    """With whether the warning line is passed, so that each crossing warns once."""
    return ledger.replace(running_low=epsilon >= context.settings.warn_at * limit)


def _standing(held: Held, in_job: Spending) -> Held:
    """With the figures that hold once it is settled: other rounds may have moved them since it was made."""
    return held.replace(
        epsilon_after=in_job.epsilon(held.delta), epsilon_rdp_after=in_job.epsilon(held.delta, "rdp")
    )


async def _reserve(event: BudgetRequested, client_id: ClientId, granted: Granted, unit: UnitOfWork) -> Held:
    held = Held(
        reservation_id=derived_event_id(event.round_id, client_id, 0),
        job_id=event.job_id,
        round_id=event.round_id,
        client_id=client_id,
        mechanism=granted.mechanism,
        epsilon_after=granted.epsilon_after,
        epsilon_rdp_after=granted.epsilon_rdp_after,
        epsilon_limit=granted.limits.epsilon,
        delta=granted.limits.delta,
        expires_at=event.expires_at,
    )
    await unit.save(held)
    await _journal(held, unit)
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


HANDLERS: Handlers[Accounting] = {
    BudgetRequested: on_budget_requested,
    BudgetSpent: on_budget_spent,
    DeadlinePassed: on_deadline,
    LimitRaised: limits.on_limit_raised,
}
