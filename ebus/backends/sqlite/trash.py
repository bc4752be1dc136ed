"""Files of tenants that were deleted: moved out of the way, each into a directory of its own."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from ebus.backends.sqlite.connection import driver_errors
from ebus.backends.sqlite.copying import for_oneself, write_wal_back
from ebus.core.backup_directory import sync_directory
from ebus.core.errors import InvalidInput, StoreBusy, StoreError, StoreRefused

_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")

_MOVED = ("", "-wal", "-journal")
"""The database goes first: what stays of it when the move is cut off belongs to no other."""


def check_trash_id(trash: str) -> str:
    """Raises `InvalidInput` unless it may be the name of a directory."""
    if not _ID.fullmatch(trash):
        raise InvalidInput("an id of the trash has letters, digits, _ and -")
    return trash


def move_away(path: Path, trash: Path) -> int:
    """Move a tenant's file, and what belongs to it, durably into this directory.

    What its WAL holds is written back first, where that is possible; else it goes along. Whatever
    is cut off, the same call finishes it. Returns how large all of it is. Raises `StoreBusy`.
    """
    with driver_errors(path):
        if path.exists() and path.stat().st_size:
            try:
                write_wal_back(path)
            except StoreBusy:
                raise
            except (StoreError, StoreRefused):
                pass  # the disk is full, or it is damaged: it is kept as it is
        if not trash.parent.exists() and not path.parent.exists():
            return 0  # nothing was ever stored
        for directory in (trash.parent, trash):
            if not directory.exists():
                directory.mkdir(mode=0o700)
                sync_directory(directory.parent)
        with for_oneself(path):
            for suffix in _MOVED:
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{suffix}", trash / f"{path.name}{suffix}")
            Path(f"{path}-shm").unlink(missing_ok=True)
            sync_directory(trash)
            sync_directory(path.parent)
        return sum(file.stat().st_size for file in trash.iterdir())


def empty(trash: Path) -> None:
    """Delete this directory and what is in it."""
    with driver_errors(trash):
        if trash.exists():
            shutil.rmtree(trash)
            sync_directory(trash.parent)
