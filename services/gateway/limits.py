"""The limits of the accountant: which are in force, what set each, and how one is raised."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, HTTPException, Query, Response

from shared.core.chain import Line
from shared.core.privacy.limits import MEANING, UNRAISED, LimitChange, in_force
from shared.events import LimitRaised
from shared.ports import JournalEntry, UnitOfWork, UnitsOfWork

AUDIT = "audit"  # the accountant's journal of changes
Transact = Callable[[Callable[[UnitOfWork], Awaitable[None]]], Awaitable[None]]


def limits_router(units: UnitsOfWork, transact: Transact) -> APIRouter:
    """Read the accountant's log where it is written, as for the ledger; ask for a raise by an event."""
    router = APIRouter(tags=["limits"])

    async def changes() -> list[LimitChange]:
        async with units.begin() as unit:
            entries = await unit.read(AUDIT)
        return [
            LimitChange.of(entry.sequence, entry.entry_sha256, json.loads(entry.body)) for entry in entries
        ]

    @router.get("/limits")
    async def limits() -> list[dict[str, Any]]:
        """Each limit in force with the entry of the log that set it."""
        return [{**asdict(one), "meaning": MEANING[one.limit]} for one in in_force(await changes())]

    @router.post("/limits", status_code=202)
    async def raise_limit(event: LimitRaised) -> dict[str, Any]:
        """Raise a limit for later reservations, for everyone or for one client, with the reason."""
        held = {(one.limit, one.client): one.new for one in in_force(await changes())}
        everyones = held.get((event.limit, "")) or UNRAISED[event.limit]
        old = held.get((event.limit, event.client_id or "")) or everyones
        if event.value <= old:
            raise HTTPException(409, f"{event.limit} is {old:g}: a raise goes above that")

        async def work(unit: UnitOfWork) -> None:
            unit.publish(event)

        await transact(work)
        return {"limit": event.limit, "client": event.client_id or "", "old": old, "new": event.value}

    @router.get("/limits/log")
    async def log(after: int = Query(0, ge=0)) -> Response:
        """The append-only, hash-chained log as JSON lines, written as the ledger's are."""
        async with units.begin() as unit:
            entries = await unit.read(AUDIT, after)
        text = "".join(_line(entry).text() + "\n" for entry in entries)
        return Response(text, media_type="application/jsonl")

    return router


def _line(entry: JournalEntry) -> Line:
    return Line(entry.sequence, entry.previous_sha256, entry.entry_sha256, json.loads(entry.body))
