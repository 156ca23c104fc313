"""The REST API: jobs, their feeds and adapters, the ledger, clients."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from services.gateway import state
from services.gateway.adapter import Parts, zipped_adapter
from services.gateway.budgets import BudgetView
from services.gateway.card import model_card
from services.gateway.handlers import feed_of, presence_key
from services.gateway.limits import limits_router
from services.gateway.lookup import job_of
from services.gateway.problems import install
from services.gateway.settings import GatewaySettings
from services.gateway.standings import StandingView, ranked
from services.gateway.starts import start_of, starts_router
from services.gateway.state import ClientView, JobView
from services.gateway.statement import statement_of
from services.gateway.suspensions import suspensions_router
from shared.events import JobCancelled, JobSubmitted
from shared.job.loading import parse_job
from shared.job.schema import job_schema
from shared.ports import BlobStore, Cache, JournalEntry, RandomSource, UnitOfWork, UnitsOfWork

LEDGER = "ledger"  # the accountant's journal


@dataclass(frozen=True)
class Gateway:
    """What the API stands on.

    The accountant's journal is read where it is written, in the federation's database: an export
    must be the very bytes that the chain hashes, and a copy carried by events could be neither
    complete nor checkable while a notice is on its way.
    """

    units: UnitsOfWork
    transact: Callable[[Callable[[UnitOfWork], Awaitable[None]]], Awaitable[None]]
    blobs: BlobStore
    cache: Cache
    random: RandomSource
    ready: Callable[[], bool]
    settings: GatewaySettings


def create_app(gateway: Gateway) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="fedlora", version="0.1.0")
    install(app)
    limits = limits_router(gateway.units, gateway.transact)
    suspensions = suspensions_router(gateway.units, gateway.transact)
    for router in (
        _jobs(gateway),
        starts_router(gateway.blobs),
        _feed(gateway),
        _observations(gateway),
        limits,
        suspensions,
    ):
        app.include_router(router)
    return app


def _jobs(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["jobs"])

    @router.post("/jobs", status_code=201)
    async def submit(
        request: Request, response: Response, submitted_by: str = "", start: str = ""
    ) -> dict[str, Any]:
        """Submit a job as YAML or JSON; `start` names tensors that POST /starts has taken."""
        specification = await run_in_threadpool(parse_job, await request.body(), "job")
        job_id = f"{specification.name}-{gateway.random.bytes(4).hex()}"
        event = JobSubmitted(
            job_id=job_id,
            specification=specification,
            submitted_by=submitted_by,
            start=await start_of(start, gateway.blobs),
        )

        async def work(unit: UnitOfWork) -> None:
            await unit.save(state.submitted(JobView(job_id=job_id), event, unit.now))
            unit.publish(event, correlation_id=job_id)

        await gateway.transact(work)
        response.headers["Location"] = f"/jobs/{job_id}"
        return {"job_id": job_id, "status": "submitted"}

    @router.get("/jobs")
    async def jobs() -> list[dict[str, Any]]:
        """Every job, latest first."""
        async with gateway.units.begin() as unit:
            views = await unit.select(JobView)
        views.sort(key=lambda view: str(view.submitted_at or ""), reverse=True)
        return [_summary(view) for view in views]

    @router.get("/jobs/{job_id}")
    async def job(job_id: str) -> dict[str, Any]:
        """One job with its rounds, what each client has spent, and how often a rule left it out."""
        async with gateway.units.begin() as unit:
            view = await job_of(unit, job_id)
            budgets = await unit.select(BudgetView, job_id)
            standings = await unit.select(StandingView, job_id)
        said = await run_in_threadpool(statement_of, view, budgets)
        return {
            **_summary(view),
            "specification": view.specification.model_dump(mode="json") if view.specification else None,
            "noise_multiplier": view.noise_multiplier,
            "statement": asdict(said) if said else None,
            "adapter": view.adapter.model_dump(mode="json") if view.adapter else None,
            "rounds": [view.rounds[number].model_dump(mode="json") for number in sorted(view.rounds)],
            "budgets": [_budget(one) for one in budgets],
            "clients": ranked(standings),
        }

    @router.delete("/jobs/{job_id}", status_code=202)
    async def cancel(job_id: str, reason: str = "cancelled by an operator") -> dict[str, Any]:
        """Ask the job to stop; the round in progress is aborted."""
        async with gateway.units.begin() as unit:
            view = await job_of(unit, job_id)
        if view.over:
            raise HTTPException(409, f"job {job_id} is over: {view.status}")

        async def work(unit: UnitOfWork) -> None:
            unit.publish(JobCancelled(job_id=job_id, reason=reason), correlation_id=job_id)

        await gateway.transact(work)
        return {"job_id": job_id, "status": "cancelling"}

    @router.get("/jobs/{job_id}/adapter")
    async def adapter(job_id: str) -> Response:
        """The latest global adapter: a zip of a folder that `PeftModel.from_pretrained` loads."""
        async with gateway.units.begin() as unit:
            view = await job_of(unit, job_id)
            budgets = await unit.select(BudgetView, job_id)
        said = await run_in_threadpool(statement_of, view, budgets)
        if view.adapter is None or view.layout is None or view.specification is None or said is None:
            raise HTTPException(409, f"job {job_id} has no adapter yet: {view.status}")
        found = [b"" if ref is None else await gateway.blobs.get(ref) for ref in (view.start, view.base)]
        parts = Parts(await gateway.blobs.get(view.adapter), *found)
        card = model_card(view, budgets, said)
        content = await run_in_threadpool(zipped_adapter, view.specification, view.layout, parts, card)
        disposition = f'attachment; filename="{job_id}.zip"'
        return Response(content, media_type="application/zip", headers={"Content-Disposition": disposition})

    return router


def _feed(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs/{job_id}/events")
    async def events(
        job_id: str, after: int = Query(0, ge=0), wait_s: float = Query(0.0, ge=0)
    ) -> list[dict[str, Any]]:
        """Notices after number `after`; waits up to `wait_s` seconds for the first (long poll)."""
        until = time.monotonic() + min(wait_s, gateway.settings.longest_wait_s)
        while True:
            async with gateway.units.begin() as unit:
                await job_of(unit, job_id)
                entries = await unit.read(feed_of(job_id), after)
            if entries or time.monotonic() >= until:
                return [{"sequence": entry.sequence, **json.loads(entry.body)} for entry in entries]
            # Another replica may have written the notice, so the database is asked, not a condition.
            await asyncio.sleep(gateway.settings.poll_s)

    return router


def _observations(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["observation"])

    @router.get("/ledger")
    async def ledger(
        job: str = "", after: int = Query(0, ge=0), limit: int = Query(10_000, ge=1, le=100_000)
    ) -> Response:
        """The privacy ledger as JSON lines, in order, with the chain's hashes. With `job`, only
        that job's lines, whose chain then has gaps; `fedlora ledger verify` wants all of them."""
        async with gateway.units.begin() as unit:
            entries = await unit.read(LEDGER, after, limit)
        lines = [_ledger_line(entry) for entry in entries]
        if job:
            lines = [line for line in lines if line["body"].get("job") == job]
        text = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
        more = {"X-Next-After": str(entries[-1].sequence)} if len(entries) == limit else {}
        return Response(text, media_type="application/jsonl", headers=more)

    @router.get("/clients")
    async def clients() -> list[dict[str, Any]]:
        """Workers that have joined, and what those that are present last said they were doing."""
        async with gateway.units.begin() as unit:
            views = await unit.select(ClientView)
        activity = await gateway.cache.get_many([presence_key(view.client_id) for view in views])
        return [
            {
                **view.model_dump(mode="json"),
                "present": presence_key(view.client_id) in activity,
                "activity": activity.get(presence_key(view.client_id), ""),
            }
            for view in views
        ]

    @router.get("/schema/job")
    async def schema() -> dict[str, Any]:
        """The JSON schema of a job."""
        return job_schema()

    @router.get("/ready")
    async def ready() -> dict[str, bool]:
        """Whether the gateway hears the bus and its database answers."""
        if not (gateway.ready() and await gateway.units.healthy()):
            raise HTTPException(503, "the bus or the database is away")
        return {"ready": True}

    return router


def _summary(view: JobView) -> dict[str, Any]:
    done = sum(one.status == "completed" for one in view.rounds.values())
    return {
        "job_id": view.job_id,
        "status": view.status,
        "name": view.specification.name if view.specification else "",
        "rounds_completed": done,
        "rounds_planned": view.specification.rounds.count if view.specification else 0,
        "submitted_by": view.submitted_by,
        "submitted_at": view.submitted_at.isoformat() if view.submitted_at else None,
        "ended_at": view.ended_at.isoformat() if view.ended_at else None,
        "reason": view.reason,
        "remedy": view.remedy,
        "waiting": view.waits_for,
    }


def _budget(view: BudgetView) -> dict[str, Any]:
    return {
        "client_id": view.client_id,
        "epsilon": view.epsilon,
        "epsilon_rdp": view.epsilon_rdp,
        "epsilon_limit": view.epsilon_limit,
        "delta": view.delta,
        "running_low": view.running_low,
        "entries": [view.entries[sequence].model_dump(mode="json") for sequence in sorted(view.entries)],
    }


def _ledger_line(entry: JournalEntry) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "previous_sha256": entry.previous_sha256,
        "entry_sha256": entry.entry_sha256,
        "body": json.loads(entry.body),
    }
