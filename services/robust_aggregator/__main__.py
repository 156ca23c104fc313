"""The robust aggregator's composition root: `python -m services.robust_aggregator`."""

from services.robust_aggregator.handlers import HANDLERS, Aggregator
from services.robust_aggregator.judging import Judging
from shared.adapters.infrastructure import Infrastructure
from shared.service import Service, queue_for
from shared.serving import main_of

NAME = "robust_aggregator"
QUEUE = queue_for(NAME, HANDLERS, prefetch=8)


async def build(infrastructure: Infrastructure) -> Service[Aggregator]:
    """The service on `infrastructure`."""
    judging = Judging(infrastructure.blobs, infrastructure.random)
    aggregator = Aggregator(infrastructure.blobs, infrastructure.telemetry, judging)
    return Service(NAME, QUEUE, HANDLERS, aggregator, infrastructure)


if __name__ == "__main__":
    main_of(NAME, build)
