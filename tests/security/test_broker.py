"""Whoever does not belong is refused by the broker itself, and whoever does may do what is its own alone."""

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import aio_pika
import aiormq.exceptions as amqp
import pytest
from aio_pika.abc import AbstractChannel
from pamqp.commands import Basic

from shared.adapters.rabbitmq.topology import declare_exchanges, declare_queue
from shared.adapters.rabbitmq.users import BrokerUsers
from shared.core.identity.names import Kind
from shared.core.identity.rights import rights_of_client, rights_of_keeper, rights_of_service
from shared.errors import Unavailable
from shared.events import ClientSeen, JobClosed
from shared.events.base import Channel
from shared.ports import Queue, QueueKind
from tests.security.broker import Federation, Files
from tests.servers import rabbitmq
from tests.servers.process import free_port
from tests.servers.rabbitmq import Certificates, RabbitServer

REFUSED = (amqp.ChannelAccessRefused, amqp.ChannelClosed, amqp.ConnectionClosed, amqp.ChannelNotFoundEntity)
SHUT = (
    ssl.SSLError,
    ConnectionError,
    amqp.AMQPConnectionError,
    amqp.ProbableAuthenticationError,
    amqp.InvalidFrameError,
    OSError,
)
VHOST = "federation"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation.new(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def node(federation: Federation) -> Iterator[RabbitServer]:
    mine = federation.enrol("broker", Kind.SERVICE)
    with rabbitmq.rabbitmq_server(
        Certificates(federation.authority_file, mine.certificate, mine.key)
    ) as server:
        server.add_vhost(VHOST)
        server.add_vhost("elsewhere")
        yield server


@pytest.fixture
async def users(node: RabbitServer, federation: Federation, identities) -> AsyncIterator[BrokerUsers]:
    """The management API, as whoever enrols clients uses it."""
    found = BrokerUsers.at(node.management_url(), VHOST, federation.context(identities["keeper"]))
    yield found
    await found.close()


@pytest.fixture(scope="module")
def identities(federation: Federation) -> dict[str, Files]:
    made = {name: federation.enrol(name) for name in ("anna", "bob", "mallory")}
    return made | {name: federation.enrol(name, Kind.SERVICE) for name in ("coordinator", "keeper")}


@pytest.fixture
async def ready(
    node: RabbitServer, federation: Federation, identities: dict[str, Files], users: BrokerUsers
) -> None:
    """Users with their rights; exchanges, the coordinator's queue and two inboxes, made by whom makes them."""
    if not {"anna", "bob", "coordinator", "keeper"} <= await users.names():
        for client in ("anna", "bob"):
            await users.admit(client, rights_of_client(client))
        await users.admit("coordinator", rights_of_service(("coordinator",)))
        await users.admit("keeper", rights_of_keeper())
    async with channel(node, federation, identities["keeper"]) as opened:
        await declare_exchanges(opened)
        await declare_queue(opened, Queue("coordinator", ((Channel.UP, ClientSeen.binding()),)))
        for client in ("anna", "bob"):
            bindings = ((Channel.DOWN, JobClosed.binding(client)),)
            await declare_queue(opened, Queue(f"{client}.inbox", bindings, kind=QueueKind.INBOX))


@asynccontextmanager
async def channel(
    node: RabbitServer, federation: Federation, files: Files | None, vhost: str = VHOST
) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(
        node.tls_url(vhost), ssl_context=federation.context(files), timeout=20
    )
    try:
        yield await connection.channel(publisher_confirms=True, on_return_raises=True)
    finally:
        await connection.close()


def message(**properties: str) -> aio_pika.Message:
    return aio_pika.Message(b"x", message_id=uuid.uuid4().hex, **properties)


async def publish(opened: AbstractChannel, exchange: str, key: str, **properties: str) -> None:
    target = await opened.get_exchange(exchange, ensure=False) if exchange else opened.default_exchange
    confirmed = await target.publish(message(**properties), key, mandatory=False, timeout=10)
    assert isinstance(confirmed, Basic.Ack)


Act = Callable[[AbstractChannel], Awaitable[object]]
CLIENT_FORBIDDEN: dict[str, Act] = {
    "another client's key": lambda c: publish(c, "fl.up", "client.bob.client.seen.v1"),
    "a key that begins like its own": lambda c: publish(c, "fl.up", "client.anna2.client.seen.v1"),
    "a service's event": lambda c: publish(c, "fl.events", "job.cancelled.v1"),
    "another client's inbox, by its key": lambda c: publish(c, "fl.down", "job.closed.v1.bob"),
    "another client's inbox, directly": lambda c: publish(c, "", "bob.inbox"),
    "a service's queue, directly": lambda c: publish(c, "", "coordinator"),
    "the dead letters": lambda c: publish(c, "fl.dead", "x"),
    "a spoofed user_id": lambda c: publish(c, "fl.up", "client.anna.client.seen.v1", user_id="bob"),
    "reading another's inbox": lambda c: _consume(c, "bob.inbox"),
    "reading a service's queue": lambda c: _consume(c, "coordinator"),
    "reading dead letters": lambda c: _consume(c, "fl.dead"),
    "declaring a queue": lambda c: c.declare_queue("mine", durable=False),
    "declaring an exclusive queue": lambda c: c.declare_queue(exclusive=True),
    "declaring an exchange": lambda c: c.declare_exchange("mine"),
    "deleting its inbox": lambda c: c.queue_delete("anna.inbox"),
    "emptying its inbox of another": lambda c: _purge(c, "bob.inbox"),
    "binding its inbox to all that is said": lambda c: _bind(c, "anna.inbox", "fl.up", "#"),
    "binding its inbox to another's": lambda c: _bind(c, "anna.inbox", "fl.down", "#"),
}
SERVICE_FORBIDDEN: dict[str, Act] = {
    "speaking as a client": lambda c: publish(c, "fl.up", "client.anna.client.seen.v1"),
    "reading a client's inbox": lambda c: _consume(c, "anna.inbox"),
    "declaring a queue": lambda c: c.declare_queue("more"),
    "binding its queue to more": lambda c: _bind(c, "coordinator", "fl.up", "#"),
    "a spoofed user_id": lambda c: publish(c, "fl.events", "job.cancelled.v1", user_id="accountant"),
}


async def _consume(opened: AbstractChannel, name: str) -> None:
    async def take(_: aio_pika.abc.AbstractIncomingMessage) -> None:
        return

    queue = await opened.get_queue(name, ensure=False)
    await queue.consume(take, timeout=10)


async def _purge(opened: AbstractChannel, name: str) -> None:
    await (await opened.get_queue(name, ensure=False)).purge()


async def _bind(opened: AbstractChannel, queue: str, exchange: str, pattern: str) -> None:
    await (await opened.get_queue(queue, ensure=False)).bind(exchange, pattern)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("name", "what"),
    [("anna", what) for what in CLIENT_FORBIDDEN] + [("coordinator", what) for what in SERVICE_FORBIDDEN],
)
async def test_what_is_not_its_own_is_refused(ready, node, federation, identities, name, what):
    table = CLIENT_FORBIDDEN if name == "anna" else SERVICE_FORBIDDEN
    with pytest.raises(REFUSED):
        async with channel(node, federation, identities[name]) as opened:
            await table[what](opened)


@pytest.mark.servers
async def test_what_is_its_own_works(ready, node, federation, identities):
    async with channel(node, federation, identities["anna"]) as anna:
        await publish(anna, "fl.up", "client.anna.client.seen.v1", user_id="anna")
        inbox = await anna.get_queue("anna.inbox", ensure=False)
        async with channel(node, federation, identities["coordinator"]) as coordinator:
            await publish(coordinator, "fl.down", "job.closed.v1.anna", user_id="coordinator")
            await publish(coordinator, "fl.events", "job.cancelled.v1")
            queue = await coordinator.get_queue("coordinator", ensure=False)
            heard = await queue.get(timeout=20)
            assert heard.user_id == "anna"
            await heard.ack()
        told = await inbox.get(timeout=20)
        assert told.routing_key == "job.closed.v1.anna"
        await told.ack()


@pytest.mark.servers
async def test_nobody_is_let_in_without_a_certificate_that_holds(
    ready, node, federation, identities, tmp_path
):
    stranger = Federation.new(tmp_path)
    refused: dict[str, Files | None] = {
        "no certificate": None,
        "another authority's": stranger.enrol("anna"),
        "an expired one": federation.enrol("anna", ago=timedelta(days=2), file="expired"),
        "one without a user": identities["mallory"],
    }
    for why, files in refused.items():
        with pytest.raises(SHUT):
            async with channel(node, federation, files):
                pytest.fail(why)


@pytest.mark.servers
async def test_another_virtual_host_is_closed(ready, node, federation, identities):
    with pytest.raises(SHUT):
        async with channel(node, federation, identities["anna"], "elsewhere"):
            pytest.fail("it is another's")


@pytest.mark.servers
async def test_older_tls_and_passwords_are_refused(ready, node, federation, identities):
    older = federation.context(identities["anna"])
    older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(SHUT):
        await aio_pika.connect(node.tls_url(VHOST), ssl_context=older, timeout=20)
    url = f"amqps://guest:guest@localhost:{node.tls_port}/{VHOST}"
    with pytest.raises(SHUT):
        await aio_pika.connect(url, ssl_context=federation.context(identities["anna"]), timeout=20)


@pytest.mark.servers
async def test_a_client_whose_user_is_removed_is_cut_off_at_once(ready, node, federation, users):
    await users.admit("carol", rights_of_client("carol"))
    carol = federation.enrol("carol")
    connection = await aio_pika.connect(
        node.tls_url(VHOST), ssl_context=federation.context(carol), timeout=20
    )
    closed = asyncio.Event()
    connection.close_callbacks.add(lambda *_: closed.set())
    await users.expel("carol")
    await users.expel("carol")
    await asyncio.wait_for(closed.wait(), 20)
    with pytest.raises(SHUT):
        async with channel(node, federation, carol):
            pytest.fail("she was removed")


@pytest.mark.servers
async def test_whoever_enrols_is_told_when_the_broker_does_not_do_it(node, federation, identities):
    context = federation.context(identities["keeper"])
    wrong = node.management_url().replace("guest:guest", "guest:wrong")
    for users, said in (
        (BrokerUsers.at(wrong, VHOST, context), "says 401"),
        (BrokerUsers.at(node.management_url(), "none", context), "says 4"),
        (BrokerUsers.at(node.management_url(), VHOST, federation.context(None)), "does not answer"),
        (BrokerUsers.at(f"https://localhost:{free_port()}", VHOST, context), "does not answer"),
    ):
        with pytest.raises(Unavailable, match=said):
            await users.admit("dora", rights_of_client("dora"))
        await users.close()
