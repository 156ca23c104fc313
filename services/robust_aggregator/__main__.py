"""The robust aggregator's composition root: `python -m services.robust_aggregator`."""

from services.robust_aggregator.handlers import HANDLERS, Aggregator
from services.robust_aggregator.settings import RobustAggregatorSettings
from shared.adapters.infrastructure import Infrastructure
from shared.service import Service, queue_for
from shared.serving import main_of

NAME = "robust_aggregator"
QUEUE = queue_for(NAME, HANDLERS, prefetch=8)


async def build(
    infrastructure: Infrastructure, settings: RobustAggregatorSettings | None = None
) -> Service[Aggregator]:
    """The service on `infrastructure`; settings come from the environment unless given."""
    settings = settings or RobustAggregatorSettings()
    return Service(NAME, QUEUE, HANDLERS, Aggregator(infrastructure.blobs, settings.rule), infrastructure)


if __name__ == "__main__":
    main_of(NAME, build)
