"""The event base class, the envelope that carries it, and its msgpack encoding."""

import hashlib
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Self

import msgpack
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from shared.errors import Rejected

EVENT_NAMESPACE = uuid.UUID("5e0f1d0a-6f0c-5d0e-9b53-f3d10a000001")
MAX_BODY_BYTES = 2 * 1024 * 1024
SHARDS = 16  # of the routing keys; replicas of a service share them out
_REGISTRY: dict[str, type["Event"]] = {}


class Channel(StrEnum):
    """Who may publish and who may read: one topic exchange each."""

    SERVICES = "fl.events"  # between services: `noun.participle.vN`
    DOWN = "fl.down"  # to one client: `noun.participle.vN.<client_id>`
    UP = "fl.up"  # from one client: `client.<client_id>.noun.participle.vN`


class Event(BaseModel):
    """Something that happened. Subclasses name their type, version and channel.

    New fields need defaults; any other change is a new `.v2` class, both published for one
    release. Unknown fields are ignored, so an older reader survives a newer writer.

    Attributes:
        sharded: belongs to one group's session; its routing key ends with the group's shard, so that sessions
            can be spread over queues.
        ephemeral: loses its worth within seconds (presence): not persisted, not deduplicated.
        mandatory: an event that no queue takes is an error; notices to observers set it False.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=False)

    type_name: ClassVar[str]
    channel: ClassVar[Channel]
    sharded: ClassVar[bool]
    ephemeral: ClassVar[bool]
    mandatory: ClassVar[bool]

    def __init_subclass__(
        cls,
        *,
        type: str,
        channel: Channel = Channel.SERVICES,
        sharded: bool = False,
        ephemeral: bool = False,
        mandatory: bool = True,
        **kwargs: Any,  # noqa: ANN401 - handed to pydantic untouched
    ) -> None:
        super().__init_subclass__(**kwargs)
        if type in _REGISTRY:
            raise TypeError(f"two event classes are called {type}")
        cls.type_name, cls.channel, cls.sharded = type, channel, sharded
        cls.ephemeral, cls.mandatory = ephemeral, mandatory
        _REGISTRY[type] = cls

    def routing_key(self) -> str:
        """The topic under which the bus routes this event."""
        if self.channel is Channel.DOWN:
            return f"{self.type_name}.{self.client()}"
        key = f"client.{self.client()}.{self.type_name}" if self.channel is Channel.UP else self.type_name
        return f"{key}.s{shard_of(self.group())}" if self.sharded else key

    def client(self) -> str:
        """The client this event is directed to or comes from; empty between services."""
        return str(getattr(self, "client_id", ""))

    def group(self) -> str:
        """The group whose session this event belongs to; empty for others."""
        return str(getattr(self, "group_id", ""))

    @classmethod
    def binding(cls, client_id: str = "*", shard: int | None = None) -> str:
        """The topic pattern that matches this type, for one client or for all, for one shard or for all."""
        if cls.channel is Channel.DOWN:
            return f"{cls.type_name}.{client_id}"
        key = f"client.{client_id}.{cls.type_name}" if cls.channel is Channel.UP else cls.type_name
        return f"{key}.{'*' if shard is None else f's{shard}'}" if cls.sharded else key


class DeadlinePassed(Event, type="deadline.passed.v1"):
    """A scheduled row came due. It is handled by the service that scheduled it, never published."""

    name: str
    subject: tuple[str, ...] = ()


@dataclass(frozen=True)
class Envelope:
    """An encoded event with everything the bus needs to route, trace and deduplicate it.

    Attributes:
        event_id: idempotency key; the same for every attempt to deliver the event.
        correlation_id: the round (or the job) that the event belongs to.
        causation_id: event_id of the event whose handling produced this one; empty at a root.
        traceparent: W3C context of the trace's root span, so that a consumer's span has a parent
            that outlives any killed process (docs/adr/0004).
        producer: W3C context of the span that published, which the consumer links to.
    """

    event_id: str
    type_name: str
    channel: Channel
    routing_key: str
    body: bytes
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    producer: str = ""
    mandatory: bool = True
    ephemeral: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def wrap(  # noqa: PLR0913 - keyword-only, each an AMQP property
        cls,
        event: Event,
        *,
        event_id: str | None = None,
        correlation_id: str = "",
        causation_id: str = "",
        traceparent: str = "",
        producer: str = "",
    ) -> Self:
        """Encode `event`; without `event_id` it gets a fresh random one."""
        return cls(
            event_id=event_id or str(uuid.uuid4()),
            type_name=event.type_name,
            channel=event.channel,
            routing_key=event.routing_key(),
            body=encode(event),
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            producer=producer,
            mandatory=event.mandatory,
            ephemeral=event.ephemeral,
        )

    def open(self) -> Event:
        """Decode and validate the event.

        Raises: Rejected when the body is not a valid event of its type, or when a client's
            event names another client than the routing key does (the broker checked the key).
        """
        event = decode(self.type_name, self.body)
        if event.routing_key() != self.routing_key:
            raise Rejected(f"{self.type_name} names {event.client()!r}, its key {self.routing_key!r}")
        return event


def shard_of(group_id: str) -> int:
    """The shard of a group's session, 0 to SHARDS - 1: by hash, the same for every publisher."""
    return hashlib.sha256(group_id.encode()).digest()[0] % SHARDS


def derived_event_id(cause: str, type_name: str, ordinal: int) -> str:
    """The idempotency key of the `ordinal`-th event published while handling `cause`.

    Derived, not drawn, so that handling a message twice publishes the same keys.
    """
    return str(uuid.uuid5(EVENT_NAMESPACE, f"{cause}/{type_name}/{ordinal}"))


def event_type(type_name: str) -> type[Event]:
    """The class called `type_name`. Raises: Rejected when there is none."""
    try:
        return _REGISTRY[type_name]
    except KeyError:
        raise Rejected(f"unknown event type {type_name[:80]!r}") from None


def event_types() -> dict[str, type[Event]]:
    """Every event class that has been imported, by type name."""
    return dict(_REGISTRY)


def encode(event: Event) -> bytes:
    """msgpack bytes of the event: bytes stay bytes, times are msgpack timestamps."""
    return pack(event.model_dump(mode="python"))


def decode(type_name: str, body: bytes) -> Event:
    """Inverse of `encode`. Raises: Rejected on anything malformed or too large."""
    cls = event_type(type_name)
    if len(body) > MAX_BODY_BYTES:
        raise Rejected(f"{type_name}: body of {len(body)} bytes, at most {MAX_BODY_BYTES}")
    try:
        return cls.model_validate(unpack(body))
    except ValidationError as error:
        places = ", ".join(".".join(map(str, e["loc"])) or "body" for e in error.errors()[:5])
        raise Rejected(f"{type_name}: invalid {places}") from None


def pack(value: Any) -> bytes:  # noqa: ANN401 - any msgpack-able tree
    """msgpack with timezone-aware times as timestamps."""
    return bytes(msgpack.packb(value, datetime=True, default=_plain))


def unpack(body: bytes) -> Any:  # noqa: ANN401 - whatever was packed
    """Inverse of `pack`. Raises: Rejected when the bytes are not one msgpack value."""
    try:
        return msgpack.unpackb(body, timestamp=3, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError, TypeError) as error:
        raise Rejected(f"not msgpack: {type(error).__name__}") from None


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot travel in an event")


Timestamp = AwareDatetime
__all__ = [
    "Channel",
    "DeadlinePassed",
    "Envelope",
    "Event",
    "SHARDS",
    "Timestamp",
    "decode",
    "derived_event_id",
    "encode",
    "event_type",
    "event_types",
    "pack",
    "shard_of",
    "unpack",
]
