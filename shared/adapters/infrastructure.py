"""Where the world is: endpoints from the environment, and the adapters behind the ports."""

import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.adapters.blobs import open_blobs
from shared.adapters.cache import MemoryCache, RedisCache, open_cache
from shared.adapters.clock import SystemClock, SystemRandom
from shared.adapters.database import open_units
from shared.adapters.in_process import open_in_process
from shared.adapters.no_telemetry import NoTelemetry
from shared.adapters.rabbitmq import open_rabbitmq
from shared.adapters.telemetry import open_telemetry
from shared.ports import BlobStore, Bus, Cache, Clock, RandomSource, Telemetry, UnitsOfWork


class Endpoints(BaseSettings):
    """FEDLORA_ variables that every service reads. What is empty is derived from `home`."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_", extra="ignore", frozen=True)

    home: Path = Path("~/.fedlora")
    bus: str = "memory://"  # or amqp:// / amqps://
    database: str = ""  # or postgresql+asyncpg://
    blobs: str = ""  # a folder, or s3://bucket/prefix
    cache: str = "memory://"  # or redis:// / rediss://
    telemetry: Literal["on", "off"] = "on"
    traces_file: Path | None = None  # used where no OTEL_EXPORTER_OTLP_ENDPOINT is set
    health_port: int | None = None
    health_host: str = "127.0.0.1"
    tls_ca: Path | None = None  # for amqps://: the federation's CA, and this process's certificate
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @property
    def folder(self) -> Path:
        """`home`, with ~ expanded."""
        return self.home.expanduser()

    @property
    def database_url(self) -> str:
        """SQLite in `home` unless a database is named."""
        return self.database or f"sqlite:///{self.folder / 'fedlora.sqlite'}"

    @property
    def blobs_url(self) -> str:
        """A folder in `home` unless a store is named."""
        return self.blobs or str(self.folder / "blobs")

    @property
    def traces_path(self) -> Path:
        """Where spans go when no collector is named."""
        return self.traces_file or self.folder / "traces.jsonl"

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS 1.3 with our certificate, when one is configured."""
        if self.tls_ca is None:
            return None
        context = ssl.create_default_context(cafile=str(self.tls_ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.tls_certificate is not None:
            context.load_cert_chain(self.tls_certificate, self.tls_key)
        return context


@dataclass(frozen=True)
class Infrastructure:
    """The ports, fulfilled. One an service object; an embedded federation shares the bus and the cache."""

    bus: Bus
    units: UnitsOfWork
    blobs: BlobStore
    cache: Cache
    clock: Clock
    random: RandomSource
    telemetry: Telemetry
    owns_bus: bool = True

    async def close(self) -> None:
        """Leave the broker, the database and the cache, and flush telemetry."""
        if self.owns_bus:
            await self.bus.close()
        await self.units.close()
        if isinstance(self.cache, MemoryCache | RedisCache):
            with suppress(OSError):
                await self.cache.close()
        self.telemetry.shutdown()


async def open_bus(endpoints: Endpoints, login: str = "") -> Bus:
    """The bus that the endpoints name; an in-process one keeps its messages in `home`."""
    if endpoints.bus == "memory://":
        return await open_in_process(endpoints.folder / "bus.sqlite")
    return await open_rabbitmq(endpoints.bus, login=login, ssl_context=endpoints.ssl_context())


async def open_infrastructure(
    service_name: str,
    endpoints: Endpoints,
    *,
    bus: Bus | None = None,
    cache: Cache | None = None,
    login: str = "",
) -> Infrastructure:
    """Connect one service. Raises: Unavailable when the broker or the database does not answer.

    Args:
        service_name: names the queue, the rows and the spans.
        endpoints: where everything is.
        bus: shared by an embedded federation; otherwise opened here and closed with the rest.
        cache: likewise.
        login: the user that the broker checks as `user_id`; empty where clients share a login.
    """
    endpoints.folder.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    telemetry: Telemetry = NoTelemetry()
    if endpoints.telemetry == "on":
        telemetry = open_telemetry(
            service_name,
            traces_file=endpoints.traces_path,
            messaging_system="in_process" if endpoints.bus == "memory://" else "rabbitmq",
        )
    return Infrastructure(
        bus=bus or await open_bus(endpoints, login),
        units=await open_units(endpoints.database_url, service_name, clock, telemetry.current),
        blobs=open_blobs(endpoints.blobs_url),
        cache=cache or open_cache(endpoints.cache),
        clock=clock,
        random=SystemRandom(),
        telemetry=telemetry,
        owns_bus=bus is None,
    )
