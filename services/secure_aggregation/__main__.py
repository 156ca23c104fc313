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
from shared.service import Service, queue_for
from shared.serving import main_of, mistakes_explained

NAME = "secure_aggregation"
MOST_CHUNKS = 4096  # held at once, over all sessions: up to 1 MiB each until they are in a sum
QUEUE = queue_for(NAME, HANDLERS, prefetch=MOST_CHUNKS, single_active=True)


PARTY_QUEUES = tuple(queue_of(party, MOST_CHUNKS) for party in OTHERS)


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
    links = settings.links()
    context = Aggregation(
        keys=load_keys(settings.key_file),
        blobs=infrastructure.blobs,
        random=infrastructure.random,
        telemetry=infrastructure.telemetry,
        rebuilt_at=infrastructure.clock.now() + timedelta(seconds=settings.rebuild_s),
    )
    context.others = Others(links) if links is not None else None
    service = Service(NAME, QUEUE, HANDLERS, context, infrastructure)
    context.transact = service.transact
    service.alongside = context.tasks_ended
    return service


if __name__ == "__main__":
    with mistakes_explained():
        PARTY = SecureAggregationSettings().party
    main_of(name_of_service(PARTY) if PARTY else NAME, build)
