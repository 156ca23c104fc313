"""What secure aggregation does about each event: what participants send goes to the session's protocol."""

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from services.secure_aggregation import pieces
from services.secure_aggregation.context import Aggregation, Gathered
from services.secure_aggregation.conversation import leave_later, talk_later
from services.secure_aggregation.opening import (
    DEADLINE,
    deadline_of,
    on_holder_seen,
    open_session,
)
from services.secure_aggregation.protocols.base import Failed, Step, Summed
from services.secure_aggregation.publishing import left_out, publish_sum, tell
from services.secure_aggregation.state import ABORTED, UPLOAD, Relayed, RoundOver, Session
from shared.core.secagg import sealing
from shared.errors import Rejected, Stale, Unavailable
from shared.events import (
    ClientDeclined,
    DeadlinePassed,
    GroupFailed,
    HolderSeen,
    RoundAborted,
    SessionRequested,
    StageAnswered,
    UpdateSubmitted,
)
from shared.ports import UnitOfWork
from shared.service import Handlers

log = structlog.get_logger()


def held_under(session: Session) -> str:
    """The name under which a session's messages stay unanswered."""
    return "/".join(session.key)


async def on_session_requested(event: SessionRequested, unit: UnitOfWork, context: Aggregation) -> None:
    """Open a session, and tell the other parties at once where there are any."""
    await open_session(event, unit, context)
    session = await unit.find(Session, event.job_id, event.round_id, event.group_id)
    if session is not None:
        talk_later(session, await context.of(session), context, _settle)


async def on_update_submitted(event: UpdateSubmitted, unit: UnitOfWork, context: Aggregation) -> None:
    """Take in a chunk; its message is held until the session's result is committed."""
    session = await _session(event.job_id, event.round_id, event.group_id, unit)
    gathered = await context.of(session)
    pieces.authenticate(event, gathered.running.verify_key(event.client_id))

    def take() -> None:
        upload = gathered.pieces.take(event, gathered.running.upload_bytes + sealing.OVERHEAD_BYTES)
        if upload is not None:
            sender = gathered.running.terms.sender(event.client_id)
            content = sealing.open_(upload, context.keys.sealing, sender.info)
            gathered.running.take_upload(session, event.client_id, content)
            if session.opened_at is not None:
                took = (unit.now - session.opened_at).total_seconds()
                gathered.seconds.setdefault(event.client_id, took)

    _blaming(event.client_id, take, session, gathered, context)
    if not await _settle(session, unit, context):
        unit.hold(held_under(session))
        _relay_later(session, gathered, context)


async def on_stage_answered(event: StageAnswered, unit: UnitOfWork, context: Aggregation) -> None:
    """Take in a message of the protocol; it too is held until the result is committed."""
    session = await _session(event.job_id, event.round_id, event.group_id, unit)
    gathered = await context.of(session)
    running = gathered.running
    message = running.terms.sender(event.client_id).stage_message(event.stage, event.payload)
    sealing.verify(running.verify_key(event.client_id), event.signature, message)
    running.take_answer(session, event.client_id, event.stage, event.payload)
    if not await _settle(session, unit, context):
        unit.hold(held_under(session))


async def on_client_declined(event: ClientDeclined, unit: UnitOfWork, context: Aggregation) -> None:
    """Stop waiting for a client."""
    if event.round_id is None or event.group_id is None:
        raise Stale("about a job, not a round")
    if not context.serves(event.group_id):
        raise Stale("another replica's session")
    session = await _session(event.job_id, event.round_id, event.group_id, unit)
    if event.client_id not in (await context.of(session)).running.terms.members:
        raise Rejected(f"{event.client_id} is not in {event.group_id}")
    session = session.replace(declined={**session.declined, event.client_id: event.reason})
    await unit.save(session)
    await _settle(session, unit, context)


async def on_round_aborted(event: RoundAborted, unit: UnitOfWork, context: Aggregation) -> None:
    """Close the round's sessions and forget what they received."""
    await unit.save(RoundOver(job_id=event.job_id, round_id=event.round_id))
    for found in await unit.select(Session, event.job_id, event.round_id):
        session = await unit.load(Session, *found.key)
        if session.open:
            await _close(session.replace(stage=ABORTED), unit, context)


async def on_deadline_passed(event: DeadlinePassed, unit: UnitOfWork, context: Aggregation) -> None:
    """Go on with what has come, or give the group up."""
    session = await unit.load(Session, *event.subject)
    _check_open(session)
    if unit.now < context.rebuilt_at:
        raise Unavailable("what was held is being delivered again")
    if not await _settle(session, unit, context, waited=True):
        raise Unavailable("what was held is being delivered again")


async def _session(job_id: str, round_id: str, group_id: str, unit: UnitOfWork) -> Session:
    session = await unit.find(Session, job_id, round_id, group_id)
    if session is None:
        if await unit.find(RoundOver, job_id, round_id):
            raise Stale("the round was aborted")
        raise Unavailable(f"no session {group_id} yet")
    _check_open(session)
    return session


def _check_open(session: Session) -> None:
    if not session.open:
        raise Stale(f"the session is {session.stage}")


def _blaming(
    client: str, take: Callable[[], None], session: Session, gathered: Gathered, context: Aggregation
) -> None:
    """Remember who sent what cannot be taken in: nothing of it is kept, and nobody waits for it any more."""
    reason = session.refused.get(client) or gathered.refused.get(client)
    if reason:
        raise Rejected(f"{client}: {reason}")
    try:
        take()
    except Rejected as error:
        gathered.pieces.drop(client)
        if client not in gathered.running.uploads:
            gathered.refused[client] = str(error)
            context.later(partial(_settle_after_refusal, session.key, context))
        raise Rejected(f"{client}: {error}") from error


async def _settle_after_refusal(key: tuple[str, ...], context: Aggregation, unit: UnitOfWork) -> None:
    session = await unit.load(Session, *key)
    _check_open(session)
    gathered = await context.of(session)
    session = session.replace(refused={**session.refused, **gathered.refused})
    await unit.save(session)
    await _settle(session, unit, context)


def _relay_later(session: Session, gathered: Gathered, context: Aggregation) -> None:
    if not gathered.relaying and gathered.running.relay_due(session):
        gathered.relaying = True
        context.later(partial(_relay, session.key, context))


async def _relay(key: tuple[str, ...], context: Aggregation, unit: UnitOfWork) -> None:
    """Pass on what the committee can be told before the uploads are complete."""
    gathered = context.gathered.get(key)
    if gathered is None:
        return
    gathered.relaying = False
    session = await unit.load(Session, *key)
    if session.stage != UPLOAD:
        return
    relayed = await unit.find(Relayed, *key) or Relayed(session=key)
    if (relay := gathered.running.relay(relayed.clients)) is not None:
        tell(relay.messages, session, unit)
        await unit.save(relayed.replace(clients=(*relayed.clients, *relay.clients)))


async def _settle(session: Session, unit: UnitOfWork, context: Aggregation, *, waited: bool = False) -> bool:
    """Let the protocol go on as far as it can; whether the session, or the stage waited for, is over."""
    gathered = await context.of(session)
    before = session.stage
    while session.open:
        overdue = waited and session.stage == before
        clients: tuple[str, ...] = ()
        if session.stage == UPLOAD:
            if gathered.running.enough(session, waited=overdue) is None:
                break
            relayed = await unit.find(Relayed, *session.key)
            clients = relayed.clients if relayed else ()
        with context.telemetry.span(f"settle {session.stage}", group_id=session.group_id):
            step = await asyncio.to_thread(gathered.running.step, session, clients, waited=overdue)
        if step is None:
            break
        session = await _take_step(session, step, gathered, unit, context)
    talk_later(session, gathered, context, _settle)
    return not session.open or (waited and session.stage != before)


async def _take_step(
    session: Session, step: Step, gathered: Gathered, unit: UnitOfWork, context: Aggregation
) -> Session:
    tell(step.messages, session, unit)
    left = session.stage
    session = session.replace(stage=step.stage, decided={**session.decided, left: step.decided})
    match step.outcome:
        case None:
            await unit.save(session)
            until = deadline_of(session, gathered.running.terms.plan, unit.now)
            await unit.schedule(DEADLINE, session.key, until)
        case Summed() as summed:
            await publish_sum(session, summed, gathered, unit, context)
            await _close(session, unit, context)
        case Failed() as failed:
            unit.publish(
                GroupFailed(
                    job_id=session.job_id,
                    round_id=session.round_id,
                    group_id=session.group_id,
                    groups=session.groups,
                    reason=failed.reason,
                    left_out=left_out(session, gathered, ()),
                    faulty=failed.faulty,
                    seconds=dict(gathered.seconds),
                )
            )
            await _close(session, unit, context)
    return session


async def _close(session: Session, unit: UnitOfWork, context: Aggregation) -> None:
    await unit.save(session)
    await unit.unschedule(DEADLINE, session.key)
    unit.release(held_under(session))
    context.close(session)
    leave_later(session, context)


HANDLERS: Handlers[Aggregation] = {
    SessionRequested: on_session_requested,
    UpdateSubmitted: on_update_submitted,
    StageAnswered: on_stage_answered,
    HolderSeen: on_holder_seen,
    ClientDeclined: on_client_declined,
    RoundAborted: on_round_aborted,
    DeadlinePassed: on_deadline_passed,
}
