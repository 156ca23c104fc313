"""The ports and clients of a simulation: one bus without a journal, seeded randomness, clients in memory."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedlora.embedded import World
from fedlora.simulation.randomness import SeededRandom
from services.client.__main__ import ClientService
from services.client.policy import Policy
from services.client.settings import ClientSettings
from services.client.trainer import Trainer
from services.coordinator.settings import CoordinatorSettings
from shared.adapters.clock import SystemClock
from shared.adapters.in_process import open_in_process
from shared.adapters.in_process.units import MemoryUnits
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.adapters.no_telemetry import NoTelemetry
from shared.ports import Bus, Cache
from shared.service import Service

FOREVER_S = 1e7  # no signs of life: whoever joined is there
POLICY = Policy(
    largest_epsilon=10.0,
    lifetime_epsilon=10.0,
    allowed_secure_protocols=("oneshot", "secagg", "mpc3", "none"),
)


class SimulatedWorld(World):
    """See the module.

    Attributes:
        trainers: one for each client.
        turns: how many of them work at once.
    """

    def __init__(self, seed: int, endpoints: Endpoints, trainers: Mapping[str, Trainer], turns: int) -> None:
        self._seed, self._endpoints, self._trainers = seed, endpoints, trainers
        self._ports: Infrastructure | None = None
        self._turns = asyncio.Semaphore(turns)

    async def bus(self, endpoints: Endpoints) -> Bus:
        """As `World`; nothing outlives the process."""
        return await open_in_process()

    async def ports(
        self, name: str, endpoints: Endpoints, bus: Bus | None, cache: Cache | None
    ) -> Infrastructure:
        """As `World`, drawing from the seed."""
        opened = await open_infrastructure(name, endpoints, bus=bus, cache=cache)
        self._ports = replace(opened, random=SeededRandom(self._seed, "service", name))
        return self._ports

    def coordinator(self) -> CoordinatorSettings:
        """As `World`."""
        return CoordinatorSettings(presence_s=FOREVER_S, gather_everyone=True)

    async def clients(self, bus: Bus) -> list[Service[Any]]:
        """Every simulated client."""
        return [self._client(name, trainer) for name, trainer in self._trainers.items()]

    def _client(self, name: str, trainer: Trainer) -> ClientService:
        if self._ports is None:
            raise RuntimeError("services come before clients")
        clock = SystemClock()
        telemetry = NoTelemetry()
        ports = replace(
            self._ports,
            units=MemoryUnits(clock, telemetry.current),
            random=SeededRandom(self._seed, "client", name),
            telemetry=telemetry,
        )
        settings = ClientSettings(
            client_id=name, home=self._endpoints.folder, data=Path(name), heartbeat_s=FOREVER_S
        )
        key = Ed25519PrivateKey.from_private_bytes(SeededRandom(self._seed, "identity", name).bytes(32))
        client = ClientService(ports, settings, trainer, key, POLICY)
        client.worker.aside = self._aside
        return client

    async def _aside(self, work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - its result
        async with self._turns:
            return await asyncio.to_thread(work, *arguments)
