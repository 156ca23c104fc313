"""The HTTP face by which an orchestrator learns whether a service lives and is ready."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

_Endpoint = Callable[[Request], Awaitable[PlainTextResponse]]


def health_app(live: Callable[[], bool], ready: Callable[[], bool]) -> Starlette:
    """`/healthz` answers 503 when a restart would help, `/readyz` when work should go elsewhere."""

    def answer(
        holds: Callable[[], bool], yes: str, no: str
    ) -> Callable[[Request], Awaitable[PlainTextResponse]]:
        async def endpoint(_request: Request) -> PlainTextResponse:
            return PlainTextResponse(yes) if holds() else PlainTextResponse(no, status_code=503)

        return endpoint

    return Starlette(
        routes=[
            Route("/healthz", answer(live, "alive\n", "not alive\n")),
            Route("/readyz", answer(ready, "ready\n", "not ready\n")),
        ]
    )


async def serve_health(
    port: int, live: Callable[[], bool], ready: Callable[[], bool], *, host: str = "127.0.0.1"
) -> None:
    """Serve until cancelled; the port is free again when the cancellation has passed through.

    Raises: OSError when the port is taken.
    """
    config = uvicorn.Config(
        health_app(live, ready),
        host=host,
        port=port,
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    # Bound here, because uvicorn ends the process when a port is taken.
    listener = socket.create_server((host, port))
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="health")
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """A server that leaves signals to the process it is embedded in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield
