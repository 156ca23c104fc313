"""What only a real broker can do to us: go away, be killed, refuse, and deliver what is not ours."""

import asyncio
import uuid
from collections.abc import Iterator

import aio_pika
import pytest

from shared.adapters.rabbitmq import open_rabbitmq
from shared.errors import Unavailable
from shared.events import ClientSeen, JobCancelled, JobClosed
from shared.events.base import Channel, Envelope
from shared.ports import Queue, QueueKind
from tests.contract.test_bus import JOBS, Receiver, ack, cancelled, dead
from tests.servers import rabbitmq
from tests.servers.process import free_port
from tests.servers.rabbitmq import RabbitServer

PATIENCE_S = 60


@pytest.fixture
def own_server() -> Iterator[RabbitServer]:
    """A node that the test may kill."""
    with rabbitmq.rabbitmq_server() as server:
        yield server


async def test_a_broker_that_is_away_at_the_start_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await open_rabbitmq(f"amqp://guest:guest@127.0.0.1:{free_port()}/")


async def test_a_wrong_password_is_unavailable(rabbitmq_server: RabbitServer) -> None:
    with pytest.raises(Unavailable):
        await open_rabbitmq(rabbitmq_server.url(password="wrong"))


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_broker_restart_loses_nothing(own_server: RabbitServer, how: str) -> None:
    bus = await open_rabbitmq(own_server.url())
    answered = Receiver(ack)
    held = Receiver()
    await bus.subscribe(JOBS, answered)
    held_queue = Queue("held", ((Channel.UP, "#"),))
    await bus.subscribe(held_queue, held)
    upload = Envelope.wrap(ClientSeen(client_id="a"))
    await bus.publish(upload)
    assert (await held.next()).attempt == 1

    sent = [cancelled(f"j{n}") for n in range(200)]
    refused = 0

    async def publish(envelope: Envelope) -> None:
        nonlocal refused
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await bus.publish(envelope)
                except Unavailable:
                    refused += 1
                    await asyncio.sleep(0.2)

    for envelope in sent[:50]:
        await publish(envelope)
    publishing = asyncio.gather(*(publish(envelope) for envelope in sent[50:]))
    await asyncio.to_thread(own_server.kill if how == "kill" else own_server.stop)
    with pytest.raises(Unavailable):
        await bus.publish(cancelled("away"))
    assert not bus.healthy()
    with rabbitmq.started(own_server):
        await asyncio.wait_for(publishing, PATIENCE_S)
        assert refused > 0
        got = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < len(sent):
                got.add((await answered.next()).envelope.event_id)
            assert got == {envelope.event_id for envelope in sent}
            again = await held.next()
        assert again.envelope == upload
        assert again.attempt == 2
        assert bus.healthy()
        await bus.close()


async def raw(url: str, exchange: str, key: str, message: aio_pika.Message) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        target = await channel.get_exchange(exchange, ensure=False)
        await target.publish(message, key)


@pytest.mark.parametrize(
    "message",
    [
        aio_pika.Message(b"no headers at all"),
        aio_pika.Message(b"x", type="job.cancelled.v1", headers={"fl-type": 7, "fl-event-id": "e"}),
        aio_pika.Message(
            b"x", type="job.ended.v1", headers={"fl-type": "job.cancelled.v1", "fl-event-id": "e"}
        ),
        aio_pika.Message(
            b"x", type="job.cancelled.v1", headers={"fl-type": "job.cancelled.v1", "fl-event-id": {"a": [1]}}
        ),
        aio_pika.Message(
            b"x",
            type="job.cancelled.v1",
            headers={"fl-type": "job.cancelled.v1", "fl-event-id": "e", "traceparent": bytearray(b"\xff")},
        ),
    ],
)
async def test_what_is_not_an_envelope_is_put_aside_with_the_reason(
    amqp_url: str, message: aio_pika.Message
) -> None:
    bus = await open_rabbitmq(amqp_url)
    receiver = Receiver(ack)
    await bus.subscribe(JOBS, receiver)
    await raw(amqp_url, "fl.events", "job.cancelled.v1", message)
    [(envelope, reason)] = await dead(bus)
    assert envelope is None
    assert "header" in reason
    assert "job.cancelled.v1" in reason
    sent = cancelled()
    await bus.publish(sent)
    assert (await receiver.next()).envelope == sent
    await bus.close()


async def test_headers_do_not_outweigh_the_key_that_the_broker_checked(amqp_url: str) -> None:
    bus = await open_rabbitmq(amqp_url)
    receiver = Receiver(ack)
    await bus.subscribe(Queue("seen", ((Channel.UP, "#"),)), receiver)
    headers = {
        "fl-type": "client.seen.v1",
        "fl-event-id": "e",
        "fl-channel": "fl.events",
        "fl-routing-key": "client.victim.client.seen.v1",
        "fl-attempt": 1000,
        "x-delivery-count": 1000,
    }
    body = Envelope.wrap(ClientSeen(client_id="victim")).body
    await raw(
        amqp_url,
        "fl.up",
        "client.mallory.client.seen.v1",
        aio_pika.Message(body, type="client.seen.v1", headers=headers),
    )
    delivery = await receiver.next()
    assert delivery.envelope.routing_key == "client.mallory.client.seen.v1"
    assert delivery.envelope.channel is Channel.UP
    assert delivery.attempt == 1
    await bus.close()


async def test_a_message_that_kills_its_consumers_is_put_aside(amqp_url: str) -> None:
    watcher = await open_rabbitmq(amqp_url)
    inbox = Queue("a.inbox", ((Channel.DOWN, "#"),), kind=QueueKind.INBOX)
    await watcher.declare(inbox)
    sent = Envelope.wrap(JobClosed(client_id="a", job_id="j", outcome="x"))
    await watcher.publish(sent)
    for _ in range(21):
        bus = await open_rabbitmq(amqp_url)
        receiver = Receiver()
        await bus.subscribe(inbox, receiver)
        await receiver.next()
        await bus.close()
    [(envelope, reason)] = await dead(watcher)
    assert envelope == sent
    assert reason == "delivery_limit in queue a.inbox"
    await watcher.close()


async def test_a_client_with_rights_to_its_inbox_alone_can_work(rabbitmq_server: RabbitServer) -> None:
    name = f"v{uuid.uuid4().hex[:12]}"
    services = await open_rabbitmq(rabbitmq_server.add_vhost(name))
    inbox = Queue("a.inbox", ((Channel.DOWN, JobClosed.binding("a")),), kind=QueueKind.INBOX)
    seen = Receiver(ack)
    await services.declare(inbox)
    await services.subscribe(Queue("seen", ((Channel.UP, "#"),)), seen)
    user = f"a{uuid.uuid4().hex[:8]}"
    rabbitmq_server.control("add_user", user, "secret")
    rabbitmq_server.control("set_permissions", "-p", name, user, "^$", "^fl\\.up$", "^a\\.inbox$")
    rabbitmq_server.control(
        "set_topic_permissions", "-p", name, user, "fl.up", "^client\\.{username}\\..+", "^$"
    )
    client = await open_rabbitmq(rabbitmq_server.url(name, user, "secret"), login=user)

    async def by_outcome(delivery) -> None:
        event = delivery.envelope.open()
        if event.outcome == "retry" and delivery.attempt == 1:
            await delivery.retry("not yet")
        elif event.outcome == "refuse":
            await delivery.dead_letter("no")
        else:
            await delivery.ack()

    receiver = Receiver(by_outcome)
    await client.subscribe(inbox, receiver)
    for outcome in ("retry", "refuse"):
        await services.publish(Envelope.wrap(JobClosed(client_id="a", job_id="j", outcome=outcome)))
    assert sorted([(await receiver.next()).attempt for _ in range(3)]) == [1, 1, 2]
    [(envelope, reason)] = await dead(services)
    assert envelope is not None and envelope.open().outcome == "refuse"
    assert reason == "rejected in queue a.inbox"

    await client.publish(Envelope.wrap(ClientSeen(client_id=user)))
    assert (await seen.next()).envelope.open().client_id == user
    with pytest.raises(Unavailable):
        await client.publish(Envelope.wrap(ClientSeen(client_id="victim")))
    with pytest.raises(Unavailable):
        await client.publish(Envelope.wrap(JobCancelled(job_id="j")))
    with pytest.raises(Unavailable):
        await client.declare(Queue("b.inbox", ((Channel.DOWN, "#"),), kind=QueueKind.INBOX))
    with pytest.raises(Unavailable):
        await client.subscribe(JOBS, receiver)
    async with asyncio.timeout(20):
        while True:
            try:
                await client.publish(Envelope.wrap(ClientSeen(client_id=user, activity="still here")))
                break
            except Unavailable:  # the broker closes the channel at each refusal
                await asyncio.sleep(0.05)
    assert (await seen.next()).envelope.open().activity == "still here"
    assert seen.taken() == 0
    await client.close()
    await services.close()
