"""What secure aggregation does about each event."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from services.secure_aggregation import state
from services.secure_aggregation.state import Collection, RoundOver, Session
from shared.core.secagg import fixed_point
from shared.errors import Rejected, Stale, Unavailable
from shared.events import (
    ClientDeclined,
    DeadlinePassed,
    GroupFailed,
    GroupSummed,
    RoundAborted,
    SessionOpened,
    SessionRequested,
    UpdateSubmitted,
)
from shared.ports import BlobStore, UnitOfWork
from shared.service import Handlers

DEADLINE = "session"
Work = Callable[[UnitOfWork], Awaitable[None]]


@dataclass
class Aggregation:
    """What the handlers share: the key, the sums in memory, and the way to a transaction of their own."""

    key: X25519PrivateKey
    blobs: BlobStore
    rebuilt_at: datetime  # until then the broker may still be delivering held uploads again
    collections: dict[tuple[str, ...], Collection] = field(default_factory=dict)
    transact: Callable[[Work], Awaitable[None]] | None = None
    closed: set[tuple[str, ...]] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def collection(self, session: Session) -> Collection:
        """The session's uploads so far."""
        if session.key not in self.collections:
            self.collections[session.key] = Collection(fixed_point.zeros(session.dimension))
        return self.collections[session.key]

    def later(self, work: Work) -> None:
        """Do `work` in a transaction after the one in progress has been rolled back."""
        if self.transact is not None:
            task = asyncio.ensure_future(self._quietly(work))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _quietly(self, work: Work) -> None:
        if self.transact is not None:
            try:
                await self.transact(work)
            except (Stale, Unavailable):
                return  # the deadline settles the session


def held_under(session: Session) -> str:
    """The name under which a session's uploads stay unanswered."""
    return "/".join(session.key)


async def on_session_requested(event: SessionRequested, unit: UnitOfWork, context: Aggregation) -> None:
    """Open a session and hand out the key."""
    if await unit.find(RoundOver, event.job_id, event.round_id):
        raise Stale("the round was aborted")
    if await unit.find(Session, event.job_id, event.round_id, event.group_id):
        raise Stale("the session is open")
    session = state.opened(event)
    await unit.save(session)
    await unit.schedule(DEADLINE, session.key, session.deadline)
    unit.publish(
        SessionOpened(
            job_id=event.job_id,
            round_id=event.round_id,
            group_id=event.group_id,
            aggregation_key=context.key.public_key().public_bytes_raw(),
        )
    )


async def on_update_submitted(event: UpdateSubmitted, unit: UnitOfWork, context: Aggregation) -> None:
    """Take in a chunk; its message is held until the session's result is committed."""
    session = await unit.find(Session, event.job_id, event.round_id, event.group_id)
    if session is None:
        if await unit.find(RoundOver, event.job_id, event.round_id):
            raise Stale("the round was aborted")
        raise Unavailable(f"no session {event.group_id} yet")
    _check_open(session)
    state.authenticate(session, event)
    collection = context.collection(session)
    try:
        state.collect(session, collection, event, context.key)
    except Rejected:
        if event.client_id in collection.refused:
            context.later(partial(_settle_after_refusal, session.key, context))
        raise
    if not await _settle(session, unit, context):
        unit.hold(held_under(session))


async def on_client_declined(event: ClientDeclined, unit: UnitOfWork, context: Aggregation) -> None:
    """Stop waiting for a client."""
    if event.round_id is None:
        raise Stale("about a job, not a round")
    if await unit.find(RoundOver, event.job_id, event.round_id):
        raise Stale("the round was aborted")
    found = [
        s for s in await unit.select(Session, event.job_id, event.round_id) if event.client_id in s.members
    ]
    if not found:
        raise Unavailable(f"no session of {event.client_id} in {event.round_id} yet")
    session = await unit.load(Session, *found[0].key)
    _check_open(session)
    session = session.replace(declined={**session.declined, event.client_id: event.reason})
    await unit.save(session)
    await _settle(session, unit, context)


async def on_round_aborted(event: RoundAborted, unit: UnitOfWork, context: Aggregation) -> None:
    """Close the round's sessions and forget their uploads."""
    await unit.save(RoundOver(job_id=event.job_id, round_id=event.round_id))
    for found in await unit.select(Session, event.job_id, event.round_id):
        session = await unit.load(Session, *found.key)
        if session.phase == "collecting":
            await _close(session.replace(phase="aborted"), unit, context)


async def on_deadline_passed(event: DeadlinePassed, unit: UnitOfWork, context: Aggregation) -> None:
    """Sum what has come, or give the group up."""
    session = await unit.load(Session, *event.subject)
    _check_open(session)
    if unit.now < context.rebuilt_at:
        raise Unavailable("uploads that were held are being delivered again")
    await _settle(session, unit, context, waited=True)


async def _settle_after_refusal(key: tuple[str, ...], context: Aggregation, unit: UnitOfWork) -> None:
    session = await unit.load(Session, *key)
    _check_open(session)
    collection = context.collection(session)
    session = session.replace(refused={**session.refused, **collection.refused})
    await unit.save(session)
    await _settle(session, unit, context)


def _check_open(session: Session) -> None:
    if session.phase != "collecting":
        raise Stale(f"the session is {session.phase}")


async def _settle(session: Session, unit: UnitOfWork, context: Aggregation, *, waited: bool = False) -> bool:
    """Publish the session's result if it is due; whether it was."""
    collection = context.collection(session)
    if not waited and not state.complete(session, collection):
        return False
    left_out = state.left_out(session, collection)
    if state.enough(session, collection):
        unit.publish(
            GroupSummed(
                job_id=session.job_id,
                round_id=session.round_id,
                group_id=session.group_id,
                total=await context.blobs.put(fixed_point.total_to_bytes(collection.total)),
                fraction_bits=fixed_point.FRACTION_BITS,
                members=tuple(sorted(collection.summed)),
                left_out=left_out,
            )
        )
        await _close(session.replace(phase="summed"), unit, context)
    else:
        unit.publish(
            GroupFailed(
                job_id=session.job_id,
                round_id=session.round_id,
                group_id=session.group_id,
                reason=f"{len(collection.summed)} of {len(session.members)} updates came, "
                f"{session.min_uploads} are needed",
                left_out=left_out,
            )
        )
        await _close(session.replace(phase="failed"), unit, context)
    return True


async def _close(session: Session, unit: UnitOfWork, context: Aggregation) -> None:
    await unit.save(session)
    await unit.unschedule(DEADLINE, session.key)
    unit.release(held_under(session))
    # Kept until the commit is certain: a lost commit is handled again from the same sum.
    for key in [k for k in context.collections if k != session.key and k in context.closed]:
        del context.collections[key]
        context.closed.discard(key)
    context.closed.add(session.key)


HANDLERS: Handlers[Aggregation] = {
    SessionRequested: on_session_requested,
    UpdateSubmitted: on_update_submitted,
    ClientDeclined: on_client_declined,
    RoundAborted: on_round_aborted,
    DeadlinePassed: on_deadline_passed,
}
