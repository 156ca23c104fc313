"""Three parties of `mpc3` on loopback, each a service of its own, beside real workers."""

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

from services.secure_aggregation.__main__ import build
from services.secure_aggregation.parties.certificates import make_identities
from services.secure_aggregation.settings import SecureAggregationSettings
from tests.integration.worker_federation import worker_federation

SERVICES = ("secure_aggregation", "secure_aggregation_1", "secure_aggregation_2")
NOW = datetime.now(UTC)


def free_ports():
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    return ports


def settings_of(folder):
    identities = make_identities(folder / "tls", NOW, ("party-0", "party-1", "party-2", "visitor"))[:3]
    ports = free_ports()
    addresses = {f"party_{party}_address": f"127.0.0.1:{ports[party - 1]}" for party in (1, 2)}
    return [
        SecureAggregationSettings(
            key_file=folder / f"key-{party}",
            rebuild_s=0,
            party=party,
            party_listen=f"127.0.0.1:{ports[party - 1]}",
            party_certificate=identity.certificate,
            party_key=identity.key,
            party_ca=identity.authority,
            **addresses,
        )
        for party, identity in enumerate(identities)
    ]


@asynccontextmanager
async def three_parties(folder, names, *, away=(), **options):
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(folder)
    services = {
        name: partial(build, settings=one)
        for name, one in zip(SERVICES, settings, strict=True)
        if one.party not in away
    }
    async with worker_federation(folder, names, services=services, **options) as (fed, workers):
        yield fed, workers, settings


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
