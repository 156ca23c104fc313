"""Append-only logs whose entries are chained by hashes: how they are written to a file, and read back.

One line an entry, compact JSON: sequence, previous_sha256, entry_sha256, body. The hash is
SHA-256(previous || sequence as 8 bytes big-endian || body as canonical JSON). Whoever keeps the last hash can
tell whether anything before it was changed, moved, removed or added; lines cut off the end leave a shorter
valid log.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GENESIS_SHA256 = "0" * 64


@dataclass(frozen=True)
class Line:
    """One entry of the export."""

    sequence: int
    previous_sha256: str
    entry_sha256: str
    body: Mapping[str, Any]

    def digest(self) -> str:
        """What entry_sha256 must be."""
        return digest(self.previous_sha256, self.sequence, canonical(self.body))

    def text(self) -> str:
        """The one way in which this entry is written, without the line's end."""
        fields = {
            "sequence": self.sequence,
            "previous_sha256": self.previous_sha256,
            "entry_sha256": self.entry_sha256,
            "body": self.body,
        }
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Fault:
    """What is wrong with the export, and where.

    Attributes:
        line: number of the line in the file, from 1.
    """

    line: int
    reason: str


def canonical(body: Mapping[str, Any]) -> bytes:
    """The one way in which a body is hashed: sorted keys, no spaces, UTF-8. Raises: ValueError for NaN."""
    return json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(previous_sha256: str, sequence: int, content: bytes) -> str:
    """The hash of an entry: of the one before, its number (8 bytes, big-endian), and its canonical body."""
    chained = bytes.fromhex(previous_sha256) + sequence.to_bytes(8, "big") + content
    return hashlib.sha256(chained).hexdigest()


def export(lines: Iterable[Line]) -> bytes:
    """The file."""
    return "".join(line.text() + "\n" for line in lines).encode()


def read(exported: bytes) -> tuple[list[Line], list[Fault]]:
    """The lines that can be read, and whatever is wrong with any line or with the chain."""
    rows = exported.split(b"\n")
    last = rows.pop()
    lines: list[Line] = []
    faults: list[Fault] = []
    sequence: int | None = 1  # of the next line; None after a line that cannot be read
    previous = {GENESIS_SHA256}
    for number, row in enumerate(rows, start=1):
        line = _read(row)
        if line is None:
            faults.append(Fault(number, "it is not an entry as the log writes one"))
            sequence, previous = None, set()
            continue
        digest = line.digest()
        reason = ""
        if sequence is not None and line.sequence != sequence:
            reason = f"entry {sequence} is missing or out of place, this is entry {line.sequence}"
        elif previous and line.previous_sha256 not in previous:
            reason = "it does not continue the entry before"
        elif digest != line.entry_sha256:
            reason = "its content does not match its hash"
        if reason:
            faults.append(Fault(number, reason))
        # Either may be the true hash of a damaged line: the next line is not blamed for this one.
        sequence, previous = line.sequence + 1, {line.entry_sha256, digest}
        lines.append(line)
    if last:
        faults.append(Fault(len(rows) + 1, "the line does not end"))
    return lines, faults


def _read(row: bytes) -> Line | None:
    try:
        value = json.loads(row.decode())
        line = Line(value["sequence"], value["previous_sha256"], value["entry_sha256"], value["body"])
        line.digest()
        whole = isinstance(line.body, dict) and line.text().encode() == row
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return line if whole else None
