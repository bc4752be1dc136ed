"""What lies in a tenant's file, and how our files are told from everybody else's.

Our files carry an application id, and their schema's version as `user_version`. Files are
looked at without being changed; only what is recognised is opened for writing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from urllib.parse import quote

import apsw
import msgspec

from ebus.backends.sqlite.connection import driver_errors
from ebus.backends.sqlite.segments import index_blocks
from ebus.core.errors import StoreDamaged, StoreForeign, StoreNewer

APPLICATION_ID = int.from_bytes(b"ebus", "big")


def _create_version_1(connection: apsw.Connection) -> None:
    """Blocks of events, checkpoints, and a view that shows people one row an event.

    The rows of `blocks` cover every position up to the head without overlap: a row whose
    events are NULL is a gap. The index holds gaps only, for counting; it is empty as a rule.
    """
    connection.execute(
        """
        CREATE TABLE blocks (
            last_position   INTEGER PRIMARY KEY,
            first_position  INTEGER NOT NULL CHECK (first_position BETWEEN 1 AND last_position),
            recorded_at_ns  INTEGER NOT NULL,
            starts          BLOB NOT NULL,
            events          BLOB
        ) STRICT;

        CREATE INDEX gaps ON blocks (last_position, first_position) WHERE events IS NULL;

        CREATE TABLE checkpoints (
            name      TEXT PRIMARY KEY,
            position  INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;

        CREATE VIEW events AS
        SELECT event.value ->> '$.position'  AS position,
               event.value ->> '$.type'      AS type,
               event.value -> '$.data'       AS data,
               event.value ->> '$.timestamp' AS timestamp
        FROM blocks, json_each('[' || CAST(blocks.events AS TEXT) || ']') AS event
        WHERE blocks.events IS NOT NULL;
        """
    )


def _create_version_2(connection: apsw.Connection) -> None:
    """Ids, streams, types of events, consumers of checkpoints, and clocks that never go back.

    `streams` keeps the last version of each, which survives trims; within a stream positions grow
    with versions. `type_segments` says in which segments of 512 positions a type occurs, once a
    segment is complete. A process of version 1 that still has the file open would write blocks
    without any of it: it is kept from that by the column that has another name.
    """
    connection.execute(
        """
        DROP VIEW IF EXISTS events;

        ALTER TABLE blocks RENAME COLUMN recorded_at_ns TO recorded_ns;

        ALTER TABLE checkpoints ADD COLUMN consumers BLOB;

        CREATE TABLE ids (
            id        TEXT PRIMARY KEY,
            position  INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE streams (
            stream   INTEGER PRIMARY KEY,
            name     TEXT NOT NULL UNIQUE,
            version  INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE stream_events (
            stream    INTEGER NOT NULL,
            version   INTEGER NOT NULL,
            position  INTEGER NOT NULL,
            PRIMARY KEY (stream, version)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE type_segments (
            type     TEXT NOT NULL,
            segment  INTEGER NOT NULL,
            PRIMARY KEY (type, segment)
        ) STRICT, WITHOUT ROWID;

        CREATE VIEW events AS
        SELECT event.value ->> '$.position'  AS position,
               event.value ->> '$.type'      AS type,
               event.value -> '$.data'       AS data,
               event.value ->> '$.timestamp' AS timestamp,
               event.value ->> '$.id'        AS id,
               event.value ->> '$.stream'    AS stream,
               event.value ->> '$.version'   AS version,
               event.value -> '$.metadata'   AS metadata
        FROM blocks, json_each('[' || CAST(blocks.events AS TEXT) || ']') AS event
        WHERE blocks.events IS NOT NULL;
        """
    )
    index_blocks(connection)


MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (
    _create_version_1,
    _create_version_2,
)
"""The n-th takes a file from version n to n + 1, within a transaction that its caller holds."""

VERSION = len(MIGRATIONS)


class FileKind(Enum):
    ABSENT = "absent"
    """There is no file, or one without any content."""
    OURS = "ours"
    OUTDATED = "outdated"
    """Ours, but of an older version."""
    ORIGINAL = "original"
    """The original server wrote it."""


def migrate(connection: apsw.Connection) -> None:
    """Take a file of ours, or an empty one, to the newest version. Needs a transaction."""
    if connection.pragma("user_version") == VERSION:
        return
    for version in range(connection.pragma("user_version"), VERSION):
        MIGRATIONS[version](connection)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", VERSION)


def inspect_file(path: Path) -> FileKind:
    """Say whose file this is, changing nothing.

    Cheap for our own files: one read of 100 bytes. Raises `StoreForeign` for a file that is
    nobody's we know, `StoreNewer` for one that a newer ebus wrote, `StoreDamaged` for one
    that is cut short, `StoreUnavailable` for one that cannot be read.
    """
    with driver_errors(path):
        if not _size(path):
            _refuse_orphaned_journal(path)
            return FileKind.ABSENT
        first_bytes = _first_bytes(path, _Header.BYTES)
        if not any(first_bytes) and is_cut_off(path):
            return FileKind.ABSENT
        header = _Header.read(first_bytes, path)
        # The size comes second: a file may grow while it is looked at, but does not shrink.
        header.refuse_if_cut_short(path, _size(path))
        if header.application_id == APPLICATION_ID:
            return _our_kind(header.user_version, path)
        return _inspect_unmarked(path)


def is_cut_off(path: Path) -> bool:
    """Whether a write to the file was cut off half way, by a crash or a kill.

    SQLite undoes it from the journal when the file is next opened for writing; until then what
    is in the file is not to be believed.
    """
    return path.exists() and _size(_beside(path, "-journal")) > 0


def is_empty(path: Path) -> bool:
    """Whether there is a file, and nothing in it."""
    return path.is_file() and not _size(path)


def _first_bytes(path: Path, count: int) -> bytes:
    """Read through SQLite: closing a file that was opened in any other way would drop the locks
    that this process holds on it (sqlite.org/howtocorrupt.html, 2.2)."""
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        return file.xRead(count, 0)
    finally:
        file.xClose()


def _our_kind(version: int, path: Path) -> FileKind:
    if version > VERSION:
        raise StoreNewer(
            f"{path} was written by a newer ebus (version {version} of the file, "
            f"this ebus knows up to {VERSION}): upgrade ebus"
        )
    return FileKind.OURS if version == VERSION else FileKind.OUTDATED


class _Header(msgspec.Struct, frozen=True):
    """The part of SQLite's file header that tells files apart: sqlite.org/fileformat.html#1.3."""

    page_bytes: int
    page_count: int
    """0 when the file was last written by a SQLite too old to keep it."""
    application_id: int
    user_version: int

    BYTES = 100

    @classmethod
    def read(cls, header: bytes, path: Path) -> _Header:
        if not header.startswith(b"SQLite format 3\0"):
            raise StoreForeign(f"{path} is not a SQLite database")
        if len(header) < cls.BYTES:
            raise StoreDamaged(f"{path} is damaged: it ends within its header")
        (page_bytes,) = struct.unpack_from(">H", header, 16)
        change_counter, page_count = struct.unpack_from(">II", header, 24)
        (user_version,) = struct.unpack_from(">i", header, 60)
        (application_id,) = struct.unpack_from(">I", header, 68)
        (valid_for,) = struct.unpack_from(">I", header, 92)
        return cls(
            65536 if page_bytes == 1 else page_bytes,
            page_count if change_counter == valid_for else 0,
            application_id,
            user_version,
        )

    def refuse_if_cut_short(self, path: Path, size: int) -> None:
        # With a WAL beside it the file may rightly be shorter: the rest is still in there.
        if size < self.page_bytes * self.page_count and not _size(_beside(path, "-wal")):
            raise StoreDamaged(
                f"{path} is damaged: it has {size} bytes of "
                f"{self.page_bytes * self.page_count}, the end is missing"
            )


def _inspect_unmarked(path: Path) -> FileKind:
    """Tell files without our mark apart by what is in them."""
    # Without a WAL nothing but the file itself is read, and no file is made beside it.
    how = "mode=ro" if _size(_beside(path, "-wal")) else "immutable=1"
    connection = apsw.Connection(
        f"file:{quote(str(path.absolute()))}?{how}",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
    )
    try:
        return identify(connection, path)
    finally:
        connection.close()


ORIGINAL_TABLES = {
    "events": {"position", "type", "data", "timestamp"},
    "subscriptions": {"subscription_id", "position"},
}
"""What the original server's files hold; `subscriptions` may be missing."""


_TABLES = """
    SELECT name FROM sqlite_schema
    WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
"""
_COLUMNS = "SELECT name FROM pragma_table_info(?)"


def identify(connection: apsw.Connection, path: Path) -> FileKind:
    """Say whose database a connection is to. Raises like `inspect_file`."""
    application_id = connection.pragma("application_id")
    user_version = connection.pragma("user_version")
    if application_id == APPLICATION_ID:
        return _our_kind(user_version, path)
    try:
        tables = {
            str(name): {column for (column,) in connection.execute(_COLUMNS, (name,))}
            for (name,) in connection.execute(_TABLES).fetchall()
        }
    except apsw.SQLError:  # a view or a virtual table of theirs that cannot be read here
        tables = {"": set()}
    if application_id == 0 and user_version == 0:
        if not tables:
            return FileKind.ABSENT
        if tables == {name: ORIGINAL_TABLES.get(name) for name in tables} and "events" in tables:
            return FileKind.ORIGINAL
    raise StoreForeign(
        f"{path} is a SQLite database of another program: neither ebus nor the original "
        f"server made it"
    )


def _refuse_orphaned_journal(path: Path) -> None:
    """Refuse to begin an empty file where the better part of an old one still lies.

    An empty file with a journal is one whose making was cut off: SQLite rolls that back. But
    it would delete a WAL.
    """
    for suffix in ("-wal",) if path.exists() else ("-wal", "-journal"):
        journal = _beside(path, suffix)
        if _size(journal):
            name = os.path.basename(journal)
            raise StoreDamaged(
                f"{path} is missing or empty, but {name} still holds data that belongs "
                f"to it: bring the file back, or delete {name} to begin anew"
            )


def refuse_strayed_wal(path: Path) -> None:
    """Refuse while a WAL without its database lies about in the directory.

    Who renames `events.db` while the original server has not let go of it may leave the
    newest events behind in `events.db-wal`; they would be lost for good.
    """
    for journal in sorted(path.parent.glob("*-wal")):
        database = journal.with_name(journal.name.removesuffix("-wal"))
        if _size(journal) and not database.exists():
            raise StoreDamaged(
                f"{journal.name} holds data of a database that is gone. If {path.name} was "
                f"{database.name} before, rename the file to {path.name}-wal as well, so that "
                f"nothing is lost; otherwise move it away"
            )


def _beside(path: Path, suffix: str) -> str:
    return f"{path}{suffix}"  # ten thousand tenants are looked at: a path object costs more


def _size(path: Path | str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
