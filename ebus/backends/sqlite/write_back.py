"""Writing a WAL back into its database, in a thread of its own.

An append waits for the end of it at most: for what came while the rest was written back. Where the
disk does not follow it waits longer, see `wait_if_far_behind`.

Where a sync fails, the system forgets that what it was given may not be on the disk, and the next
sync says nothing of it. So all of it is written anew before it is synced again; decision 12.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import closing, suppress
from pathlib import Path
from time import perf_counter_ns

import apsw

from ebus.backends.sqlite.connection import PAGE_BYTES, connect_for_checkpoints, driver_errors
from ebus.core.errors import EbusError, StoreBusy
from ebus.core.limits import Limits

logger = logging.getLogger("ebus.sqlite")

FAR_BEHIND_STEPS = 16
"""From so many times its bound on, commits wait for the WAL to be written back."""

MAX_WAIT_S = 1.0
"""How long each of them waits at most."""

MAX_TURN_S = 0.25
"""And so long after it was due, if it only waits for its turn behind another tenant's: whoever
waits holds a thread that all tenants share."""

PIECE_BYTES = 1024 * 1024


class WriteBack:
    """Keeps one tenant's WAL bounded, at about `limits.wal_checkpoint_bytes`.

    `write_lock` is what every writer of this process holds; `threads` runs the work.
    """

    def __init__(
        self, path: Path, limits: Limits, *, write_lock: threading.Lock, threads: Executor
    ) -> None:
        self._path = path
        self._write_lock = write_lock
        self._threads = threads
        self._step_pages = max(1, limits.wal_checkpoint_bytes // PAGE_BYTES)
        self._due_at_pages = self._step_pages
        self._is_due = False
        self._is_under_way = False
        self._due_since_s = 0.0
        self._stopped_at_pages: int | None = None
        """Up to where the WAL could be written back the last time, if somebody who reads in it
        was in the way of the rest: a backup. To wait for one would hold up the writers."""
        self._ended = threading.Event()
        self._closed = False
        self._running = threading.Lock()
        self.written_back: Callable[[int], None] | None = None
        """Called in the thread that writes back, with the nanoseconds that it took."""
        self.is_doubtful = False
        """Whether a sync has failed. Nothing is written back until the WAL was written anew."""
        self.wal_pages = 0
        """Pages in the WAL after this process's last commit; 0 while the next begins it anew."""

    def note_pages(self, _: apsw.Connection, __: str, pages: int) -> int:
        """The hook that SQLite calls after every commit."""
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def start_if_due(self) -> None:
        """To be called with the write lock held."""
        if self.wal_pages >= self._due_at_pages and not self._is_due:
            self._is_due = True
            self._due_since_s = time.monotonic()
            self._ended.clear()
            try:
                self._threads.submit(self._run)
            except RuntimeError:  # no thread could be started: the next commit tries again
                self._is_due = False

    @property
    def is_far_behind(self) -> bool:
        """Whether commits come so fast that the WAL grows all the time."""
        return (
            self._is_due
            and self._stopped_at_pages is None
            and self.wal_pages >= FAR_BEHIND_STEPS * self._step_pages
            and (self._is_under_way or time.monotonic() - self._due_since_s < MAX_TURN_S)
        )

    def wait_if_far_behind(self) -> None:
        """Give the disk time to follow. To be called without the write lock."""
        if self.is_far_behind:
            self._ended.wait(MAX_WAIT_S if self._is_under_way else min(MAX_WAIT_S, MAX_TURN_S))

    def close(self) -> None:
        """Wait for what runs; nothing runs any more afterwards."""
        with self._running:
            self._closed = True

    def _run(self) -> None:
        with self._running:
            left_pages = self.wal_pages
            self._is_under_way = True
            try:
                if not (self._closed or self.is_doubtful):
                    begun_ns = perf_counter_ns()
                    with driver_errors(self._path):
                        self._write_back()
                    if self.written_back is not None:
                        self.written_back(perf_counter_ns() - begun_ns)
                    left_pages = 0
            except StoreBusy:
                pass  # a reader of another process, or its checkpoint: later
            except EbusError as error:
                logger.warning("a WAL could not be written back: %s", error)
            finally:
                self._due_at_pages = left_pages + self._step_pages
                self._ended.set()  # before the next can be due, which clears it
                self._is_due = self._is_under_way = False

    def _write_back(self) -> None:
        """Write back all of it, so that the next commit begins the WAL anew.

        Most of it happens beside the writers, and what has come by then once more. Were that
        all, a WAL that is always written to would never be written back to its end; so the
        little that is left is written back while the writers wait.
        """
        try:
            with closing(connect_for_checkpoints(self._path)) as connection:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                pages, written = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                if written < pages and written == self._stopped_at_pages:
                    raise StoreBusy(f"somebody still reads in {self._path}")
                try:
                    with self._write_lock:
                        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
                        self.wal_pages = 0
                except apsw.BusyError:
                    self._stopped_at_pages = written
                    raise
                self._stopped_at_pages = None
        except apsw.IOError:
            # Said once the connection is closed: while one is open, SQLite does not forget what
            # it counts as written back, and who begins anew closes all the others.
            self.is_doubtful = True
            raise

    def write_anew(self, connection: apsw.Connection) -> None:
        """Make the WAL durable as it is. To be called with the write lock held."""
        write_wal_anew(connection, self._path)
        self.is_doubtful = False


def write_wal_anew(connection: apsw.Connection, path: Path) -> None:
    """Write every byte of the WAL of this file once more, and sync it.

    `connection` keeps the writers of all processes away meanwhile.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        with suppress(FileNotFoundError):
            _write_anew(f"{path}-wal")
    finally:
        connection.execute("ROLLBACK")


def _write_anew(file: str) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        offset = 0
        while piece := os.pread(descriptor, PIECE_BYTES, offset):
            offset += os.pwrite(descriptor, piece, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
