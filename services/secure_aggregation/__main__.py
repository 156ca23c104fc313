"""Secure aggregation's composition root: `python -m services.secure_aggregation`."""

from datetime import timedelta

from services.secure_aggregation.context import Aggregation
from services.secure_aggregation.handlers import HANDLERS
from services.secure_aggregation.settings import SecureAggregationSettings, load_keys
from shared.adapters.infrastructure import Infrastructure
from shared.service import Service, queue_for
from shared.serving import main_of

NAME = "secure_aggregation"
MOST_CHUNKS = 4096  # held at once, over all sessions: up to 1 MiB each until they are in a sum
QUEUE = queue_for(NAME, HANDLERS, prefetch=MOST_CHUNKS, single_active=True)


async def build(
    infrastructure: Infrastructure, settings: SecureAggregationSettings | None = None
) -> Service[Aggregation]:
    """The service on `infrastructure`, with the key in `settings.key_file`."""
    settings = settings or SecureAggregationSettings()
    context = Aggregation(
        keys=load_keys(settings.key_file),
        blobs=infrastructure.blobs,
        random=infrastructure.random,
        telemetry=infrastructure.telemetry,
        rebuilt_at=infrastructure.clock.now() + timedelta(seconds=settings.rebuild_s),
    )
    service = Service(NAME, QUEUE, HANDLERS, context, infrastructure)
    context.transact = service.transact
    return service


if __name__ == "__main__":
    main_of(NAME, build)
