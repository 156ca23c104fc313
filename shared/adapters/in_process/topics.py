"""AMQP topic patterns, and which queues are bound by them."""

from collections.abc import Iterable
from functools import lru_cache

from shared.events.base import Channel


class Bindings:
    """Queues by what they are bound to. A pattern without wildcards is looked up, not tried: with a thousand
    clients there are thousands, and all but one are of others."""

    def __init__(self) -> None:
        self._plain: dict[tuple[Channel, str], list[str]] = {}
        self._wild: dict[Channel, list[tuple[str, str]]] = {}
        self._order: dict[str, int] = {}

    def add(self, queue: str, bindings: Iterable[tuple[Channel, str]]) -> None:
        """Bind `queue` to more patterns."""
        self._order.setdefault(queue, len(self._order))
        for channel, pattern in bindings:
            if {"*", "#"} & set(pattern.split(".")):
                self._wild.setdefault(channel, []).append((pattern, queue))
            else:
                self._plain.setdefault((channel, pattern), []).append(queue)

    def queues(self, channel: Channel, routing_key: str) -> list[str]:
        """Those that take the message, each once, in the order in which they came."""
        found = set(self._plain.get((channel, routing_key), ()))
        found |= {queue for pattern, queue in self._wild.get(channel, ()) if matches(pattern, routing_key)}
        return sorted(found, key=self._order.__getitem__)


@lru_cache(maxsize=65_536)
def matches(pattern: str, routing_key: str) -> bool:
    """Whether `pattern` (`*` is one word, `#` any number of them) matches `routing_key`."""
    return _matches(tuple(pattern.split(".")), tuple(routing_key.split(".")))


def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return _matches(pattern[1:], words) or (bool(words) and _matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])
