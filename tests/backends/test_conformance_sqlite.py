"""The SQLite engine passes the conformance suite."""

from pathlib import Path

import apsw
import msgspec

from ebus.backends.sqlite import SqliteEngine
from ebus.core.engine import SupportsDurability, SupportsSettle, SupportsTrash
from ebus.core.limits import Limits
from ebus.core.store import (
    SupportsGaps,
    SupportsIdLookup,
    SupportsPutAway,
    SupportsQuota,
    SupportsTrim,
    SupportsWireRead,
)
from ebus.testing import NOTHING_STORED, EngineConformance, Peeked
from tests import in_memory

tmp_path_factory = in_memory.tmp_path_factory

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class SqlitePlace:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, *, limits: Limits | None = None) -> SqliteEngine:
        return SqliteEngine(self.directory, limits=limits)

    def peek(self, name: str) -> Peeked:
        # With the engine's own library: a second SQLite in one process would take away the
        # first one's locks when it closes the file (sqlite.org/howtocorrupt.html, 2.2.1).
        path = self.directory / f"{name}.db"
        if not path.exists():
            return NOTHING_STORED
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.set_busy_timeout(5_000)
            blocks = connection.execute(
                "SELECT events FROM blocks WHERE events IS NOT NULL ORDER BY last_position"
            )
            events = [bytes(event) for (block,) in blocks for event in _split(b"[%b]" % block)]
            checkpoints = dict(connection.execute("SELECT name, position FROM checkpoints"))
        finally:
            connection.close()
        return Peeked(events, checkpoints)


class TestSqliteConformance(EngineConformance):
    powers = frozenset(
        {
            SupportsTrim,
            SupportsGaps,
            SupportsIdLookup,
            SupportsWireRead,
            SupportsQuota,
            SupportsDurability,
            SupportsPutAway,
            SupportsSettle,
            SupportsTrash,
        }
    )

    def new_place(self, directory: Path) -> SqlitePlace:
        return SqlitePlace(directory)
