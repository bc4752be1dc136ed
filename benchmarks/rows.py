"""The floor `rows`: SQLite by itself, with a row for each event and the pragmas of ebus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw
import msgspec

from ebus import Event, NewEvent
from ebus.core.engine import Durability

JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024

_SCHEMA = """
    CREATE TABLE events (
        position INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        data BLOB NOT NULL,
        timestamp TEXT NOT NULL
    )
"""
_INSERT = "INSERT INTO events (type, data, timestamp) VALUES (?, ?, ?)"
_SELECT = """
    SELECT position, type, data, timestamp FROM events
    WHERE position >= ? ORDER BY position LIMIT ?
"""

_encode = msgspec.json.Encoder().encode


class Rows:
    """A file with a table of events, and what one must do at least to write and read it.

    Nothing is checked, `data` is stored as it is, and one connection does everything.
    """

    def __init__(self, path: Path, *, durability: Durability = "full") -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES)
        self._connection.pragma("synchronous", "FULL" if durability == "full" else "NORMAL")
        self._connection.pragma("fullfsync", durability == "full")
        self._connection.execute(_SCHEMA)

    def commit(self, events: Sequence[NewEvent]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            _INSERT, [(event.type, bytes(event.data), event.timestamp) for event in events]
        )
        connection.execute("COMMIT")

    def read(self, start: int, limit: int) -> bytes:
        """`limit` events from `start` on, as a JSON array."""
        rows: apsw.Cursor = self._connection.execute(_SELECT, (start, limit))
        return _encode(
            [
                Event(position, name, msgspec.Raw(data), timestamp)
                for position, name, data, timestamp in rows
            ]
        )

    def head(self) -> int:
        head: int = self._connection.execute("SELECT max(position) FROM events").get
        return head

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
