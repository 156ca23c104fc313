"""Consuming: deliveries, their verdicts, and the subscription that owns them."""

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, cast

import structlog
from aio_pika import IncomingMessage
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue, AbstractRobustChannel

from shared.adapters.backoff import DELIVERY_LIMIT, delay_s
from shared.adapters.rabbitmq.codec import attempt_of, to_envelope, to_message, undecodable
from shared.adapters.rabbitmq.publisher import Publisher, broker_errors
from shared.adapters.rabbitmq.topology import retry_queue
from shared.errors import Rejected, Unavailable
from shared.events.base import Envelope
from shared.ports import Queue, QueueKind, Receiver

log = structlog.get_logger()
_jitter = secrets.SystemRandom()


class RabbitSubscription:
    """A consumer on a channel of its own, so that closing the channel gives back what is unanswered.

    Args:
        may_copy: whether this login may publish to retry and dead-letter queues; a client with
            rights to its own inbox alone may not, and rejects to the queue's dead-letter exchange.
    """

    def __init__(
        self,
        channel: AbstractRobustChannel,
        queue: Queue,
        receive: Receiver,
        publisher: Publisher,
        may_copy: bool,
    ) -> None:
        self._channel, self.queue, self._receive = channel, queue, receive
        self.publisher, self.may_copy = publisher, may_copy
        self._tasks: set[asyncio.Task[None]] = set()
        self._source: AbstractQueue | None = None
        self._tag: str | None = None

    async def start(self) -> None:
        """Begin to consume; the queue exists. Raises: Unavailable."""
        with broker_errors():
            await self._channel.set_qos(prefetch_count=self.queue.prefetch)
            self._source = await self._channel.declare_queue(self.queue.name, passive=True)
            self._tag = await self._source.consume(self._take)

    async def pause(self) -> None:
        """See the port."""
        tag, self._tag = self._tag, None
        if tag is None or self._source is None:
            return
        try:
            with broker_errors():
                await self._source.cancel(tag, timeout=5)
        except Unavailable as error:
            log.debug("pause while the broker is away", reason=str(error))

    async def cancel(self) -> None:
        """See the port."""
        await self.pause()
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            with broker_errors():
                await self._channel.close()
        except Unavailable as error:
            log.debug("cancel while the broker is away", reason=str(error))

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it is done or the subscription is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.start_task(self._deliver(message))

    async def _deliver(self, message: AbstractIncomingMessage) -> None:
        try:
            envelope = to_envelope(message)
        except Rejected as error:
            await _Answer(self, message).put_aside(str(error), None)
            return
        delivery = RabbitDelivery(self, message, envelope)
        try:
            await self._receive(delivery)
        except Exception as error:
            log.exception("receiver failed", queue=self.queue.name, event_id=envelope.event_id)
            await delivery.retry(f"{type(error).__name__}: {error}")


class _Answer:
    """The one verdict on one message; later ones, and those on a lost channel, have no effect:
    the broker delivers again and the receiver's inbox knows what it did."""

    def __init__(self, subscription: RabbitSubscription, message: AbstractIncomingMessage) -> None:
        self._subscription, self._message = subscription, message
        self._given = False

    def claim(self) -> bool:
        """Whether the verdict that is about to be given is the first."""
        first, self._given = not self._given, True
        return first

    async def ack(self) -> None:
        await self._quietly(self._message.ack())

    def forget_body(self) -> None:
        cast(IncomingMessage, self._message).body = b""

    async def put_back(self, attempt: int) -> None:
        """Return it to its queue after the backoff, without keeping the receiver waiting."""
        self._subscription.start_task(self._put_back_later(attempt))

    async def put_aside(self, reason: str, envelope: Envelope | None) -> None:
        """To the dead letters; undecodable when there is no `envelope`."""
        if not self._subscription.may_copy:
            log.warning("dead letter", queue=self._subscription.queue.name, reason=reason)
            await self._quietly(self._message.reject(requeue=False))
            return
        copy = undecodable(self._message, reason) if envelope is None else to_message(envelope, reason=reason)
        try:
            await self._subscription.publisher.to_dead(copy)
        except Unavailable:
            await self.put_back(attempt_of(self._message))
            return
        await self.ack()

    async def _put_back_later(self, attempt: int) -> None:
        await asyncio.sleep(delay_s(attempt, _jitter.random()))
        await self._quietly(self._message.nack(requeue=True))

    async def _quietly(self, verdict: Coroutine[Any, Any, None]) -> None:
        try:
            with broker_errors():
                await verdict
        except Unavailable as error:
            log.debug("verdict on a lost channel", queue=self._subscription.queue.name, reason=str(error))


class RabbitDelivery:
    """One attempt."""

    def __init__(
        self, subscription: RabbitSubscription, message: AbstractIncomingMessage, envelope: Envelope
    ) -> None:
        self._subscription, self._envelope = subscription, envelope
        self._attempt = attempt_of(message)
        self._answer = _Answer(subscription, message)

    @property
    def envelope(self) -> Envelope:
        """The message."""
        return self._envelope

    @property
    def attempt(self) -> int:
        """See the port."""
        return self._attempt

    async def ack(self) -> None:
        """See the port."""
        if self._answer.claim():
            await self._answer.ack()

    def forget_body(self) -> None:
        """See the port."""
        self._envelope = replace(self._envelope, body=b"")
        self._answer.forget_body()

    async def retry(self, reason: str) -> None:
        """See the port."""
        if not self._answer.claim():
            return
        if self._attempt >= DELIVERY_LIMIT:
            await self._answer.put_aside(f"after {self._attempt} attempts: {reason}", self._envelope)
            return
        queue = self._subscription.queue
        if queue.kind is QueueKind.INBOX:
            await self._answer.put_back(self._attempt)
            return
        copy = to_message(
            self._envelope,
            attempt=self._attempt + 1,
            expiration_s=delay_s(self._attempt, _jitter.random()),
        )
        try:
            await self._subscription.publisher.to_queue(copy, retry_queue(queue.name, self._attempt))
        except Unavailable:
            await self._answer.put_back(self._attempt)
            return
        await self._answer.ack()

    async def dead_letter(self, reason: str) -> None:
        """See the port."""
        if self._answer.claim():
            await self._answer.put_aside(reason, self._envelope)
