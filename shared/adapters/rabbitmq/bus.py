"""The connection to the broker, and the port's operations over it."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress

import aio_pika
from aio_pika.abc import AbstractRobustChannel, AbstractRobustConnection
from aiormq.exceptions import ChannelNotFoundEntity
from yarl import URL

from shared.adapters.rabbitmq.codec import reason_of, to_envelope
from shared.adapters.rabbitmq.consumer import RabbitSubscription
from shared.adapters.rabbitmq.publisher import ANSWER_S, Publisher, broker_errors
from shared.adapters.rabbitmq.topology import DEAD, declare_exchanges, declare_queue
from shared.errors import Rejected, Unavailable
from shared.events.base import Envelope
from shared.ports import Queue, QueueKind, Receiver

RECONNECT_S = 1.0


class RabbitBus:
    """One robust connection: a channel to declare on, one to publish on, one for each subscription.

    aio-pika connects again after a loss and restores queues, bindings and consumers; publishing
    raises Unavailable meanwhile.
    """

    def __init__(
        self,
        connection: AbstractRobustConnection,
        topology: AbstractRobustChannel,
        publisher: Publisher,
        authenticated: bool,
    ) -> None:
        self._connection, self._topology, self._publisher = connection, topology, publisher
        self._authenticated = authenticated
        self._declaring = asyncio.Lock()
        self._base_declared = False
        self._subscriptions: list[RabbitSubscription] = []

    async def declare(self, queue: Queue) -> None:
        """See the port. A client with a login of its own takes its inbox as it finds it: whoever
        granted the login may have declared it, and granted no right to."""
        if self._authenticated and queue.kind is QueueKind.INBOX and await self._exists(queue.name):
            return
        with broker_errors():
            async with self._declaring, asyncio.timeout(ANSWER_S):
                if not self._base_declared:
                    await declare_exchanges(self._topology)
                    self._base_declared = True
                await declare_queue(self._topology, queue)

    async def publish(self, envelope: Envelope) -> None:
        """See the port."""
        await self._publisher.publish(envelope)

    async def subscribe(self, queue: Queue, receive: Receiver) -> RabbitSubscription:
        """See the port."""
        await self.declare(queue)
        with broker_errors():
            async with asyncio.timeout(ANSWER_S):
                channel = self._connection.channel(publisher_confirms=False)
                await channel.initialize(timeout=ANSWER_S)
                subscription = RabbitSubscription(
                    channel, queue, receive, self._publisher, may_copy=not self._authenticated
                )
                self._subscriptions.append(subscription)
                await subscription.start()
        return subscription

    async def dead_letters(self, limit: int = 100) -> Sequence[tuple[Envelope | None, str]]:
        """See the port; the oldest first. Raises: Unavailable."""
        seen: list[tuple[Envelope | None, str]] = []
        with broker_errors():
            async with asyncio.timeout(ANSWER_S):
                channel = await self._connection.channel(publisher_confirms=False)
                try:
                    queue = await channel.get_queue(DEAD, ensure=False)
                    while len(seen) < limit:
                        message = await queue.get(no_ack=False, fail=False)
                        if message is None:
                            break
                        try:
                            seen.append((to_envelope(message), reason_of(message)))
                        except Rejected:
                            seen.append((None, reason_of(message)))
                finally:
                    await channel.close()  # returns what was looked at
        return seen

    def healthy(self) -> bool:
        """See the port."""
        return self._connection.connected.is_set() and not self._connection.is_closed

    async def close(self) -> None:
        """See the port."""
        for subscription in self._subscriptions:
            await subscription.cancel()
        with suppress(Unavailable), broker_errors():
            await self._connection.close()

    async def _exists(self, name: str) -> bool:
        with broker_errors():
            async with asyncio.timeout(ANSWER_S):
                channel = await self._connection.channel(publisher_confirms=False)
                try:
                    await channel.declare_queue(name, passive=True, robust=False)
                except ChannelNotFoundEntity:
                    return False
                finally:
                    await channel.close()
        return True


async def open_rabbitmq(url: str, login: str = "", ssl_context: ssl.SSLContext | None = None) -> RabbitBus:
    """Connect to the broker at `url`. Raises: Unavailable when it does not answer.

    Args:
        url: amqp:// or amqps://; `?auth=external` logs in with the certificate of `ssl_context`.
        login: whom the broker knows this process as, where it has a login of its own: then the broker
            checks the sender of each message. Ignored where the url names another user.
        ssl_context: trust and certificate for amqps://.
    """
    parsed = URL(url)
    authenticated = bool(login) and (parsed.user == login or parsed.query.get("auth") == "external")
    with broker_errors():
        connection = await aio_pika.connect_robust(
            parsed, ssl_context=ssl_context, timeout=ANSWER_S, reconnect_interval=RECONNECT_S
        )
        topology = connection.channel(publisher_confirms=False)
        await topology.initialize(timeout=ANSWER_S)
        channel = connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.initialize(timeout=ANSWER_S)
    publisher = Publisher(connection, channel, login if authenticated else "")
    return RabbitBus(connection, topology, publisher, authenticated)
