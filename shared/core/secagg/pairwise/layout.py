"""How values are laid out as bytes: one way for each value, and every other string of bytes is refused.

Nothing carries its own length: sizes follow from the terms. A client is named by its position among the
cohort's names in order, and a set of clients is a bit for each position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.core.secagg.pairwise.terms import Terms
from shared.errors import Rejected

NAME_BYTES, WORD_BYTES = 4, 4
T = TypeVar("T")


class Reader:
    """Takes bytes from the front."""

    def __init__(self, content: bytes) -> None:
        self._left = memoryview(content)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes. Raises: Rejected when there are fewer."""
        if len(self._left) < size:
            raise Rejected(f"{size} bytes expected, {len(self._left)} left")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def expect(self, content: bytes, otherwise: str) -> None:
        """Take `content`. Raises: Rejected, with `otherwise`, when something else is there."""
        if self.take(len(content)) != content:
            raise Rejected(otherwise)

    def end(self) -> None:
        """Raises: Rejected when bytes are left."""
        if len(self._left):
            raise Rejected(f"{len(self._left)} bytes too many")


class Layout(Protocol[T]):
    """One kind of value. Both ways raise Rejected for what is not of it."""

    def write(self, value: T, terms: Terms) -> bytes:
        """The bytes."""

    def read(self, reader: Reader, terms: Terms) -> T:
        """The inverse."""


@dataclass(frozen=True)
class Bytes:
    """So many bytes."""

    size: int

    def write(self, value: bytes, terms: Terms) -> bytes:
        """As they are."""
        if len(value) != self.size:
            raise Rejected(f"{len(value)} bytes, {self.size} expected")
        return value

    def read(self, reader: Reader, terms: Terms) -> bytes:
        """As they are."""
        return bytes(reader.take(self.size))


class Name:
    """One client of the cohort: 4 bytes, big-endian."""

    def write(self, value: str, terms: Terms) -> bytes:
        """Its position."""
        if value not in terms.positions:
            raise Rejected(f"{value} is not in the cohort")
        return terms.positions[value].to_bytes(NAME_BYTES, "big")

    def read(self, reader: Reader, terms: Terms) -> str:
        """The name at that position."""
        position = int.from_bytes(reader.take(NAME_BYTES), "big")
        if position >= len(terms.names):
            raise Rejected(f"client {position} of a cohort of {len(terms.names)}")
        return terms.names[position]


class Names:
    """Clients of the cohort, ascending: a bit each, the lowest bit of a byte first, the rest 0."""

    def write(self, value: tuple[str, ...], terms: Terms) -> bytes:
        """The bits."""
        bits = np.zeros(len(terms.names), np.uint8)
        for name in value:
            if name not in terms.positions:
                raise Rejected(f"{name} is not in the cohort")
            bits[terms.positions[name]] = 1
        if tuple(sorted(set(value))) != value:
            raise Rejected("a list of clients is not ascending")
        return np.packbits(bits, bitorder="little").tobytes()

    def read(self, reader: Reader, terms: Terms) -> tuple[str, ...]:
        """The names."""
        count = len(terms.names)
        content = reader.take((count + 7) // 8)
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        if bits[count:].any():
            raise Rejected(f"a client beyond a cohort of {count}")
        return tuple(terms.names[position] for position in np.flatnonzero(bits))


class Vector:
    """(dimension,) uint32, little-endian."""

    def write(self, value: NDArray[np.uint32], terms: Terms) -> bytes:
        """The words."""
        if value.shape != (terms.dimension,) or value.dtype != np.uint32:
            raise Rejected(f"({terms.dimension},) uint32 expected, not {value.shape} {value.dtype}")
        return value.astype("<u4", copy=False).tobytes()

    def read(self, reader: Reader, terms: Terms) -> NDArray[np.uint32]:
        """The words."""
        return np.frombuffer(reader.take(WORD_BYTES * terms.dimension), "<u4").astype(np.uint32)


@dataclass(frozen=True)
class Table:
    """Values by client: who, then what, in the order of their names."""

    values: "Layout[Any]"

    def write(self, value: Mapping[str, object], terms: Terms) -> bytes:
        """Names and values."""
        names = tuple(sorted(value))
        return Names().write(names, terms) + b"".join(self._write(name, value, terms) for name in names)

    def _write(self, name: str, value: Mapping[str, object], terms: Terms) -> bytes:
        try:
            return self.values.write(value[name], terms)
        except Rejected as error:
            raise Rejected(f"of {name}: {error}") from None

    def read(self, reader: Reader, terms: Terms) -> Mapping[str, object]:
        """A dictionary, ascending."""
        names, table = Names().read(reader, terms), {}
        for name in names:
            try:
                table[name] = self.values.read(reader, terms)
            except Rejected as error:
                raise Rejected(f"of {name}: {error}") from None
        return table


@dataclass(frozen=True)
class Record:
    """A dataclass, field by field; `first` are passed before those, and are not written."""

    kind: type
    parts: "tuple[Layout[Any], ...]"

    def write(self, value: object, terms: Terms) -> bytes:
        """The fields."""
        return b"".join(self._write(name, part, value, terms) for name, part in self._fields())

    def _write(self, name: str, part: "Layout[Any]", value: object, terms: Terms) -> bytes:
        try:
            return part.write(getattr(value, name), terms)
        except Rejected as error:
            raise Rejected(f"{name}: {error}") from None

    def read(self, reader: Reader, terms: Terms, *first: object) -> object:
        """The dataclass."""
        values = []
        for name, part in self._fields():
            try:
                values.append(part.read(reader, terms))
            except Rejected as error:
                raise Rejected(f"{name}: {error}") from None
        return self.kind(*first, *values)

    def _fields(self) -> "list[tuple[str, Layout[Any]]]":
        names = [field.name for field in fields(self.kind)]
        return list(zip(names[len(names) - len(self.parts) :], self.parts, strict=True))
