"""What the worker does with the server's messages: check, record, and wake the loop that works."""

import asyncio
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.client import budgets, evaluating, state, stopping
from services.client import ledger as ledgers
from services.client.ledger import Ledger
from services.client.policy import Policy, check
from services.client.sessions import PROTOCOLS
from services.client.sessions.base import ClientSession, Position
from services.client.state import Control, LocalJob, LocalRound, Pinned
from services.client.stopping import Stopping
from shared.core.secagg.sealing import SealingKey, key_message, sign
from shared.errors import Refused, Rejected, Stale
from shared.events import (
    BudgetSpent,
    ClientDeclined,
    ClientReady,
    JobAnnounced,
    JobClosed,
    RoundClosed,
    RoundStarted,
    StageBegun,
)
from shared.ports import BlobStore, RandomSource, UnitOfWork
from shared.service import Handlers
from shared.sessions.holding import RELEASE, SHARES, Keeper, answered
from shared.sessions.terms import SessionTerms


@dataclass
class Desk:
    """What handlers and the working loop share. `stopped`: rounds whose training shall end."""

    client_id: str
    policy: Policy
    identity: Ed25519PrivateKey
    blobs: BlobStore
    random: RandomSource
    keeper: Keeper
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: set[str] = field(default_factory=set)


async def on_job_announced(event: JobAnnounced, unit: UnitOfWork, desk: Desk) -> None:
    """Record the job for preparation, or say why not; a repeated question gets the same answer."""
    known = await unit.find(LocalJob, event.job_id)
    if known is not None and known.phase != "declined":
        asked = event.specification, event.noise_multiplier, event.start
        same = (known.specification, known.noise_multiplier, known.start) == asked
        if not same:
            _decline_job(event.job_id, "the job was announced before on other terms", unit, desk)
        elif known.phase == "ready":
            await answer_ready(known, unit, desk)
        return
    job = state.announced(event, unit.trace)
    try:
        job = await asyncio.to_thread(budgets.planned, job, desk.policy)
        noise = job.own_noise or job.noise_multiplier
        refused = check(event.specification, noise, desk.policy, job.epsilon)
        refused = refused or evaluating.check(event.specification, desk.policy)
    except Refused as error:
        refused = error
    if refused is not None:
        await unit.save(state.declined(job, str(refused)))
        _decline_job(event.job_id, str(refused), unit, desk)
        return
    await unit.save(job)
    desk.wake.set()


async def on_round_started(event: RoundStarted, unit: UnitOfWork, desk: Desk) -> None:
    """Reserve budget and record the round, or say why not."""
    known = await unit.find(LocalRound, event.job_id, event.round_id)
    if known is not None and known.started.reservation == event.reservation:
        raise Stale("the round is known")
    try:
        await _accept(event, unit, desk)
    except (Refused, Rejected) as reason:
        decline_round(event, str(reason), unit, desk)
    else:
        desk.wake.set()


async def _accept(event: RoundStarted, unit: UnitOfWork, desk: Desk) -> None:
    job = await unit.find(LocalJob, event.job_id)
    if job is None or job.phase != "ready" or job.layout is None:
        raise Refused("job_id", "this worker is not ready for the job", "announce it first")
    if event.reservation.client_id != desk.client_id:
        raise Refused("reservation.client_id", "the reservation is another's", "reserve for this client")
    if event.deadline <= unit.now:
        raise Refused("deadline", "the deadline has passed", "allow more time")
    if event.layout_sha256 != job.layout.sha256:
        raise Refused("layout_sha256", "the adapter has another layout", "send the job's adapter")
    mechanism, announced = event.reservation.mechanism, evaluating.announced(event, job.specification)
    refused = check(
        job.specification,
        mechanism.noise_multiplier if announced is None else job.own_noise or job.noise_multiplier,
        desk.policy,
        job.epsilon,
    )
    if refused is not None:
        raise refused
    terms = SessionTerms.from_bytes(await desk.blobs.get(event.terms))
    state.check_terms(terms, event, job, desk.identity.public_key().public_bytes_raw())
    pinned = await unit.find(Pinned, "worker") or Pinned()
    state.check_weight(terms, event.kind, job.specification, pinned.records or 1, desk.client_id)
    pinned = state.pinned_keys(pinned, terms)
    position = session_of(terms, desk).begin(desk.random.bytes)
    ledger = await unit.find(Ledger, event.job_id) or budgets.new_ledger(job)
    stopping.check(event, job.specification, await unit.find(Stopping, event.job_id), ledger)
    others = [one for one in await unit.select(Ledger) if one.job_id != event.job_id]
    reserved = await asyncio.to_thread(
        ledgers.reserve, ledger, event.round_id, event.reservation, others, desk.policy, announced=announced
    )
    await unit.save(pinned)
    await unit.save(reserved)
    await unit.save(LocalRound(started=event, trace=unit.trace, session=position.state, ready=position.ready))
    _say(position, terms, unit, desk)


async def on_stage_begun(event: StageBegun, unit: UnitOfWork, desk: Desk) -> None:
    """Serve as a key holder, or go on with the own session."""
    if event.stage in (SHARES, RELEASE):
        await desk.keeper.on_stage_begun(event, unit)
        return
    round_ = await unit.load(LocalRound, event.job_id, event.round_id)
    if round_.phase not in ("accepted", "submitted"):
        raise Stale(f"the round is {round_.phase}")
    if event.terms != round_.started.terms:
        raise Rejected("the session has other terms than it began with")
    terms = SessionTerms.from_bytes(await desk.blobs.get(event.terms))
    session = session_of(terms, desk)
    position = await asyncio.to_thread(
        session.advance, round_.session, event.stage, event.payload, desk.random.bytes
    )
    await unit.save(round_.replace(session=position.state, ready=position.ready))
    _say(position, terms, unit, desk)
    if position.ready:
        desk.wake.set()


def session_of(terms: SessionTerms, desk: Desk) -> ClientSession:
    """The worker's side of the session."""
    return PROTOCOLS[terms.plan.protocol](terms, desk.client_id, desk.identity)


def _say(position: Position, terms: SessionTerms, unit: UnitOfWork, desk: Desk) -> None:
    for stage, payload in position.answers:
        event = answered(terms, desk.client_id, desk.identity, stage, payload)
        unit.publish(event, correlation_id=terms.round_id)


async def on_round_closed(event: RoundClosed, unit: UnitOfWork, desk: Desk) -> None:
    """Stop training a round that is over."""
    round_ = await unit.find(LocalRound, event.job_id, event.round_id)
    if round_ is None:
        raise Stale("the round is not known here")
    started = round_.started
    await desk.keeper.forget((started.job_id, started.round_id, started.group_id), unit)
    if round_.phase == "accepted":
        await _close(round_, event.reason or event.outcome, unit, desk)
    else:
        job = await unit.find(LocalJob, event.job_id)
        over = job is None or job.phase == "closed"
        if event.outcome == "completed" and event.counted and round_.control is not None and not over:
            await unit.save(Control(job_id=event.job_id, values=round_.control))
        await unit.save(round_.replace(session=b"", control=None))


async def on_job_closed(event: JobClosed, unit: UnitOfWork, desk: Desk) -> None:
    """Stop whatever is still going on for the job."""
    job = await unit.find(LocalJob, event.job_id)
    if job is None:
        raise Stale("the job is not known here")
    await unit.save(job.replace(phase="closed", reason=event.reason or event.outcome, sealing_key=b""))
    if (control := await unit.find(Control, event.job_id)) is not None:
        await unit.delete(control)
    if (votes := await unit.find(Stopping, event.job_id)) is not None:
        await unit.delete(votes)
    for round_ in await unit.select(LocalRound, event.job_id):
        if round_.phase == "accepted":
            await _close(round_, event.reason or event.outcome, unit, desk)


async def _close(round_: LocalRound, reason: str, unit: UnitOfWork, desk: Desk) -> None:
    await unit.save(state.ended(round_, "closed", reason).replace(session=b""))
    await give_back(round_.started, unit, desk)
    desk.stopped.add(round_.started.round_id)


async def give_back(started: RoundStarted, unit: UnitOfWork, desk: Desk, trace: str = "") -> None:
    """Release the reservation of a round from which nothing left the client."""
    await unit.save(ledgers.release(await unit.load(Ledger, started.job_id), started.round_id))
    unit.publish(spent_event(started, 0, desk), correlation_id=started.round_id, trace=trace)


async def answer_ready(job: LocalJob, unit: UnitOfWork, desk: Desk) -> None:
    """Tell the coordinator that the worker is ready."""
    pinned = await unit.load(Pinned, "worker")
    if job.layout is None or pinned.records is None:
        raise Stale("the job is not prepared")
    public = SealingKey.from_bytes(job.sealing_key).public
    ready = ClientReady(
        client_id=desk.client_id,
        job_id=job.job_id,
        layout=job.layout,
        records=pinned.records,
        rank=job.rank,
        epsilon=job.epsilon,
        sealing_key=public,
        sealing_signature=sign(desk.identity, key_message(job.job_id, desk.client_id, public)),
    )
    unit.publish(ready, correlation_id=job.job_id, trace=job.trace)


def decline_round(started: RoundStarted, reason: str, unit: UnitOfWork, desk: Desk, trace: str = "") -> None:
    """Say why this round is not trained; its reservation is free again."""
    declined = ClientDeclined(
        client_id=desk.client_id,
        job_id=started.job_id,
        round_id=started.round_id,
        group_id=started.group_id,
        reason=reason,
    )
    unit.publish(declined, correlation_id=started.round_id, trace=trace)
    unit.publish(spent_event(started, 0, desk), correlation_id=started.round_id, trace=trace)


def spent_event(started: RoundStarted, steps: int, desk: Desk) -> BudgetSpent:
    """What the round cost."""
    return BudgetSpent(
        client_id=desk.client_id,
        job_id=started.job_id,
        round_id=started.round_id,
        reservation_id=started.reservation.reservation_id,
        steps=steps,
    )


def _decline_job(job_id: str, reason: str, unit: UnitOfWork, desk: Desk) -> None:
    unit.publish(
        ClientDeclined(client_id=desk.client_id, job_id=job_id, reason=reason), correlation_id=job_id
    )


HANDLERS: Handlers[Desk] = {
    JobAnnounced: on_job_announced,
    RoundStarted: on_round_started,
    RoundClosed: on_round_closed,
    JobClosed: on_job_closed,
    StageBegun: on_stage_begun,
}
