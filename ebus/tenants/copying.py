"""Copies of the registry: a backup without the keys would be none."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import apsw
import msgspec

from ebus.backends.sqlite.connection import driver_errors
from ebus.core.backup import Copy, Snapshot
from ebus.core.backup_directory import disk_errors, sync_directory
from ebus.core.errors import StoreDamaged
from ebus.tenants.registry import Registry

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL

PIECE_BYTES = 1024 * 1024


def copy_registry(path: Path, file: Path, known: Copy | None) -> Snapshot | None:
    """Copy it, as it is at one moment, into a new file, which is then durable.

    None where there is none. No file is made when it is what is `known`. Its position is its
    revision, and its events are its tenants.
    """
    if not path.exists():
        return None
    with Registry(path) as registry:
        mark = _mark_of(registry)  # before the copy is made, which is of this state or a later one
        if known is not None and known.snapshot.mark == mark:
            return known.snapshot
        with disk_errors(file):
            os.close(os.open(file, NEW_FILE, 0o600))
        now = msgspec.structs.replace(registry.copy_into(file), mark=mark)
    with disk_errors(file):
        descriptor = os.open(file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return now


def _mark_of(registry: Registry) -> str:
    """The same while the registry says the same. Revisions are not: a restore sets them back."""
    said = (registry.read(), registry.trash(), registry.audit(limit=1))
    return hashlib.sha256(msgspec.json.encode(said, enc_hook=str)).hexdigest()


def put_back(copy: Path, path: Path) -> None:
    """Put a copy in the place of the registry. The caller has the claim on it."""
    staged = path.with_name(f"{path.name}.restoring")
    with disk_errors(path):
        staged.unlink(missing_ok=True)
        with copy.open("rb") as source, open(os.open(staged, NEW_FILE, 0o600), "wb") as target:
            while piece := source.read(PIECE_BYTES):
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        if path.exists():
            with suppress(StoreDamaged):
                Registry(path).close()  # what its WAL holds is written back, so that it goes
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        sync_directory(path.parent)
        os.replace(staged, path)
        sync_directory(path.parent)


def problems_of(path: Path) -> list[str]:
    """What is wrong with a registry; nothing, as it should be."""
    with Registry(path) as registry:
        registry.read()
    with driver_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        finally:
            connection.close()
    return [] if found == ["ok"] else found
