"""What party 1 or 2 answers the others; every request may come again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from services.secure_aggregation.parties import checks
from services.secure_aggregation.parties.context import Custody, Key, Place, held_open, public_keys
from services.secure_aggregation.parties.seat import Seat
from services.secure_aggregation.parties.side import of_three
from shared.core.secagg.mpc3.selection import selection_from_bytes
from shared.errors import Rejected, Stale, Unavailable
from shared.ports import UnitOfWork
from shared.sessions.terms import SessionTerms, mpc3_terms

FORGET = "forget"
GRACE_S = 60.0  # after a deadline and four stages: then party 0 will not come back to the session
LONGEST_WAIT_S = 3600.0


def held_under(key: Key) -> str:
    """The name under which a session's messages stay unanswered."""
    return "/".join(key)


async def serve(custody: Custody, sender: int, kind: str, body: Any) -> Any:  # noqa: ANN401 - msgpack
    """Answer one request of party `sender`.

    Raises: Rejected for what is never answered, Unavailable for what may be asked again, Stale for a
        session that is over.
    """
    if kind == "keys":
        return public_keys(custody.keys)
    answers = ANSWERS if sender == 0 else ANSWERS_TO_THIRD
    known = kind in answers or (sender == 0 and kind in ("open", "over"))
    if not isinstance(body, Mapping) or not known:
        raise Rejected(f"no request {kind!r} of party {sender}")
    if kind == "open":
        return await _open(custody, body)
    key = tuple(str(part) for part in body.get("session", ()))
    if kind == "over":
        return await forget(custody, key)
    return await answers[kind](custody, key, custody.place(await _seat(custody, key)), body)


async def _open(custody: Custody, body: Mapping[str, Any]) -> bytes:
    """Open a session; this party's commitment to its coin."""
    content, deadline = body.get("terms"), body.get("deadline")
    if not isinstance(content, bytes) or not isinstance(deadline, datetime):
        raise Rejected("a session opens with terms and a deadline")
    terms = SessionTerms.from_bytes(content)
    mpc3_terms(terms)
    key = (terms.job_id, terms.round_id, terms.group_id)
    verify, sealing = public_keys(custody.keys)
    _check_keys(terms, custody.index, (verify, sealing))
    _check_keys(terms, custody.third, await custody.keys_of_third())

    async def work(unit: UnitOfWork) -> None:
        known = await unit.find(Seat, *key)
        if known is not None:
            if known.terms != content:
                raise Rejected("the session was opened on other terms")
            return
        await unit.save(Seat(session=key, terms=content, deadline=deadline))
        late = deadline + timedelta(seconds=4 * terms.plan.stage_s + GRACE_S)
        await unit.schedule(FORGET, key, late)

    await custody.transact(work)
    return custody.place(await _seat(custody, key)).side.setup.commitment


def _check_keys(terms: SessionTerms, party: int, keys: tuple[bytes, bytes]) -> None:
    if (terms.party_keys[party], terms.aggregation_keys[party]) != keys:
        raise Rejected(f"the terms name other keys than those of party {party}")


async def _close(custody: Custody, key: Key, place: Place, body: Mapping[str, Any]) -> dict[str, Any]:
    side, expected = place.side, set(map(str, body.get("clients", ())))
    if not side.closed:
        if side.allowed is not None:
            expected = set(side.allowed)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(float(body.get("wait_s", 0)), LONGEST_WAIT_S)), place.arrived:
                await place.arrived.wait_for(lambda: expected <= side.clients | place.refused.keys())
    holdings = side.close()
    closed = tuple(sorted(side.clients))

    async def work(unit: UnitOfWork) -> None:
        seat = held_open(await unit.find(Seat, *key))
        if seat.closed is None:
            await unit.save(seat.replace(closed=closed, refused=place.refused))
        elif seat.closed != closed:
            raise Rejected("this party closed with other uploads before")

    await custody.transact(work)
    return {"holdings": holdings, "refused": place.refused}


async def _holdings(custody: Custody, key: Key, place: Place, body: Mapping[str, Any]) -> bytes:
    if not place.side.closed:
        raise Unavailable("uploads are still taken in")
    return place.side.close()


async def _agree(custody: Custody, key: Key, place: Place, body: Mapping[str, Any]) -> bytes:
    if not place.side.closed:
        raise Unavailable("this party has not closed")
    if not place.side.survivors_digest:
        asked = {"session": list(key)}
        of_third = await custody.links.ask(custody.third, "holdings", asked)
        place.side.agree({0: body.get("holdings", b""), custody.third: of_third})
    digest = place.side.survivors_digest

    async def work(unit: UnitOfWork) -> None:
        seat = held_open(await unit.find(Seat, *key))
        if seat.survivors not in (b"", digest):
            raise Rejected("this party has signed another survivor set of the session")
        await unit.save(seat.replace(survivors=digest))

    await custody.transact(work)
    return place.side.sign_survivors()


async def _choose(custody: Custody, key: Key, place: Place, body: Mapping[str, Any]) -> bytes:
    """Sign the selection that party 0 names; where nobody is judged there is only that of everyone."""
    side = place.side
    side.freeze(of_three(body.get("signatures"), "signatures"))
    given = body.get("selection")
    selection = selection_from_bytes(given) if isinstance(given, bytes) else side.everyone()
    if not side.judging and selection != side.everyone():
        raise Rejected("nobody is judged: the sum of all is the only one")

    async def work(unit: UnitOfWork) -> None:
        seat = held_open(await unit.find(Seat, *key))
        if seat.selection not in (b"", selection.digest):
            raise Rejected("this party has signed another selection of the session")
        await unit.save(seat.replace(selection=selection.digest))

    await custody.transact(work)
    return await asyncio.to_thread(side.choose, selection)


async def _release(custody: Custody, key: Key, place: Place, body: Mapping[str, Any]) -> bytes:
    signatures = of_three(body.get("signatures"), "signatures")
    return await asyncio.to_thread(place.side.release, signatures, 0)


Answer = Callable[[Custody, Key, Place, Mapping[str, Any]], Awaitable[Any]]
ANSWERS: Mapping[str, Answer] = {
    "secrets": checks.secrets,
    "close": _close,
    "agree": _agree,
    "check": checks.check,
    "layer": checks.layer,
    "verdict": checks.verdict,
    "gram": checks.gram,
    "choose": _choose,
    "release": _release,
}
ANSWERS_TO_THIRD: Mapping[str, Answer] = {
    "coin": checks.coin,
    "holdings": _holdings,
    "said": checks.said,
    "bits": checks.bits,
}


async def forget(custody: Custody, key: Key) -> None:
    """End the session: its held messages are acknowledged, its sums dropped."""

    async def work(unit: UnitOfWork) -> None:
        seat = await unit.find(Seat, *key)
        if seat is None:
            raise Stale("no such session")
        await end(seat, unit, custody)

    await custody.transact(work)


async def end(seat: Seat, unit: UnitOfWork, custody: Custody) -> None:
    """As `forget`, in a transaction."""
    await unit.save(seat.replace(over=True))
    await unit.unschedule(FORGET, seat.key)
    unit.release(held_under(seat.key))
    custody.places.pop(seat.key, None)


async def _seat(custody: Custody, key: Key) -> Seat:
    found: list[Seat] = []

    async def work(unit: UnitOfWork) -> None:
        found.append(held_open(await unit.find(Seat, *key)))

    await custody.transact(work)
    return found[0]
