"""When party 0 talks to the others: after the transaction that made it due, and outside of any."""

from collections.abc import Awaitable, Callable
from functools import partial

from services.secure_aggregation.context import Aggregation, Gathered
from services.secure_aggregation.protocols import PROTOCOLS
from services.secure_aggregation.state import Session
from shared.ports import UnitOfWork

Settle = Callable[[Session, UnitOfWork, Aggregation], Awaitable[bool]]


def talk_later(session: Session, gathered: Gathered, context: Aggregation, settle: Settle) -> None:
    """Once the stage is committed, agree with the other parties on what is due, and then `settle`."""
    if session.open and gathered.talking is None and gathered.running.talk(session) is not None:
        context.later(partial(_talk, session.key, context, settle))


def leave_later(session: Session, context: Aggregation) -> None:
    """Once the session's end is committed, tell the other parties that it is over."""
    if PROTOCOLS[session.protocol].several:
        context.later(partial(_leave, session.key, context))


async def _talk(key: tuple[str, ...], context: Aggregation, settle: Settle, unit: UnitOfWork) -> None:
    session, gathered = await unit.load(Session, *key), context.gathered.get(key)
    if not session.open or gathered is None or gathered.talking is not None or context.others is None:
        return
    talk = gathered.running.talk(session)
    if talk is not None:
        talking = talk(context.others.links, context.telemetry)
        gathered.talking = context.beside(_converse(talking, session, gathered, context, settle))


async def _converse(
    talk: Awaitable[None], session: Session, gathered: Gathered, context: Aggregation, settle: Settle
) -> None:
    try:
        await talk
    finally:
        gathered.talking = None
    context.later(partial(_go_on, session.key, context, settle))


async def _go_on(key: tuple[str, ...], context: Aggregation, settle: Settle, unit: UnitOfWork) -> None:
    session = await unit.load(Session, *key)
    if session.open:
        await settle(session, unit, context)


async def _leave(key: tuple[str, ...], context: Aggregation, unit: UnitOfWork) -> None:
    session = await unit.load(Session, *key)
    if session.open or context.others is None:
        return
    gathered = await context.of(session)
    if gathered.talking is not None:
        gathered.talking.cancel()
    context.beside(gathered.running.farewell(context.others.links))
