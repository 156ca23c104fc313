"""What party 1 or 2 answers about secrets, the norm check and the Gram matrix.

What party 0 must not see goes straight between the other two: party 2's key (with it, zeros no longer hide
party 1's messages), and party 2's messages of the norm check, whose three summands party 0 would else know.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from services.secure_aggregation.parties.context import Custody, Key, Place, held_open
from services.secure_aggregation.parties.seat import Seat
from services.secure_aggregation.parties.side import of_three
from shared.core.secagg.mpc3.terms import PARTIES
from shared.errors import Rejected
from shared.ports import UnitOfWork

Body = Mapping[str, Any]


async def secrets(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """Show party 0 this party's coin, once all commitments are durable, and take uploads in from now on."""
    side = place.side
    commitments = await _bound(custody, key, place, body)
    if not side.ready:
        asked = {"session": list(key), "commitments": commitments}
        of_third = await custody.links.ask(custody.third, "coin", asked)
        place.refused.update(
            side.enter(commitments, {0: _bytes(body, "opening"), custody.third: _known_bytes(of_third)})
        )
        async with place.arrived:
            place.arrived.notify_all()
    return side.setup.opening(0, commitments)


async def coin(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """Show the third party this one's coin, and the key that is for it."""
    return place.side.setup.opening(custody.third, await _bound(custody, key, place, body))


async def _bound(custody: Custody, key: Key, place: Place, body: Body) -> dict[int, bytes]:
    """The commitments: those that this party heard first are the session's."""
    commitments = of_three(body.get("commitments"), "commitments")
    if commitments[custody.index] != place.side.setup.commitment:
        raise Rejected("this is not what this party committed to")
    whole = b"".join(commitments[party] for party in range(PARTIES))

    async def work(unit: UnitOfWork) -> None:
        seat = held_open(await unit.find(Seat, *key))
        if seat.commitments not in (b"", whole):
            raise Rejected("the parties committed to other coins before")
        if not seat.commitments:
            await unit.save(seat.replace(commitments=whole))

    await custody.transact(work)
    return commitments


async def check(custody: Custody, key: Key, place: Place, body: Body) -> list[str] | None:
    """Begin the norm check; whom it found, where it is over already."""
    side = place.side
    side.freeze(of_three(body.get("signatures"), "signatures"))
    if side.layers is None and side.flagged is None:

        async def work(unit: UnitOfWork) -> None:
            seat = held_open(await unit.find(Seat, *key))
            if seat.flagged is not None:
                side.recall(seat.flagged)
            elif seat.checking:
                raise Rejected("this party lost its memory during the norm check, which is done once")
            else:
                await unit.save(seat.replace(checking=True))

        await custody.transact(work)
    if side.flagged is not None:
        return sorted(side.flagged)
    side.begin_check()
    return None


async def layer(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """One step: party 2 takes party 0's message; party 1 fetches party 2's last one, and says its own."""
    layers, step = place.side.begun_check(), _step(body)
    if custody.index == PARTIES - 1:
        layers.hear(step, _bytes(body, "message"))
        return b""
    if step == layers.heard + 1:
        asked = {"session": list(key), "step": step - 1}
        layers.hear(step - 1, _known_bytes(await custody.links.ask(custody.third, "said", asked)))
    return b"" if layers.done and step == layers.heard else layers.say(step)


async def said(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """Party 2's message of a step, for party 1."""
    if custody.index != PARTIES - 1:
        raise Rejected(f"what party {custody.index} says in the norm check is not for party {custody.third}")
    return place.side.begun_check().say(_step(body))


async def verdict(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """Open the norm check's bits, make durable whom they name, and say what opens them at party 0."""
    side = place.side
    layers = side.begun_check()
    if side.flagged is None:
        of_third = await custody.links.ask(custody.third, "bits", {"session": list(key)})
        side.conclude({0: _bytes(body, "bits"), custody.third: _known_bytes(of_third)})

    async def work(unit: UnitOfWork) -> None:
        seat = held_open(await unit.find(Seat, *key))
        await unit.save(seat.replace(flagged=tuple(sorted(side.flagged or ()))))

    await custody.transact(work)
    return layers.verdict_for(0)


async def bits(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """What opens the norm check's bits at the third party."""
    return place.side.begun_check().verdict_for(custody.third)


async def gram(custody: Custody, key: Key, place: Place, body: Body) -> bytes:
    """Give party 0 a hidden summand of the Gram matrix."""
    return await asyncio.to_thread(place.side.gram_share)


def _step(body: Body) -> int:
    step = body.get("step")
    if not isinstance(step, int) or step < 0:
        raise Rejected("a step of the norm check has a number")
    return step


def _bytes(body: Body, name: str) -> bytes:
    return _known_bytes(body.get(name))


def _known_bytes(content: object) -> bytes:
    if not isinstance(content, bytes):
        raise Rejected("these are no bytes")
    return content
