"""The health endpoint: answers, cancellation, signals."""

import asyncio
import signal
import socket

import httpx
import pytest

from shared.adapters.health import serve_health


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def answer(port, path):
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=5)) as client:
        return (await client.get(f"http://127.0.0.1:{port}{path}")).status_code


async def test_it_answers_for_life_and_readiness_and_leaves_signals_and_port_alone():
    port, handler, state = free_port(), signal.getsignal(signal.SIGTERM), {"ready": False}
    serving = asyncio.create_task(serve_health(port, lambda: True, lambda: state["ready"]))
    await asyncio.sleep(0)
    assert await answer(port, "/healthz") == 200
    assert await answer(port, "/readyz") == 503
    state["ready"] = True
    assert await answer(port, "/readyz") == 200
    assert await answer(port, "/secrets") == 404
    assert signal.getsignal(signal.SIGTERM) is handler
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    socket.create_server(("127.0.0.1", port)).close()


async def test_a_taken_port_is_an_error_of_this_coroutine_alone():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            await serve_health(taken.getsockname()[1], lambda: True, lambda: True)
