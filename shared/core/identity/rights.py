"""What each identity may do at the broker: no more than it needs, as the patterns that RabbitMQ checks.

A client publishes under keys that begin with its own name, and reads its own inbox, which was made for it. It
declares nothing, binds nothing, and reaches no other exchange, the default one included.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NOTHING = "^$"
EVERYTHING = ".*"
UP = "fl.up"
DOWN, EVENTS, DEAD, DEFAULT = "fl.down", "fl.events", "fl.dead", "amq.default"


@dataclass(frozen=True)
class Rights:
    """Patterns of names: of queues and exchanges, and for topic exchanges of routing keys.

    Attributes:
        configure: what may be declared or deleted.
        write: exchanges that may be published to, queues that may be bound.
        read: queues that may be consumed, exchanges that may be bound to.
        topics: exchange -> patterns of the keys that may be published, and of those that a queue may be bound
            by; `{username}` is the login.
    """

    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING
    topics: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def rights_of_client(client_id: str) -> Rights:
    """Of a worker or a key holder: it says what is its own to say, and hears what is directed to it."""
    return Rights(
        write=_exactly(UP),
        read=_exactly(f"{client_id}.inbox"),
        topics={UP: (r"^client\.{username}\..+", NOTHING)},
    )


def rights_of_service(queues: tuple[str, ...]) -> Rights:
    """Of a service: it consumes its own queues, puts aside and tries again what fails, and publishes to other
    services and to clients, never as one."""
    own = "|".join(re.escape(queue) for queue in queues)
    return Rights(
        write=_exactly(EVENTS, DOWN, DEAD, DEFAULT),
        read=f"^({own})$",
        topics={EVENTS: (EVERYTHING, NOTHING), DOWN: (EVERYTHING, NOTHING), UP: (NOTHING, NOTHING)},
    )


def rights_of_keeper() -> Rights:
    """Of whoever makes exchanges, queues and inboxes: it publishes and consumes nothing but dead letters."""
    return Rights(
        configure=EVERYTHING,
        write=EVERYTHING,
        read=EVERYTHING,
        topics=dict.fromkeys((EVENTS, DOWN, UP), (NOTHING, EVERYTHING)),
    )


def _exactly(*names: str) -> str:
    return "^(" + "|".join(re.escape(name) for name in names) + ")$"
