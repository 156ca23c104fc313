"""Clients of a job as its rule has judged them, and people who suspend and reinstate them."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel

from services.gateway.lookup import client_of, job_of
from services.gateway.standings import StandingView, ranked
from shared.events import ReinstatementRequested, SuspensionRequested
from shared.events.gateway import Sentence
from shared.ports import UnitOfWork, UnitsOfWork

Transact = Callable[[Callable[[UnitOfWork], Awaitable[None]]], Awaitable[None]]


class Request(BaseModel):
    """Why, and who asks."""

    reason: Sentence
    requested_by: Sentence


def suspensions_router(units: UnitsOfWork, transact: Transact) -> APIRouter:
    """Standings as the coordinator told them; what people ask goes to it by an event."""
    router = APIRouter(prefix="/jobs/{job_id}/clients", tags=["clients of a job"])

    @router.get("")
    async def clients(job_id: str) -> list[dict[str, Any]]:
        """Clients that a rule has judged or a person suspended: score, how often left out, suspended, why."""
        async with units.begin() as unit:
            await job_of(unit, job_id)
            views = await unit.select(StandingView, job_id)
        return ranked(views)

    @router.post("/{client_id}/suspend", status_code=202)
    async def suspend(job_id: str, client_id: str, request: Request) -> dict[str, Any]:
        """Ask the client no more from the next round on, whatever its score. Again has no effect."""
        suspended = await _check(job_id, client_id, root_too=False)
        event = SuspensionRequested(job_id=job_id, client_id=client_id, **request.model_dump())
        return await _ask(event, suspended)

    @router.post("/{client_id}/reinstate", status_code=202)
    async def reinstate(job_id: str, client_id: str, request: Request) -> dict[str, Any]:
        """Ask a suspended client again, with a score that begins anew. Again has no effect."""
        suspended = await _check(job_id, client_id, root_too=True)
        event = ReinstatementRequested(job_id=job_id, client_id=client_id, **request.model_dump())
        return await _ask(event, suspended)

    async def _check(job_id: str, client_id: str, *, root_too: bool) -> str:
        """Why the client is suspended; empty if it is not."""
        async with units.begin() as unit:
            job = await job_of(unit, job_id)
            await client_of(unit, client_id)
            view = await unit.find(StandingView, job_id, client_id)
        if job.over:
            raise HTTPException(409, f"job {job_id} is over: {job.status}")
        root = job.specification.aggregation.root if job.specification else None
        if client_id == root and not root_too:
            raise HTTPException(
                409, f"{client_id} is the client by whose update {job_id} measures the others: cancel the job"
            )
        return view.standing.suspended if view else ""

    async def _ask(event: SuspensionRequested | ReinstatementRequested, suspended: str) -> dict[str, Any]:
        async def work(unit: UnitOfWork) -> None:
            unit.publish(event, correlation_id=event.job_id)

        await transact(work)
        return {"job_id": event.job_id, "client_id": event.client_id, "suspended": suspended}

    return router
