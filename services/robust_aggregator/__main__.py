"""The robust aggregator's composition root: `python -m services.robust_aggregator`."""

import asyncio

from services.robust_aggregator.handlers import HANDLERS, Aggregator
from services.robust_aggregator.settings import RobustAggregatorSettings
from shared.adapters.health import serve_health
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.adapters.telemetry import configure_logging
from shared.service import Service, queue_for, run_until_signalled

NAME = "robust_aggregator"


async def build(infrastructure: Infrastructure, settings: RobustAggregatorSettings) -> Service[Aggregator]:
    """The service on `infrastructure`."""
    queue = queue_for(NAME, HANDLERS, prefetch=settings.prefetch)
    return Service(NAME, queue, HANDLERS, Aggregator(infrastructure.blobs, settings.rule), infrastructure)


async def serve(endpoints: Endpoints, settings: RobustAggregatorSettings) -> None:
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
    asyncio.run(serve(Endpoints(), RobustAggregatorSettings()))


if __name__ == "__main__":
    main()
