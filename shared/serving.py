"""A service as a process: connect, serve, answer health checks, drain on SIGTERM."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from pydantic import ValidationError

from shared.adapters.health import serve_health
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.adapters.telemetry import configure_logging
from shared.errors import Refused, Unavailable
from shared.service import Service

log = structlog.get_logger()

RECONNECT_S = (0.5, 1.0, 2.0, 5.0)
Build = Callable[[Infrastructure], Awaitable[Service[Any]]]


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def connect(
    name: str, endpoints: Endpoints, stop: asyncio.Event, *, login: str = ""
) -> Infrastructure | None:
    """Try until broker and database answer; None when `stop` came first."""
    attempt = 0
    while not stop.is_set():
        try:
            return await open_infrastructure(name, endpoints, login=login)
        except Unavailable as error:
            log.warning("waiting for the broker and the database", service=name, reason=str(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)]):
                await stop.wait()
        attempt += 1
    return None


async def serve(name: str, endpoints: Endpoints, build: Build, *, login: str = "") -> None:
    """Run the service that `build` makes until SIGTERM or SIGINT; then drain it."""
    stop = stop_on_signals()
    infrastructure = await connect(name, endpoints, stop, login=login)
    if infrastructure is None:
        return
    health: asyncio.Task[None] | None = None
    try:
        service = await build(infrastructure)
        if endpoints.health_port is not None:
            health = asyncio.create_task(
                serve_health(endpoints.health_port, lambda: True, service.ready, host=endpoints.health_host)
            )
        await service.run(stop)
    finally:
        if health is not None:
            health.cancel()
            await asyncio.gather(health, return_exceptions=True)
        await infrastructure.close()


def main_of(name: str, build: Build, *, login: str = "") -> None:
    """The body of every `python -m services.<name>`: settings come from the environment. `login` is the
    user that the broker checks as `user_id`."""
    configure_logging(name)
    with mistakes_explained():
        asyncio.run(serve(name, Endpoints(), build, login=login))


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """End the process with one line on stderr for what a person set wrongly, instead of a traceback."""
    try:
        yield
    except Refused as refused:
        raise SystemExit(f"fedlora: {refused}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]).upper()
        wrong = "is not set" if first["type"] == "missing" else first["msg"]
        given = f", not {first['input']!r}" if isinstance(first["input"], str) else ""
        raise SystemExit(f"fedlora: the environment's FEDLORA_...{place}: {wrong}{given}") from None
