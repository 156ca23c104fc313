"""What a request names, or the problem that it is not there."""

from fastapi import HTTPException

from services.gateway.state import ClientView, JobView
from shared.ports import UnitOfWork


async def job_of(unit: UnitOfWork, job_id: str) -> JobView:
    """The job. Raises: HTTPException 404."""
    view = await unit.find(JobView, job_id)
    if view is None:
        raise HTTPException(404, f"there is no job {job_id}; see GET /jobs")
    return view


async def client_of(unit: UnitOfWork, client_id: str) -> ClientView:
    """The client. Raises: HTTPException 404."""
    view = await unit.find(ClientView, client_id)
    if view is None:
        raise HTTPException(404, f"there is no client {client_id}; see GET /clients")
    return view
