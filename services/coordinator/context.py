"""What the coordinator's handlers share: ports, and the question who is present."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.coordinator.settings import CoordinatorSettings
from services.coordinator.state import Client
from shared.errors import Unavailable
from shared.ports import BlobStore, Cache, RandomSource, Telemetry


@dataclass(frozen=True)
class Coordination:
    """Ports and settings."""

    blobs: BlobStore
    cache: Cache
    random: RandomSource
    telemetry: Telemetry
    settings: CoordinatorSettings

    async def seen(self, client_id: str, activity: str = "") -> None:
        """Remember a sign of life; the cache may forget it, or be away."""
        try:
            await self.cache.put(f"presence/{client_id}", activity or "present", self.settings.presence_s)
        except Unavailable:
            return

    async def present(self, clients: Iterable[Client], now: datetime) -> set[str]:
        """Those who gave a sign of life, or joined, within `presence_s`."""
        since = now - timedelta(seconds=self.settings.presence_s)
        known = list(clients)
        names = {client.client_id for client in known if client.joined_at >= since}
        try:
            found = await self.cache.get_many(f"presence/{client.client_id}" for client in known)
        except Unavailable:
            found = {}
        return names | {key.removeprefix("presence/") for key in found}

    def shuffled(self, names: Sequence[str]) -> list[str]:
        """`names` in a uniformly random order."""
        return sorted(sorted(names), key=lambda _: self.random.bytes(16))
