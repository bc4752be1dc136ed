"""Files of tenants that were put away: closed for a while, with their WAL left beside them.

To write a WAL back and make it anew takes several syncs, and to look at a file before it is
opened takes a connection more. Neither is needed for a file that this process has left itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from ebus.backends.sqlite.connection import (
    connect_for_checkpoints,
    driver_errors,
    leave_the_wal_behind,
)
from ebus.backends.sqlite.write_back import write_wal_anew
from ebus.core.errors import StoreBusy

MAX_RESTING_WAL_BYTES = 256 * 1024
"""A WAL that is larger is written back when its tenant is put away: who opens it reads it."""


class Resting(msgspec.Struct, frozen=True):
    """A file as it was when its tenant was put away."""

    identity: tuple[int, int]
    size_bytes: int
    wal_pages: int
    """As `WriteBack.wal_pages` was."""
    is_doubtful: bool
    """As `WriteBack.is_doubtful` was."""

    @classmethod
    def of(cls, path: Path, *, wal_pages: int = 0, is_doubtful: bool = False) -> Resting:
        """Raises `OSError` when the file is gone."""
        status = path.stat()
        return cls((status.st_dev, status.st_ino), status.st_size, wal_pages, is_doubtful)

    def was_replaced(self, path: Path) -> bool:
        """Whether another file is there, beside this one's WAL, which would be taken for its."""
        try:
            return Resting.of(path).identity != self.identity and wal_bytes(path) > 0
        except OSError:
            return False

    def is_at(self, path: Path) -> bool:
        """Whether this file is still the one there. It may have grown; ours never shrink."""
        try:
            now = Resting.of(path)
        except OSError:
            return False
        return now.identity == self.identity and now.size_bytes >= self.size_bytes


def may_rest(path: Path) -> bool:
    """Whether the WAL beside this file is small enough to be left there."""
    return wal_bytes(path) <= MAX_RESTING_WAL_BYTES


def wal_bytes(path: Path) -> int:
    """The size of the WAL beside this file, 0 without one."""
    try:
        return os.stat(f"{path}-wal").st_size
    except FileNotFoundError:
        return 0


def settle(path: Path, resting: Resting) -> None:
    """Write a WAL that was left behind back and remove it, unless others have the file open."""
    with suppress(StoreBusy), driver_errors(path):  # who is in the way does it in our place
        connection = connect_for_checkpoints(path)
        try:
            if resting.is_doubtful:
                write_wal_anew(connection, path)
        except BaseException:
            leave_the_wal_behind(connection)
            raise
        finally:
            connection.close()  # closing the last connection does it
