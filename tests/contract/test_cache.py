"""One contract for facts that expire, in memory and in Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from shared.adapters import cache as adapter
from shared.adapters.cache import MemoryCache, RedisCache, open_cache
from shared.errors import Unavailable
from tests.servers.process import free_port


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")


@pytest.fixture
async def cache(url: str) -> AsyncIterator[MemoryCache | RedisCache]:
    opened = open_cache(url)
    yield opened
    await opened.close()


async def until(holds: Callable[[dict[str, str]], bool], cache: MemoryCache | RedisCache, *keys: str) -> None:
    async with asyncio.timeout(5):
        while not holds(await cache.get_many(keys)):  # noqa: ASYNC110 - a server forgets silently
            await asyncio.sleep(0.002)


async def test_only_what_is_remembered_comes_back(cache: MemoryCache | RedisCache) -> None:
    await cache.put("presence/a", "é", 60)
    await cache.put("presence/b", "2", 60)
    assert await cache.get_many(["presence/b", "presence/a", "presence/c"]) == {
        "presence/a": "é",
        "presence/b": "2",
    }
    assert await cache.get_many([]) == {}


async def test_a_fact_is_forgotten_after_its_time(cache: MemoryCache | RedisCache) -> None:
    await cache.put("brief", "x", 0.02)
    await cache.put("long", "y", 60)
    await until(lambda found: found == {"long": "y"}, cache, "brief", "long")


async def test_putting_again_replaces_value_and_time(cache: MemoryCache | RedisCache) -> None:
    await cache.put("k", "old", 0.03)
    await cache.put("k", "new", 60)
    await cache.put("witness", "x", 0.03)
    await until(lambda found: "witness" not in found, cache, "k", "witness")
    assert await cache.get_many(["k"]) == {"k": "new"}


async def test_memory_does_not_grow_with_forgotten_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "SWEEP_ABOVE", 10)
    cache = MemoryCache()
    for number in range(11):
        await cache.put(f"old/{number}", "x", 0.0)
    started = time.monotonic()
    while time.monotonic() == started:
        pass
    await cache.put("new", "x", 60)
    assert len(cache._entries) == 1


async def test_replicas_share_what_redis_remembers(redis_url: str) -> None:
    one, other = open_cache(redis_url), open_cache(redis_url)
    await one.put("k", "v", 60)
    assert await other.get_many(["k"]) == {"k": "v"}
    await one.close()
    await other.close()


async def test_redis_away_is_unavailable() -> None:
    cache = open_cache(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        await cache.put("k", "v", 1)
    with pytest.raises(Unavailable):
        await cache.get_many(["k"])
    await cache.close()
