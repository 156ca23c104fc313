"""Whatever arrives, decoding either gives an event or says why not, and nothing dies."""

import asyncio
import os
import random

import aio_pika
import pytest
from aiormq.abc import DeliveredMessage
from pamqp import commands
from pamqp.header import ContentHeader

from shared.adapters.rabbitmq import open_rabbitmq
from shared.adapters.rabbitmq.codec import attempt_of, reason_of, to_envelope, to_message
from shared.errors import Rejected
from shared.events import ClientSeen, JobCancelled, JobClosed, UpdateSubmitted
from shared.events.base import Channel, Envelope, Event, decode, event_types, pack
from shared.ports import Delivery, Queue
from tests.contract.test_bus import PATIENCE_S, Receiver, ack

MESSAGES = int(os.environ.get("FEDLORA_FUZZ_MESSAGES", "100000"))
VALID: list[Event] = [
    JobCancelled(job_id="j1", reason="because"),
    ClientSeen(client_id="a", activity="waiting"),
    JobClosed(client_id="a", job_id="j", outcome="completed"),
    UpdateSubmitted(
        client_id="a",
        job_id="j",
        round_id="j-r1",
        group_id="j-r1-g1",
        index=0,
        count=1,
        upload_sha256="0" * 64,
        payload=bytes(range(256)),
        signature=b"s" * 64,
    ),
]


@pytest.fixture
def seeded() -> random.Random:
    """Randomness whose seed a failure shows; FEDLORA_SEED repeats it."""
    seed = int(os.environ.get("FEDLORA_SEED", random.SystemRandom().randrange(2**32)))
    print(f"FEDLORA_SEED={seed}")
    return random.Random(seed)


def scalar(rng: random.Random) -> object:
    return rng.choice(
        [
            None,
            True,
            0,
            -1,
            2**63,
            -(2**63),
            rng.random(),
            float("nan"),
            float("inf"),
            "",
            "a",
            "\x00",
            "é" * 20,
            "0" * 64,
            "../../etc/passwd",
            b"",
            rng.randbytes(8),
        ]
    )


def tree(rng: random.Random, depth: int = 3) -> object:
    """A random msgpack-able value."""
    shape = rng.random()
    if depth == 0 or shape < 0.5:
        return scalar(rng)
    if shape < 0.7:
        return [tree(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["job_id", "client_id", "x", "0", ""]): tree(rng, depth - 1) for _ in range(3)}


def mutated(rng: random.Random, event: Event) -> bytes:
    """The event with fields dropped, replaced or added, or its bytes flipped, cut or repeated."""
    fields = event.model_dump(mode="python")
    how = rng.randrange(7)
    if how == 0:
        del fields[rng.choice(list(fields))]
    elif how == 1:
        fields[rng.choice(list(fields))] = tree(rng)
    elif how == 2:
        fields["unknown"] = tree(rng)
    body = bytearray(pack(fields))
    if how == 3:
        for _ in range(rng.randrange(1, 8)):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif how == 4:
        del body[rng.randrange(len(body)) :]
    elif how == 5:
        body += rng.randbytes(rng.randrange(1, 16))
    elif how == 6:
        at = rng.randrange(len(body))
        body[at:at] = rng.randbytes(rng.randrange(1, 16))
    return bytes(body)


def hostile(rng: random.Random) -> tuple[str, bytes]:
    """A type name and a body."""
    kinds = list(event_types())
    how = rng.random()
    if how < 0.6:
        event = rng.choice(VALID)
        return event.type_name, mutated(rng, event)
    if how < 0.8:
        return rng.choice(kinds), pack(tree(rng))
    if how < 0.95:
        return rng.choice(kinds), rng.randbytes(rng.randrange(64))
    return rng.choice(["", "job.cancelled.v2", "é" * 50, "deadline.passed.v1"]), rng.randbytes(8)


@pytest.mark.slow
def test_every_body_decodes_or_is_rejected(seeded: random.Random) -> None:
    decoded = rejected = 0
    for _ in range(MESSAGES):
        type_name, body = hostile(seeded)
        try:
            event = decode(type_name, body)
        except Rejected as error:
            assert str(error)
            rejected += 1
        else:
            assert isinstance(event, Event)
            event.routing_key()
            decoded += 1
    assert decoded > MESSAGES // 100
    assert rejected > MESSAGES // 2


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 100_000,  # nested arrays
        b"\x81\xa1a" * 100_000,  # nested maps
        b"\xdd\xff\xff\xff\xff",  # an array said to hold four thousand million
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a time far away
        b"\x81\xa6job_id\xd9\x01\xff",  # text that is not UTF-8
        b"\x81\xc4\x01a\x01",  # a key of bytes
        b"\xc1",
        b"",
        b"\x00" * (2 * 1024 * 1024 + 1),
    ],
)
@pytest.mark.parametrize("type_name", ["job.cancelled.v1", "round.opened.v1", "update.submitted.v1"])
def test_known_bombs_are_rejected(type_name: str, body: bytes) -> None:
    with pytest.raises(Rejected):
        decode(type_name, body)


def header_value(rng: random.Random) -> object:
    return rng.choice(
        [None, 7, -1, True, "", "a", "fl.up", "job.cancelled.v1", {"a": 1}, [1, "b"], 1.5, bytearray(b"\xff")]
    )


def hostile_message(rng: random.Random) -> aio_pika.Message:
    """A valid message with headers and properties dropped, replaced or added, and a hostile body."""
    event = rng.choice(VALID)
    message = to_message(Envelope.wrap(event, correlation_id="r"))
    if rng.random() < 0.5:
        message.type, message.body = hostile(rng)
        message.type = message.type[:100] or None
    names = [*message.headers, "traceparent", "fl-attempt", "fl-mandatory", "fl-extra-x", "x-death"]
    for _ in range(rng.randrange(4)):
        name = rng.choice(names)
        if rng.random() < 0.4:
            message.headers.pop(name, None)
        else:
            message.headers[name] = header_value(rng)
    return message


def delivered(message: aio_pika.Message, exchange: str, routing_key: str) -> aio_pika.IncomingMessage:
    frame = commands.Basic.Deliver("tag", 1, redelivered=False, exchange=exchange, routing_key=routing_key)
    header = ContentHeader(properties=message.properties)
    return aio_pika.IncomingMessage(DeliveredMessage(frame, header, message.body, None), no_ack=True)


def test_every_amqp_message_becomes_an_envelope_or_is_rejected(seeded: random.Random) -> None:
    accepted = 0
    for _ in range(20_000):
        exchange = seeded.choice(["", "fl.up", "fl.events", "fl.dead", "amq.topic"])
        message = delivered(hostile_message(seeded), exchange, seeded.choice(["", "a", "client.a.x"]))
        assert attempt_of(message) >= 1
        assert isinstance(reason_of(message), str)
        try:
            envelope = to_envelope(message)
        except Rejected as error:
            assert str(error)
            continue
        accepted += 1
        try:
            assert isinstance(envelope.open(), Event)
        except Rejected as error:
            assert str(error)
    assert accepted > 1000


async def test_strangers_messages_over_the_broker_end_as_dead_letters(
    amqp_url: str, seeded: random.Random
) -> None:
    """A service that opens each event, as every service does, gets through 300 hostile messages."""
    bus = await open_rabbitmq(amqp_url)
    good: list[str] = []

    async def handle(delivery: Delivery) -> None:
        try:
            delivery.envelope.open()
        except Rejected as error:
            await delivery.dead_letter(str(error))
            return
        good.append(delivery.envelope.event_id)
        await delivery.ack()

    queue = Queue("all", tuple((channel, "#") for channel in Channel), prefetch=16)
    subscription = await bus.subscribe(queue, handle)
    connection = await aio_pika.connect(amqp_url)
    count = 300
    async with connection:
        channel = await connection.channel()
        for _ in range(count):
            exchange = await channel.get_exchange(seeded.choice([c.value for c in Channel]), ensure=False)
            message = hostile_message(seeded)
            await exchange.publish(message, seeded.choice(["job.cancelled.v1", "client.a.client.seen.v1"]))
    letters: list[tuple[Envelope | None, str]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(good) + len(letters) < count:
            await asyncio.sleep(0.1)
            letters = list(await bus.dead_letters(limit=count))
    assert len(good) + len(letters) == count
    assert all(reason and reason != "unknown" for _, reason in letters)
    await subscription.cancel()
    last = Receiver(ack)
    await bus.subscribe(queue, last)
    sent = Envelope.wrap(JobCancelled(job_id="after"))
    await bus.publish(sent)
    assert (await last.next()).envelope == sent
    await bus.close()
