"""An HTTP server inside a loop that somebody else runs: no signal handlers, stops when told."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service that hosts it drains on SIGTERM itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the host."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 takes a free one. Raises: OSError when the address is taken."""
    return socket.create_server((host, port))


async def serve(app: FastAPI, listening: socket.socket, stop: asyncio.Event) -> None:
    """Answer on `listening` until `stop` is set, then finish what is in progress, for 3 s at most."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    config.timeout_graceful_shutdown = 3
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]), name="gateway-http")
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
        await running
        listening.close()
