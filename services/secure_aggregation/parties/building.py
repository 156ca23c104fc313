"""Party 1 or 2 as a service: its own queue, its own database rows, and a port for the other parties."""

import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

from services.secure_aggregation.parties.context import Custody
from services.secure_aggregation.parties.handlers import HANDLERS
from services.secure_aggregation.parties.link import serving
from services.secure_aggregation.parties.requests import serve
from services.secure_aggregation.settings import SecureAggregationSettings, host_and_port, load_keys
from shared.adapters.infrastructure import Infrastructure
from shared.errors import Refused
from shared.events import ShareSubmitted
from shared.events.base import Channel
from shared.ports import Queue
from shared.service import Service


def queue_of(party: int, prefetch: int) -> Queue:
    """It gets what clients send to this party, and nothing else."""
    bindings = ((Channel.UP, ShareSubmitted.binding_of(party)),)
    return Queue(name_of_service(party), bindings, prefetch=prefetch, single_active=True)


def name_of_service(party: int) -> str:
    """Of its queue and rows."""
    return f"secure_aggregation_{party}"


def build_party(
    infrastructure: Infrastructure,
    settings: SecureAggregationSettings,
    prefetch: int,
    listening: socket.socket | None = None,
) -> Service[Custody]:
    """The service; `listening` is a bound socket that stands in for `settings.party_listen`."""
    links, party = settings.links(), settings.party
    if links is None:
        raise Refused("FEDLORA_SECURE_AGGREGATION_PARTY", "party 0 is no keeper of shares", "give 1 or 2")
    custody = Custody(party, load_keys(settings.key_file), links)
    service = Service(name_of_service(party), queue_of(party, prefetch), HANDLERS, custody, infrastructure)
    custody.transact = service.transact

    @asynccontextmanager
    async def alongside() -> AsyncIterator[None]:
        bound = listening or _bound(host_and_port(party, settings.party_listen))
        async with aclosing(links), serving(party, settings.identity(), bound, partial(serve, custody)):
            yield

    service.alongside = alongside
    return service


def _bound(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_server(address)
    except OSError as error:
        raise Refused(
            "FEDLORA_SECURE_AGGREGATION_PARTY_LISTEN",
            f"{address[0]}:{address[1]} cannot be used: {error.strerror}",
            "name another port",
        ) from None
