"""What lies in the registry's file, and how it is known for what it is."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from ebus.backends.sqlite.connection import Patience, connect, driver_errors, transaction
from ebus.core.backup_directory import sync_directory
from ebus.core.errors import StoreForeign, StoreNewer

APPLICATION_ID = int.from_bytes(b"ebtn", "big")
VERSION = 1

BUSY_TIMEOUT_MS = 5_000

WRITE_BACK_PAGES = 1_000

_TABLES = """
CREATE TABLE tenants (
    tenant         INTEGER PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    folded         TEXT NOT NULL UNIQUE,
    state          TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    created_at_ms  INTEGER NOT NULL,
    durability     TEXT,
    limits         TEXT NOT NULL,
    keys_made      INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    digest         BLOB PRIMARY KEY,
    tenant         INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
    name           TEXT NOT NULL,
    scope          TEXT NOT NULL,
    expires_at_ms  INTEGER,
    added          INTEGER NOT NULL,
    UNIQUE (tenant, name)
) STRICT;

CREATE TABLE trash (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    deleted_at_ms  INTEGER NOT NULL,
    size_bytes     INTEGER NOT NULL,
    is_moved       INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms          INTEGER NOT NULL,
    who            TEXT NOT NULL,
    how            TEXT NOT NULL,
    action         TEXT NOT NULL,
    tenant         TEXT NOT NULL,
    what           TEXT NOT NULL
) STRICT;

CREATE INDEX audit_of_tenant ON audit (tenant, id);
"""


def open_database(path: Path) -> apsw.Connection:
    """A connection to the registry, which is made where there is none.

    Raises `StoreForeign`, `StoreNewer`, and what the driver's errors become.
    """
    with driver_errors(path):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            sync_directory(path.parent)
        _refuse_others(path)
        connection = connect(path, durability="full", patience=Patience(BUSY_TIMEOUT_MS))
        try:
            connection.wal_autocheckpoint(WRITE_BACK_PAGES)
            connection.pragma("foreign_keys", True)
            with transaction(connection):
                if connection.pragma("user_version") == 0:
                    connection.execute(_TABLES)
                    connection.pragma("application_id", APPLICATION_ID)
                    connection.pragma("user_version", VERSION)
        except BaseException:
            connection.close()
            raise
    return connection


def _refuse_others(path: Path) -> None:
    """Raise unless the file is a registry or has nothing in it. Changes nothing."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_handler(Patience(BUSY_TIMEOUT_MS))
        application_id = connection.pragma("application_id")
        version = connection.pragma("user_version")
        is_empty = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    finally:
        connection.close()
    if application_id != APPLICATION_ID and not (is_empty and application_id == version == 0):
        raise StoreForeign(f"{path} is a SQLite database of another program, and no registry")
    if version > VERSION:
        raise StoreNewer(
            f"{path} was written by a newer ebus (version {version}, this ebus knows up to "
            f"{VERSION}): upgrade ebus"
        )
