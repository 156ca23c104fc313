"""Publishing with confirms: return when the broker has the message safe, or raise."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika import Message
from aio_pika.abc import AbstractExchange, AbstractRobustChannel, AbstractRobustConnection
from aio_pika.exceptions import PublishError
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from shared.adapters.rabbitmq.codec import to_message
from shared.adapters.rabbitmq.topology import DEAD
from shared.errors import Unavailable, Unroutable
from shared.events.base import Envelope

ANSWER_S = 15.0  # for the broker to confirm


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn what aio-pika raises into Unroutable and Unavailable."""
    try:
        yield
    except PublishError as error:
        raise Unroutable(f"no queue takes the message: {error}") from error
    except (AMQPError, ChannelInvalidStateError, TimeoutError, OSError) as error:
        raise Unavailable(f"broker: {type(error).__name__}: {error}") from error


class Publisher:
    """One channel with confirms; calls run concurrently.

    Args:
        channel: robust, with `publisher_confirms` and `on_return_raises`.
        user_id: the login, which the broker compares; empty to send none.
    """

    def __init__(
        self, connection: AbstractRobustConnection, channel: AbstractRobustChannel, user_id: str
    ) -> None:
        self._connection, self._channel, self._user_id = connection, channel, user_id
        self._exchanges: dict[str, AbstractExchange] = {"": channel.default_exchange}

    async def publish(self, envelope: Envelope) -> None:
        """To the channel's exchange. Raises: Unroutable, Unavailable."""
        await self._send(
            to_message(envelope, user_id=self._user_id),
            envelope.channel.value,
            envelope.routing_key,
            mandatory=envelope.mandatory,
        )

    async def to_queue(self, message: Message, queue: str) -> None:
        """Straight to one queue. Raises: Unroutable, Unavailable."""
        await self._send(message, "", queue)

    async def to_dead(self, message: Message) -> None:
        """To the dead letters. Raises: Unroutable, Unavailable."""
        await self._send(message, DEAD, "")

    async def _send(
        self, message: Message, exchange_name: str, routing_key: str, mandatory: bool = True
    ) -> None:
        if not self._connection.connected.is_set():
            raise Unavailable("broker: not connected")
        with broker_errors():
            async with asyncio.timeout(ANSWER_S):
                exchange = self._exchanges.get(exchange_name)
                if exchange is None:
                    exchange = await self._channel.get_exchange(exchange_name, ensure=False)
                    self._exchanges[exchange_name] = exchange
                await exchange.publish(message, routing_key, mandatory=mandatory, timeout=ANSWER_S)
