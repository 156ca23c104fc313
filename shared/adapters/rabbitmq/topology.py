"""Exchanges and queues: what exists on the broker and with which arguments."""

from typing import Any

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel

from shared.adapters.backoff import DELIVERY_LIMIT, LONGEST_RETRY_S, longest_delay_s
from shared.events.base import Channel
from shared.ports import Queue, QueueKind

DEAD = "fl.dead"
DEAD_KEPT, DEAD_KEPT_BYTES = 10_000, 512 * 1024 * 1024
CRASH_LIMIT = 50  # deliveries that kill their consumer before it can answer
RETRY_RUNGS_S = (0.2, 1.6, 6.4, LONGEST_RETRY_S)  # the longest wait in each queue of the ladder
_NEVER = 1_000_000  # looking at a dead letter counts as a delivery
_SAFE_DEATH = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def retry_queue(name: str, attempt: int) -> str:
    """Where a message of queue `name` waits after `attempt` failed.

    A queue expires messages at its head only, hence a rung for each order of magnitude: nobody
    waits behind a much longer delay.
    """
    longest_s = longest_delay_s(attempt)
    rung = next(n for n, rung_s in enumerate(RETRY_RUNGS_S, start=1) if longest_s <= rung_s)
    return f"{name}.retry.{rung}"


async def declare_exchanges(channel: AbstractChannel) -> None:
    """The three topic exchanges, and the bounded queue of dead letters."""
    for name in Channel:
        await channel.declare_exchange(name.value, ExchangeType.TOPIC, durable=True)
    await channel.declare_exchange(DEAD, ExchangeType.FANOUT, durable=True)
    dead = await channel.declare_queue(
        DEAD,
        durable=True,
        arguments=_quorum(
            **{"x-max-length": DEAD_KEPT, "x-max-length-bytes": DEAD_KEPT_BYTES, "x-delivery-limit": _NEVER}
        ),
    )
    await dead.bind(DEAD)


async def declare_queue(channel: AbstractChannel, queue: Queue) -> None:
    """The queue, its bindings, and for a service its retry ladder."""
    inbox = queue.kind is QueueKind.INBOX
    arguments = _quorum(
        **_SAFE_DEATH,
        **{
            "x-dead-letter-exchange": DEAD,
            "x-delivery-limit": DELIVERY_LIMIT if inbox else CRASH_LIMIT,
        },
    )
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    declared = await channel.declare_queue(queue.name, durable=True, arguments=arguments)
    for exchange, pattern in queue.bindings:
        await declared.bind(exchange.value, pattern)
    if inbox:
        return
    for rung in range(1, len(RETRY_RUNGS_S) + 1):
        back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
        await channel.declare_queue(
            f"{queue.name}.retry.{rung}", durable=True, arguments=_quorum(**_SAFE_DEATH, **back)
        )


def _quorum(**arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - AMQP table values
    return {"x-queue-type": "quorum", **arguments}
