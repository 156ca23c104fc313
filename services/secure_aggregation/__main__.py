"""Secure aggregation's composition root: `python -m services.secure_aggregation`."""

import asyncio
from datetime import timedelta

from services.secure_aggregation.handlers import HANDLERS, Aggregation
from services.secure_aggregation.settings import SecureAggregationSettings, load_key
from shared.adapters.health import serve_health
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.adapters.telemetry import configure_logging
from shared.service import Service, queue_for, run_until_signalled

NAME = "secure_aggregation"


async def build(infrastructure: Infrastructure, settings: SecureAggregationSettings) -> Service[Aggregation]:
    """The service on `infrastructure`, with the key in `settings.key_file`."""
    context = Aggregation(
        key=load_key(settings.key_file),
        blobs=infrastructure.blobs,
        rebuilt_at=infrastructure.clock.now() + timedelta(seconds=settings.rebuild_s),
    )
    queue = queue_for(NAME, HANDLERS, prefetch=settings.prefetch, single_active=True)
    service = Service(NAME, queue, HANDLERS, context, infrastructure)
    context.transact = service.transact
    return service


async def serve(endpoints: Endpoints, settings: SecureAggregationSettings) -> None:
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
    asyncio.run(serve(Endpoints(), SecureAggregationSettings()))


if __name__ == "__main__":
    main()
