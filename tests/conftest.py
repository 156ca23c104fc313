"""Servers for tests that name them: started once a session, a fresh vhost or database for each test."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.servers import postgres, rabbitmq, redis
from tests.servers.rabbitmq import RabbitServer

_SERVERS = {"rabbitmq_server", "postgres_server", "redis_server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses a server, so that `-m 'not servers'` starts none."""
    for item in items:
        if _SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """A private RabbitMQ."""
    with rabbitmq.rabbitmq_server() as server:
        yield server


@pytest.fixture
def amqp_url(rabbitmq_server: RabbitServer) -> str:
    """A fresh virtual host."""
    return rabbitmq_server.add_vhost(f"v{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A private PostgreSQL: its URL without a database."""
    with postgres.postgres_server() as url:
        yield url


@pytest.fixture
async def postgres_url(postgres_server: str) -> AsyncIterator[str]:
    """A fresh database, dropped afterwards."""
    name = f"d{uuid.uuid4().hex[:12]}"
    await postgres.execute(postgres_server, f"CREATE DATABASE {name}")
    yield f"{postgres_server}/{name}"
    await postgres.execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """A private Redis."""
    with redis.redis_server() as url:
        yield url


@pytest.fixture
async def redis_url(redis_server: str) -> str:
    """Redis with nothing in it."""
    from redis.asyncio import Redis

    client = Redis.from_url(redis_server)
    await client.flushdb()
    await client.aclose()
    return redis_server
