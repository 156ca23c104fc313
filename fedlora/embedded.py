"""A whole federation in one process: every service, the gateway and any workers on one bus."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlora.faults import Fault, trouble
from fedlora.topology import declare_all
from fedlora.workers import build_worker
from services.accountant import __main__ as accountant
from services.accountant.settings import AccountantSettings
from services.coordinator import __main__ as coordinator
from services.coordinator.settings import CoordinatorSettings
from services.gateway import __main__ as gateway
from services.gateway.api import create_app
from services.gateway.settings import GatewaySettings
from services.gateway.web import listen, serve
from services.robust_aggregator import __main__ as robust_aggregator
from services.secure_aggregation import __main__ as secure_aggregation
from services.secure_aggregation.parties.building import name_of_service
from services.secure_aggregation.parties.certificates import make_identities
from services.secure_aggregation.parties.others import OTHERS
from services.secure_aggregation.settings import SecureAggregationSettings
from shared.adapters.cache import open_cache
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_bus, open_infrastructure
from shared.errors import Unavailable
from shared.ports import Bus, Cache
from shared.service import Service

START_S = 120.0


@dataclass(frozen=True)
class Composition:
    """What one process runs.

    Attributes:
        port: of the gateway, on loopback; 0 takes a free one.
        workers: client id to its data file.
    """

    endpoints: Endpoints
    port: int = 0
    workers: Mapping[str, Path] = field(default_factory=dict)


class World:
    """How services get their ports, and which clients there are: the machine's; a simulation has its own."""

    async def bus(self, endpoints: Endpoints) -> Bus:
        """The one that all share."""
        return await open_bus(endpoints)

    async def ports(
        self, name: str, endpoints: Endpoints, bus: Bus | None, cache: Cache | None
    ) -> Infrastructure:
        """One service's."""
        return await open_infrastructure(name, endpoints, bus=bus, cache=cache)

    def coordinator(self) -> CoordinatorSettings:
        """The coordinator's settings."""
        return CoordinatorSettings()

    async def clients(self, bus: Bus) -> list[Service[Any]]:
        """Those that are not workers with a file each."""
        return []


@asynccontextmanager
async def federation(composition: Composition, world: World | None = None) -> AsyncIterator[str]:
    """Run everything while the block runs; gives the gateway's address. Drains at the end.

    Raises: Fault when the port is taken, the bus or the database is away, or a service fails.
    """
    settings = GatewaySettings(port=composition.port)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        try:
            listening = listen(settings.host, settings.port)
        except OSError as error:
            reason = f"port {settings.port} cannot be used: {error.strerror}"
            raise Fault(reason, "name another with --port") from None
        stack.callback(listening.close)
        try:
            opened = _Opened(composition, stack, world or World())
            await opened.share()
            face = await gateway.build(await opened.connect("gateway"), settings)
            services = [face, *await opened.services(), *await opened.workers()]
        except Unavailable as error:
            raise trouble(f"the bus or the database is away: {error}", "see --bus and --database") from None
        app = create_app(gateway.gateway_of(face, settings))
        running = [asyncio.create_task(serve(app, listening, stop), name="http")]
        ready = [asyncio.Event() for _ in services]
        for service, started in zip(services, ready, strict=True):
            running.append(asyncio.create_task(service.run(stop, started), name=service.name))
        try:
            await _started(running, ready)
            yield f"http://{settings.host}:{listening.getsockname()[1]}"
        finally:
            stop.set()
            await asyncio.gather(*running, return_exceptions=True)


async def _started(running: list[asyncio.Task[None]], ready: list[asyncio.Event]) -> None:
    """Return when every service takes messages. Raises: Fault when one ends before."""
    waiting: asyncio.Future[list[bool]] = asyncio.gather(*(one.wait() for one in ready))
    try:
        awaited: set[asyncio.Future[Any]] = {waiting, *running}
        await asyncio.wait(awaited, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return
        for task in running:
            if task.done() and (error := task.exception()) is not None:
                raise trouble(f"{task.get_name()} failed: {error}")
        raise trouble(f"not every service started within {START_S:g} s", "see the log")
    finally:
        waiting.cancel()


class _Opened:
    """The services of one process over one bus and one cache, closed by the stack."""

    def __init__(self, composition: Composition, stack: AsyncExitStack, world: World) -> None:
        self._composition, self._stack, self._world = composition, stack, world
        self._endpoints = composition.endpoints
        self._bus: Bus | None = None
        self._cache: Cache | None = None

    async def share(self) -> None:
        """Open what the services have in common."""
        self._endpoints.folder.mkdir(parents=True, exist_ok=True)
        self._bus = await self._world.bus(self._endpoints)
        self._stack.push_async_callback(self._bus.close)
        await declare_all(self._bus)
        self._cache = open_cache(self._endpoints.cache)

    async def connect(self, name: str, endpoints: Endpoints | None = None) -> Infrastructure:
        """One service's ports."""
        infrastructure = await self._world.ports(name, endpoints or self._endpoints, self._bus, self._cache)
        self._stack.push_async_callback(infrastructure.close)
        return infrastructure

    async def services(self) -> list[Service[Any]]:
        """Everything on the server's side but the gateway."""
        return [
            await coordinator.build(await self.connect("coordinator"), self._world.coordinator()),
            await accountant.build(await self.connect("accountant"), AccountantSettings()),
            *await self._parties(),
            await robust_aggregator.build(await self.connect("robust_aggregator")),
        ]

    async def _parties(self) -> list[Service[Any]]:
        """Secure aggregation, and the parties 1 and 2 of `mpc3`: in one process they hide nothing from it."""
        names = ("secure_aggregation", *(name_of_service(party) for party in OTHERS))
        infrastructures = [await self.connect(name) for name in names]
        now = infrastructures[0].clock.now()
        identities = make_identities(self._endpoints.folder / "parties", now)
        sockets = {party: socket.create_server(("127.0.0.1", 0)) for party in OTHERS}
        for bound in sockets.values():
            self._stack.callback(bound.close)
        first, second = (f"127.0.0.1:{bound.getsockname()[1]}" for bound in sockets.values())
        built = []
        for party, (infrastructure, identity) in enumerate(zip(infrastructures, identities, strict=True)):
            key_file = f"aggregation{party}.key" if party else "aggregation.key"
            settings = SecureAggregationSettings(
                key_file=self._endpoints.folder / key_file,
                party=party,
                party_1_address=first,
                party_2_address=second,
                party_certificate=identity.certificate,
                party_key=identity.key,
                party_ca=identity.authority,
            )
            built.append(await secure_aggregation.build(infrastructure, settings, sockets.get(party)))
        return built

    async def workers(self) -> list[Service[Any]]:
        """The clients of this process, each with its own home, database and key."""
        built: list[Service[Any]] = []
        if self._bus is not None:
            built += await self._world.clients(self._bus)
        for name, data in self._composition.workers.items():
            endpoints = worker_endpoints(self._endpoints, name)
            built.append(await build_worker(name, data, await self.connect(name, endpoints), endpoints))
        return built


def worker_endpoints(shared: Endpoints, name: str) -> Endpoints:
    """A worker's endpoints beside a federation's: own home and database, the same blobs and traces."""
    return shared.model_copy(
        update={
            "home": shared.folder / "workers" / name,
            "database": "",
            "blobs": shared.blobs_url,
            "traces_file": shared.traces_path,
        }
    )
