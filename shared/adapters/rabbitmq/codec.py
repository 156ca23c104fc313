"""Envelopes as AMQP messages, and back."""

import uuid
from collections.abc import Mapping
from typing import Any

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage

from shared.errors import Rejected
from shared.events.base import Channel, Envelope

ATTEMPT, REASON = "fl-attempt", "fl-reason"
_CHANNELS = {channel.value: channel for channel in Channel}
_EXTRA = "fl-extra-"
_TYPE, _EVENT_ID, _CHANNEL, _ROUTING_KEY = "fl-type", "fl-event-id", "fl-channel", "fl-routing-key"
_MANDATORY, _EPHEMERAL = "fl-mandatory", "fl-ephemeral"
_OPTIONAL = {
    "fl-correlation-id": "correlation_id",
    "fl-causation-id": "causation_id",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
    "fl-producer": "producer",
}
_SHORT_STRING_BYTES = 255


def to_message(
    envelope: Envelope,
    *,
    user_id: str = "",
    attempt: int = 1,
    reason: str = "",
    expiration_s: float | None = None,
) -> Message:
    """One attempt to publish `envelope`.

    The AMQP message_id is fresh for each attempt: confirms are matched by it. The idempotency key
    travels in a header.
    """
    headers: dict[str, Any] = {
        _TYPE: envelope.type_name,
        _EVENT_ID: envelope.event_id,
        _CHANNEL: envelope.channel.value,
        _ROUTING_KEY: envelope.routing_key,
    }
    for header, attribute in _OPTIONAL.items():
        value = getattr(envelope, attribute)
        if value:
            headers[header] = value
    if not envelope.mandatory:
        headers[_MANDATORY] = False
    if envelope.ephemeral:
        headers[_EPHEMERAL] = True
    for name, value in envelope.headers.items():
        headers[_EXTRA + name] = value
    if attempt > 1:
        headers[ATTEMPT] = attempt
    if reason:
        headers[REASON] = reason
    return Message(
        envelope.body,
        headers=headers,
        type=envelope.type_name,
        message_id=uuid.uuid4().hex,
        correlation_id=_short(envelope.correlation_id),
        content_type="application/msgpack",
        delivery_mode=DeliveryMode.NOT_PERSISTENT if envelope.ephemeral else DeliveryMode.PERSISTENT,
        user_id=user_id or None,
        expiration=expiration_s,
    )


def undecodable(message: AbstractIncomingMessage, reason: str) -> Message:
    """A copy of what could not be decoded, to be put aside with the reason."""
    origin = f"exchange {message.exchange or ''!r}, routing key {message.routing_key or ''!r}"
    return Message(
        message.body,
        headers={REASON: f"{reason} ({origin})"},
        message_id=uuid.uuid4().hex,
        delivery_mode=DeliveryMode.PERSISTENT,
    )


def to_envelope(message: AbstractIncomingMessage) -> Envelope:
    """Inverse of `to_message`. Raises: Rejected when a header is missing or not what it should be.

    The exchange and routing key under which the broker routed the message count, because the broker
    checked them; the headers of the same meaning count only for copies in retry and dead-letter
    queues, which clients have no right to publish to.
    """
    headers: Mapping[str, Any] = message.headers
    channel, routing_key = _CHANNELS.get(message.exchange or ""), message.routing_key or ""
    if channel is None:
        channel = _CHANNELS.get(_text(headers, _CHANNEL))
        routing_key = _text(headers, _ROUTING_KEY)
        if channel is None:
            raise Rejected(f"header {_CHANNEL} names no channel")
    type_name = _text(headers, _TYPE)
    if message.type != type_name:
        raise Rejected(f"type property and header {_TYPE} differ")
    return Envelope(
        event_id=_text(headers, _EVENT_ID),
        type_name=type_name,
        channel=channel,
        routing_key=routing_key,
        body=message.body,
        mandatory=headers.get(_MANDATORY) is not False,
        ephemeral=headers.get(_EPHEMERAL) is True,
        headers={name[len(_EXTRA) :]: _text(headers, name) for name in headers if name.startswith(_EXTRA)},
        **{attribute: _text(headers, header, "") for header, attribute in _OPTIONAL.items()},
    )


def attempt_of(message: AbstractIncomingMessage) -> int:
    """From 1: the copies that the retry ladder made, and the redeliveries that the queue counted.

    A publisher's own headers do not count: only what the ladder and the queue wrote.
    """
    copies = message.headers.get(ATTEMPT) if not message.exchange else None
    redelivered = message.headers.get("x-delivery-count") if message.redelivered else None
    first = copies if isinstance(copies, int) and copies >= 1 else 1
    return first + (redelivered if isinstance(redelivered, int) and redelivered >= 0 else 0)


def reason_of(message: AbstractIncomingMessage) -> str:
    """Why a dead letter was put aside: in our words, or in the broker's."""
    reason = message.headers.get(REASON)
    if isinstance(reason, str):
        return reason
    deaths = message.headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return f"{deaths[0].get('reason')!s} in queue {deaths[0].get('queue')!s}"
    return "unknown"


def _text(headers: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = headers.get(name, default)
    if not isinstance(value, str) or (not value and default is None):
        raise Rejected(f"header {name} is missing or not text")
    return value


def _short(value: str) -> str | None:
    return value if value and len(value.encode()) <= _SHORT_STRING_BYTES else None
