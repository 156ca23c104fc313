"""Messages that outlive the process: one SQLite row for each message in each queue."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from shared.events.base import Channel, Envelope, pack, unpack


class MessageJournal:
    """Rows are written when a publish is confirmed and deleted by the acknowledgement.

    Calls block for microseconds: write-ahead log, no sync at each commit, which a killed process
    survives (a power failure may cost the last moments).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA busy_timeout=10000")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL,"
            " attempt INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT '', envelope BLOB NOT NULL)"
        )

    def add(self, queues: Sequence[str], envelope: Envelope) -> list[int]:
        """Store the message once for each queue, all or none; their row ids."""
        body = pack(vars(envelope))
        ids = []
        self._connection.execute("BEGIN")
        for queue in queues:
            cursor = self._connection.execute(
                "INSERT INTO messages (queue, attempt, envelope) VALUES (?, 1, ?)", (queue, body)
            )
            ids.append(cursor.lastrowid or 0)
        self._connection.execute("COMMIT")
        return ids

    def take(self, queue: str) -> list[tuple[int, int, str, Envelope]]:
        """What an earlier process left in `queue`: (row id, attempt, reason, message), oldest first."""
        rows = self._connection.execute(
            "SELECT id, attempt, reason, envelope FROM messages WHERE queue = ? ORDER BY id", (queue,)
        ).fetchall()
        self._connection.execute("UPDATE messages SET attempt = attempt + 1 WHERE queue = ?", (queue,))
        return [(row, attempt, reason, _envelope(body)) for row, attempt, reason, body in rows]

    def forget(self, row: int) -> None:
        """The message was answered."""
        self._connection.execute("DELETE FROM messages WHERE id = ?", (row,))

    def move(self, row: int, queue: str, reason: str) -> None:
        """The message was put aside in `queue`."""
        self._connection.execute(
            "UPDATE messages SET queue = ?, reason = ? WHERE id = ?", (queue, reason, row)
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _envelope(body: bytes) -> Envelope:
    fields = unpack(body)
    return Envelope(**{**fields, "channel": Channel(fields["channel"])})
