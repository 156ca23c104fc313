"""The coordinator's composition root: `python -m services.coordinator`."""

from services.coordinator.context import Coordination
from services.coordinator.handlers import HANDLERS
from services.coordinator.settings import CoordinatorSettings
from shared.adapters.infrastructure import Infrastructure
from shared.service import Service, queue_for
from shared.serving import main_of

NAME = "coordinator"
QUEUE = queue_for(NAME, HANDLERS)


async def build(
    infrastructure: Infrastructure, settings: CoordinatorSettings | None = None
) -> Service[Coordination]:
    """The service on `infrastructure`; settings come from the environment unless given."""
    settings = settings or CoordinatorSettings()
    context = Coordination(
        blobs=infrastructure.blobs,
        cache=infrastructure.cache,
        random=infrastructure.random,
        telemetry=infrastructure.telemetry,
        settings=settings,
    )
    return Service(NAME, QUEUE, HANDLERS, context, infrastructure)


if __name__ == "__main__":
    main_of(NAME, build)
