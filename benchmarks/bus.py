"""Throughput of the RabbitMQ bus against bare aio-pika: `python benchmarks/bus.py`.

Both sides publish persistent messages to a quorum queue with confirms, as many at once, and consume
with the same prefetch and an acknowledgement each. The rounds are interleaved, so that a noisy
machine slows both; the ratio of the medians is what counts.
"""

import argparse
import asyncio
import json
import statistics
import sys
import uuid
from time import perf_counter

import aio_pika

from shared.adapters.rabbitmq import open_rabbitmq
from shared.events import UpdateSubmitted
from shared.events.base import Channel, Envelope
from shared.ports import Delivery, Queue
from tests.servers.rabbitmq import rabbitmq_server

PREFETCH = 64


def envelope(body_bytes: int) -> Envelope:
    event = UpdateSubmitted(
        client_id="a",
        job_id="job",
        round_id="job-r1",
        group_id="job-r1-g1",
        index=0,
        count=1,
        upload_sha256="0" * 64,
        payload=b"x" * body_bytes,
        signature=b"s" * 64,
    )
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    return Envelope.wrap(event, correlation_id="job-r1", traceparent=trace, producer=trace)


async def in_parallel(publish, count: int, at_once: int) -> None:
    """`count` calls of `publish`, `at_once` in flight."""

    async def worker(share: int) -> None:
        for _ in range(share):
            await publish()

    await asyncio.gather(*(worker(count // at_once) for _ in range(at_once)))


async def measure_bus(url: str, count: int, at_once: int, body_bytes: int) -> tuple[float, float]:
    """Messages a second: published, consumed."""
    bus = await open_rabbitmq(url)
    queue = Queue("bench.bus", ((Channel.UP, "#"),), prefetch=PREFETCH)
    await bus.declare(queue)
    one = envelope(body_bytes)
    begin = perf_counter()
    await in_parallel(lambda: bus.publish(one), count, at_once)
    published = count / (perf_counter() - begin)
    done, left = asyncio.Event(), count

    async def receive(delivery: Delivery) -> None:
        nonlocal left
        await delivery.ack()
        left -= 1
        if left == 0:
            done.set()

    begin = perf_counter()
    await bus.subscribe(queue, receive)
    await done.wait()
    consumed = count / (perf_counter() - begin)
    await bus.close()
    return published, consumed


async def measure_bare(url: str, count: int, at_once: int, body_bytes: int) -> tuple[float, float]:
    """The same with aio-pika alone: the same body, a type and a message_id, no other headers."""
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.set_qos(prefetch_count=PREFETCH)
        exchange = await channel.declare_exchange("bench", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(
            "bench.bare", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 50}
        )
        await queue.bind(exchange, "#")
        body = envelope(body_bytes).body

        async def publish() -> None:
            message = aio_pika.Message(
                body,
                type="update.submitted.v1",
                message_id=uuid.uuid4().hex,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, "client.a.update.submitted.v1", timeout=15)

        begin = perf_counter()
        await in_parallel(publish, count, at_once)
        published = count / (perf_counter() - begin)
        done, left = asyncio.Event(), count

        async def receive(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal left
            await message.ack()
            left -= 1
            if left == 0:
                done.set()

        begin = perf_counter()
        await queue.consume(receive)
        await done.wait()
        consumed = count / (perf_counter() - begin)
    return published, consumed


async def compare(url: str, rounds: int, count: int, at_once: int, body_bytes: int) -> dict[str, float]:
    """Medians over interleaved rounds, and their ratios; the first round of each warms up."""
    bus, bare = [], []
    for number in range(rounds + 1):
        order = [(measure_bus, bus), (measure_bare, bare)]
        for measure, results in order if number % 2 else reversed(order):
            result = await measure(url, count, at_once, body_bytes)
            if number:
                results.append(result)
    report: dict[str, float] = {"body_bytes": body_bytes, "at_once": at_once, "messages": count}
    for index, what in enumerate(("published", "consumed")):
        ours = statistics.median(result[index] for result in bus)
        theirs = statistics.median(result[index] for result in bare)
        report[f"{what}_per_s"] = round(ours)
        report[f"bare_{what}_per_s"] = round(theirs)
        report[f"{what}_ratio"] = round(ours / theirs, 3)
    both = [statistics.median(1 / result[0] + 1 / result[1] for result in results) for results in (bare, bus)]
    report["ratio"] = round(both[0] / both[1], 3)
    return report


def main() -> int:
    """Print one JSON line for each body size; 1 when a ratio is below --least."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a broker to use instead of a private one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--bytes", type=int, nargs="+", default=[1024, 262_144])
    parser.add_argument("--least", type=float, default=0.0)
    options = parser.parse_args()

    def run(url: str) -> int:
        worst = float("inf")
        for body_bytes in options.bytes:
            count = max(options.at_once, options.messages * 1024 // max(body_bytes // 16, 1024))
            count -= count % options.at_once
            report = asyncio.run(compare(url, options.rounds, count, options.at_once, body_bytes))
            print(json.dumps(report), flush=True)
            worst = min(worst, report["ratio"])
        return int(worst < options.least)

    if options.url:
        return run(options.url)
    with rabbitmq_server() as server:
        return run(server.url())


if __name__ == "__main__":
    sys.exit(main())
