"""Secure aggregation's composition root: `python -m services.secure_aggregation`."""

import socket
from datetime import timedelta
from typing import Any

from services.secure_aggregation.context import Aggregation
from services.secure_aggregation.handlers import HANDLERS
from services.secure_aggregation.parties.building import build_party, name_of_service, queue_of
from services.secure_aggregation.parties.others import OTHERS, Others
from services.secure_aggregation.settings import SecureAggregationSettings, load_keys
from shared.adapters.infrastructure import Infrastructure
from shared.ports import Queue
from shared.service import Service, queue_for
from shared.serving import main_of, mistakes_explained

MOST_CHUNKS = 4096  # held at once, over all sessions: up to 1 MiB each until they are in a sum
PARTY_QUEUES = tuple(queue_of(party, MOST_CHUNKS) for party in OTHERS)


def queue_of_replica(settings: SecureAggregationSettings) -> Queue:
    """What one replica consumes. Raises: Refused for a replica that there is not."""
    return queue_for(
        settings.name, HANDLERS, prefetch=MOST_CHUNKS, single_active=True, shards=settings.shards
    )


def queues_of(settings: SecureAggregationSettings) -> tuple[Queue, ...]:
    """What all replicas consume, and the parties 1 and 2."""
    each = (settings.model_copy(update={"replica": replica}) for replica in range(settings.replicas))
    return (*(queue_of_replica(replica) for replica in each), *PARTY_QUEUES)


async def build(
    infrastructure: Infrastructure,
    settings: SecureAggregationSettings | None = None,
    listening: socket.socket | None = None,
) -> Service[Any]:
    """The service on `infrastructure`, with the key in `settings.key_file`; or party 1 or 2 of `mpc3`.

    `listening` is a bound socket for a party, instead of its setting.
    """
    settings = settings or SecureAggregationSettings()
    if settings.party:
        return build_party(infrastructure, settings, MOST_CHUNKS, listening)
    queue, links = queue_of_replica(settings), settings.links()
    context = Aggregation(
        keys=load_keys(settings.key_file),
        blobs=infrastructure.blobs,
        random=infrastructure.random,
        telemetry=infrastructure.telemetry,
        rebuilt_at=infrastructure.clock.now() + timedelta(seconds=settings.rebuild_s),
    )
    context.shards = settings.shards
    context.others = Others(links) if links is not None else None
    service = Service(settings.name, queue, HANDLERS, context, infrastructure)
    context.transact = service.transact
    service.alongside = context.tasks_ended
    return service


if __name__ == "__main__":
    with mistakes_explained():
        FOUND = SecureAggregationSettings()
    main_of(name_of_service(FOUND.party) if FOUND.party else FOUND.name, build)
