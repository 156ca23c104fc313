"""Every service's queue, declared before anyone publishes: what nobody's queue takes is lost to it."""

import asyncio

from services.accountant.__main__ import QUEUE as ACCOUNTANT
from services.coordinator.__main__ import QUEUE as COORDINATOR
from services.gateway.__main__ import QUEUE as GATEWAY
from services.robust_aggregator.__main__ import QUEUE as ROBUST_AGGREGATOR
from services.secure_aggregation.__main__ import queues_of
from services.secure_aggregation.settings import SecureAggregationSettings
from shared.adapters.database import migrate
from shared.adapters.infrastructure import Endpoints, open_bus
from shared.ports import Bus

QUEUES = (COORDINATOR, ACCOUNTANT, ROBUST_AGGREGATOR, GATEWAY)


async def declare_all(bus: Bus) -> None:
    """Make the queues of all services; idempotent."""
    for queue in (*QUEUES, *queues_of(SecureAggregationSettings())):
        await bus.declare(queue)


def prepare(endpoints: Endpoints) -> None:
    """Queues and tables, ready for services to start in any order. Raises: Unavailable."""

    async def work() -> None:
        await migrate(endpoints.database_url)
        bus = await open_bus(endpoints)
        try:
            await declare_all(bus)
        finally:
            await bus.close()

    asyncio.run(work())
