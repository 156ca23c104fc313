"""The gateway's composition root: `python -m services.gateway`."""

import asyncio
import signal

from services.gateway.api import Gateway, create_app
from services.gateway.handlers import HANDLERS
from services.gateway.settings import GatewaySettings
from services.gateway.web import listen, serve
from shared.adapters.health import serve_health
from shared.adapters.infrastructure import Endpoints, Infrastructure, open_infrastructure
from shared.adapters.telemetry import configure_logging
from shared.ports import Cache
from shared.service import Service, queue_for

NAME = "gateway"
QUEUE = queue_for(NAME, HANDLERS)


async def build(infrastructure: Infrastructure, settings: GatewaySettings) -> Service[Cache]:
    """The service that projects notices into what the API shows."""
    return Service(NAME, QUEUE, HANDLERS, infrastructure.cache, infrastructure)


def gateway_of(service: Service[Cache], settings: GatewaySettings) -> Gateway:
    """What the API needs, taken from the service whose transactions it shares."""
    infrastructure = service.infrastructure
    return Gateway(
        units=infrastructure.units,
        transact=service.transact,
        blobs=infrastructure.blobs,
        cache=infrastructure.cache,
        random=infrastructure.random,
        ready=service.ready,
        settings=settings,
    )


async def run() -> None:
    """Project and answer until SIGTERM or SIGINT. Raises: OSError when the port is taken."""
    endpoints, settings = Endpoints(), GatewaySettings()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    infrastructure = await open_infrastructure(NAME, endpoints)
    try:
        service = await build(infrastructure, settings)
        listening = listen(settings.host, settings.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(service.run(stop))
            tasks.create_task(serve(create_app(gateway_of(service, settings)), listening, stop))
            health = None
            if endpoints.health_port is not None:
                health = tasks.create_task(
                    serve_health(
                        endpoints.health_port, lambda: True, service.ready, host=endpoints.health_host
                    )
                )
            await stop.wait()
            if health is not None:
                health.cancel()
    finally:
        await infrastructure.close()


def main() -> None:
    """Run the gateway."""
    configure_logging(NAME)
    asyncio.run(run())


if __name__ == "__main__":
    main()
