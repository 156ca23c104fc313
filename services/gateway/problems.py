"""Errors of the API as problem+json (RFC 9457)."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from shared.errors import Refused, Rejected, Unavailable
from shared.job.loading import JobFileError

MEDIA_TYPE = "application/problem+json"


def problem(status: int, title: str, detail: str, **more: object) -> JSONResponse:
    """One error: a short title, a sentence that says what to do, and fields that a program reads."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as problem+json."""

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        titles: Mapping[int, str] = {404: "Not found", 405: "Not allowed", 409: "Conflict"}
        return problem(error.status_code, titles.get(error.status_code, "Error"), str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def on_request(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [
            {"field": ".".join(map(str, item["loc"])), "reason": str(item["msg"]), "remedy": "see /docs"}
            for item in error.errors()
        ]
        return problem(422, "Impossible request", "see `problems`", problems=found)

    @app.exception_handler(JobFileError)
    async def on_job(request: Request, error: JobFileError) -> JSONResponse:
        found: list[dict[str, Any]] = [
            {"line": one.line, "field": one.field, "reason": one.reason, "remedy": one.remedy}
            for one in error.problems
        ]
        return problem(422, "Impossible job", "; ".join(map(str, error.problems)), problems=found)

    @app.exception_handler(Refused)
    async def on_refused(request: Request, error: Refused) -> JSONResponse:
        found = [{"field": error.field, "reason": error.reason, "remedy": error.remedy}]
        return problem(422, "Impossible request", str(error), problems=found)

    @app.exception_handler(Unavailable)
    async def on_unavailable(request: Request, error: Unavailable) -> JSONResponse:
        return problem(503, "Unavailable", f"{error or 'a dependency is away'}; try again")

    @app.exception_handler(Rejected)
    async def on_rejected(request: Request, error: Rejected) -> JSONResponse:
        return problem(500, "Damaged", str(error))
