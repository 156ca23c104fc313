"""Short-lived facts: in memory, or in Redis."""

import time
from collections.abc import Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.errors import Unavailable

PREFIX = "fedlora/"
SWEEP_ABOVE = 10_000


class MemoryCache:
    """One process's cache."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, str]] = {}

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """See the port."""
        now_s = time.monotonic()
        if len(self._entries) > SWEEP_ABOVE:
            self._entries = {k: entry for k, entry in self._entries.items() if entry[0] > now_s}
        self._entries[key] = now_s + ttl_s, value

    async def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """See the port."""
        now_s = time.monotonic()
        found = ((key, self._entries.get(key)) for key in keys)
        return {key: entry[1] for key, entry in found if entry is not None and entry[0] > now_s}

    async def close(self) -> None:
        """Nothing to leave."""


class RedisCache:
    """A cache that a service's replicas share."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, key: str, value: str, ttl_s: float) -> None:
        """See the port."""
        try:
            await self._redis.set(PREFIX + key, value, px=max(1, int(ttl_s * 1000)))
        except RedisError as error:
            raise Unavailable(f"Redis is away: {type(error).__name__}") from error

    async def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """See the port."""
        wanted = list(keys)
        if not wanted:
            return {}
        try:
            values = await self._redis.mget([PREFIX + key for key in wanted])
        except RedisError as error:
            raise Unavailable(f"Redis is away: {type(error).__name__}") from error
        return {key: str(value) for key, value in zip(wanted, values, strict=True) if value is not None}

    async def close(self) -> None:
        """Leave."""
        await self._redis.aclose()


def open_cache(url: str) -> MemoryCache | RedisCache:
    """`memory://`, or `redis://` / `rediss://` with host, port and credentials."""
    if url == "memory://":
        return MemoryCache()
    return RedisCache(Redis.from_url(url, decode_responses=True))
