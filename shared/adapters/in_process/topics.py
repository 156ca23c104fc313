"""AMQP topic patterns."""

from functools import lru_cache


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
