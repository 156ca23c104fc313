"""What party 1 or 2 does about each event: it takes in its shares and keeps their messages held."""

from services.secure_aggregation import pieces
from services.secure_aggregation.parties.context import Custody, Place
from services.secure_aggregation.parties.requests import end, held_under
from services.secure_aggregation.parties.seat import Seat
from shared.core.secagg import sealing
from shared.errors import Rejected, Stale, Unavailable
from shared.events import DeadlinePassed, ShareSubmitted
from shared.ports import UnitOfWork
from shared.service import Handlers


async def on_share_submitted(event: ShareSubmitted, unit: UnitOfWork, custody: Custody) -> None:
    """Take in a chunk; its message is held until party 0 says that the session is over."""
    key = (event.job_id, event.round_id, event.group_id)
    seat = await unit.find(Seat, *key)
    if seat is None:
        raise Unavailable(f"party 0 has not opened {event.group_id} yet")
    if seat.over:
        raise Stale("the session is over")
    place = custody.place(seat)
    member = place.terms.members.get(event.client_id)
    if member is None:
        raise Rejected(f"{event.client_id} has no part in {event.group_id}")
    pieces.authenticate(event, member.verify_key)
    try:
        _take(event, place, custody)
    finally:
        async with place.arrived:
            place.arrived.notify_all()
    unit.hold(held_under(key))


def _take(event: ShareSubmitted, place: Place, custody: Custody) -> None:
    client = event.client_id
    if client in place.refused:
        raise Rejected(f"{client}: {place.refused[client]}")
    try:
        upload = place.pieces.take(event, place.side.upload_bytes + sealing.OVERHEAD_BYTES)
        if upload is not None:
            content = sealing.open_(upload, custody.keys.sealing, place.terms.sender(client).info)
            place.side.take(client, content)
    except Rejected as error:
        place.pieces.drop(client)
        if client not in place.side.clients:
            place.refused[client] = str(error)
        raise Rejected(f"{client}: {error}") from error


async def on_deadline_passed(event: DeadlinePassed, unit: UnitOfWork, custody: Custody) -> None:
    """Party 0 has not said that the session is over, and will not any more."""
    seat = await unit.load(Seat, *event.subject)
    if seat.over:
        raise Stale("the session is over")
    await end(seat, unit, custody)


HANDLERS: Handlers[Custody] = {ShareSubmitted: on_share_submitted, DeadlinePassed: on_deadline_passed}
