"""Links between parties: one connection for many requests, and another where one is lost."""

import asyncio
import socket
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import pytest

from services.secure_aggregation.parties import link
from services.secure_aggregation.parties.certificates import make_identities
from services.secure_aggregation.parties.link import Links, serving
from shared.errors import Rejected, Unavailable


@pytest.fixture
def identities(tmp_path):
    return make_identities(tmp_path, datetime.now(UTC))


@pytest.fixture
def opened(monkeypatch):
    connections = []
    connect = asyncio.open_connection

    async def counted(*args, **options):
        connections.append(args)
        return await connect(*args, **options)

    monkeypatch.setattr(link.asyncio, "open_connection", counted)
    return connections


async def echo(sender, kind, body):
    if kind == "refuse":
        raise Rejected("never")
    return [sender, kind, body]


@asynccontextmanager
async def party_1(identities, port=0, serve=echo):
    bound = socket.create_server(("127.0.0.1", port))
    async with serving(1, identities[1], bound, serve):
        yield bound.getsockname()[1]


def links_to(port, identities):
    return aclosing(Links(identities[0], {1: ("127.0.0.1", port)}))


async def test_one_connection_carries_many_requests_and_errors(identities, opened):
    async with party_1(identities) as port, links_to(port, identities) as links:
        for number in range(20):
            assert await links.ask(1, "count", number) == [0, "count", number]
            with pytest.raises(Rejected, match="never"):
                await links.ask(1, "refuse")
    assert len(opened) == 1


async def test_requests_at_once_do_not_wait_for_each_other(identities, opened):
    both = asyncio.Barrier(2)

    async def meet(sender, kind, body):
        await both.wait()
        return body

    async with party_1(identities, serve=meet) as port, links_to(port, identities) as links:
        for _ in range(2):
            assert await asyncio.gather(links.ask(1, "a", 1), links.ask(1, "b", 2)) == [1, 2]
    assert len(opened) == 2


async def test_a_lost_connection_is_replaced_once(identities, opened):
    async with party_1(identities) as port:
        links = Links(identities[0], {1: ("127.0.0.1", port)})
        await links.ask(1, "first")
    async with party_1(identities, port):
        assert await links.ask(1, "second") == [0, "second", None]
    assert len(opened) == 2
    with pytest.raises(Unavailable, match="away"):
        await links.ask(1, "third")
    assert len(opened) == 3
    await links.aclose()


async def test_an_answer_to_a_request_that_was_given_up_is_not_taken_for_the_next_ones(identities, opened):
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(sender, kind, body):
        if kind == "slow":
            begun.set()
            await go.wait()
        return kind

    async with party_1(identities, serve=slow) as port, links_to(port, identities) as links:
        asked = asyncio.create_task(links.ask(1, "slow"))
        await begun.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        go.set()
        assert await links.ask(1, "quick") == "quick"
    assert len(opened) == 2
