"""The coordinator's composition root: `python -m services.coordinator`."""

import asyncio

from services.coordinator.context import Coordination
from services.coordinator.handlers import HANDLERS
from services.coordinator.settings import CoordinatorSettings
from shared.adapters.health import serve_health
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.adapters.telemetry import configure_logging
from shared.service import Service, queue_for, run_until_signalled

NAME = "coordinator"


async def build(infrastructure: Infrastructure, settings: CoordinatorSettings) -> Service[Coordination]:
    """The service on `infrastructure`."""
    context = Coordination(
        blobs=infrastructure.blobs,
        cache=infrastructure.cache,
        random=infrastructure.random,
        telemetry=infrastructure.telemetry,
        settings=settings,
    )
    return Service(NAME, queue_for(NAME, HANDLERS), HANDLERS, context, infrastructure)


async def serve(endpoints: Endpoints, settings: CoordinatorSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    infrastructure = await open_infrastructure(NAME, endpoints)
    health: asyncio.Task[None] | None = None
    try:
        service = await build(infrastructure, settings)
        if endpoints.health_port is not None:
            health = asyncio.create_task(
                serve_health(endpoints.health_port, lambda: True, service.ready, host=endpoints.health_host)
            )
        await run_until_signalled(service)
    finally:
        if health is not None:
            health.cancel()
            await asyncio.gather(health, return_exceptions=True)
        await infrastructure.close()


def main() -> None:
    """Read the environment and serve."""
    configure_logging(NAME)
    asyncio.run(serve(Endpoints(), CoordinatorSettings()))


if __name__ == "__main__":
    main()
