"""Opening a file: what every connection is set to and why, and errors in our own words."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType

import apsw

from ebus.core.engine import Durability
from ebus.core.errors import (
    EbusError,
    EngineError,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
)

MIN_SQLITE_VERSION = (3, 51, 3)
"""Older ones can lose commits when a WAL is reset: sqlite.org/wal.html, "The WAL-reset bug"."""

MIN_BUSY_SLEEP_S = 0.000_05
MAX_BUSY_SLEEP_S = 0.002

PAGE_BYTES = 4_096
"""The size of a page of every file that ebus makes: SQLite's default."""

CACHE_KIB = 2_000
"""The most that the cache of one connection takes: SQLite's default."""

CHECKPOINT_BUSY_TIMEOUT_MS = 20

MAX_WAL_FILE_BYTES = 64 * 1024 * 1024


def check_sqlite_version(version: str = apsw.sqlite_lib_version()) -> None:
    """Raise `EngineError` when SQLite is too old to be trusted with data."""
    if tuple(map(int, version.split(".")))[:3] < MIN_SQLITE_VERSION:
        wanted = ".".join(map(str, MIN_SQLITE_VERSION))
        raise EngineError(
            f"SQLite {version} can lose commits; ebus needs {wanted} or newer: "
            f"pip install 'apsw>={wanted}.0'"
        )


def connect(path: Path, *, durability: Durability, patience: Patience) -> apsw.Connection:
    """A connection to a database that exists, set up for reading and writing."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        wait_for_other_processes(connection, patience)
        begin_with_a_small_cache(connection)
        distrust_the_schema(connection)
        write_ahead(connection, patience)
        leave_checkpoints_to_others(connection)
        bound_the_wal_file(connection)
        sync_on_commit(connection, durability)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_for_reading(path: Path, *, busy_timeout_ms: int) -> apsw.Connection:
    """A connection to a database that exists, which refuses to write."""
    connection = connect(path, durability="normal", patience=Patience(busy_timeout_ms))
    refuse_to_write(connection)
    leave_the_wal_behind(connection)  # it may be one that must not be written back
    return connection


def connect_for_checkpoints(path: Path) -> apsw.Connection:
    """A connection that writes a WAL back. While it waits for others, writers wait for it."""
    patience = Patience(CHECKPOINT_BUSY_TIMEOUT_MS)
    return connect(path, durability="normal", patience=patience)


class Patience:
    """A busy handler: how long a connection waits for the locks of other processes.

    It looks again soon. SQLite's own sleeps for 1, 2, 5, 10 ms and more, far longer than a
    commit takes, so that processes which take turns would mostly sleep.
    """

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1_000
        self._until_s = 0.0
        self.exhausted = False
        """Set to wait for nobody."""

    def __call__(self, attempts: int) -> bool:
        now_s = time.monotonic()
        if attempts == 0:
            self._until_s = now_s + self._timeout_s
        if self.exhausted or now_s >= self._until_s:
            return False
        time.sleep(min(MAX_BUSY_SLEEP_S, MIN_BUSY_SLEEP_S * (1 + attempts / 16)))
        return True


def wait_for_other_processes(connection: apsw.Connection, patience: Patience) -> None:
    """Several processes may share a file; without this a lock of another fails at once."""
    connection.set_busy_handler(patience)


def begin_with_a_small_cache(connection: apsw.Connection) -> None:
    """The cache takes memory for a page when there is one, not for 20 of them at once.

    SQLite asks for 20 at the first page, unless there are fewer in the whole cache: with thousands
    of files open, two fifths of what they take (decision 10).
    """
    connection.execute("PRAGMA cache_size = 2; PRAGMA shrink_memory")
    connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").get  # noqa: B018 - a page is there
    connection.pragma("cache_size", -CACHE_KIB)


def distrust_the_schema(connection: apsw.Connection) -> None:
    """Views and triggers that somebody else put into a file must not run functions of ours."""
    connection.pragma("trusted_schema", False)


def write_ahead(connection: apsw.Connection, patience: Patience) -> None:
    """Readers and the writer do not block each other, and a commit is one sequential write.

    Of two connections that want this of a new file at the same moment SQLite refuses one at once,
    without its busy handler. It waits as that would, twice as long at most.
    """
    attempts = 0
    while True:
        try:
            connection.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if not patience(attempts):
                raise
            attempts += 1
        else:
            return


def leave_checkpoints_to_others(connection: apsw.Connection) -> None:
    """A commit that wrote the WAL back would make its caller wait for that, and two syncs."""
    connection.pragma("wal_autocheckpoint", 0)


def bound_the_wal_file(connection: apsw.Connection) -> None:
    """A WAL that grew under a long read gives its space back at the next checkpoint."""
    connection.pragma("journal_size_limit", MAX_WAL_FILE_BYTES)


def sync_on_commit(connection: apsw.Connection, durability: Durability) -> None:
    """FULL syncs the WAL before a commit returns, NORMAL only at checkpoints.

    `fullfsync` makes macOS flush the drive's cache as well; elsewhere it does nothing.
    """
    connection.pragma("synchronous", "FULL" if durability == "full" else "NORMAL")
    connection.pragma("fullfsync", durability == "full")


def leave_the_wal_behind(connection: apsw.Connection) -> None:
    """Closing the last connection does not write the WAL back, which takes several syncs."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def refuse_to_write(connection: apsw.Connection) -> None:
    """A reader that wrote by mistake would do so beside the one writer."""
    connection.pragma("query_only", True)


@contextmanager
def transaction(
    connection: apsw.Connection, *, committed: Callable[[int], None] | None = None
) -> Iterator[None]:
    """All of the block or nothing, as the only writer among all processes.

    `committed` is told how many nanoseconds the commit took.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        begun_ns = perf_counter_ns()
        connection.execute("COMMIT")
        if committed is not None:
            committed(perf_counter_ns() - begun_ns)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class driver_errors:  # noqa: N801 - used as a statement; a generator would cost twice as much
    """Turn the driver's errors into ours. The messages name the file, for the operator."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, (apsw.Error, OSError)):
            raise _translated(error, self._path) from error


def _translated(error: apsw.Error | OSError, path: Path) -> EbusError:
    if _tells_of_a_full_disk(error):
        return StoreFull(f"{path} cannot grow: the disk is full")
    if isinstance(error, OSError):
        return StoreUnavailable(f"{path} cannot be used: {error.strerror}")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreBusy(f"{path} is held by another process")
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return StoreDamaged(f"{path} is damaged: {error}")
    unusable = (
        apsw.IOError,
        apsw.CantOpenError,
        apsw.ReadOnlyError,
        apsw.PermissionsError,
        apsw.ConnectionClosedError,  # it could not be opened again
    )
    if isinstance(error, unusable):
        return StoreUnavailable(f"{path} cannot be used: {error}")
    # What is stored does not fit what is expected of it.
    return StoreDamaged(f"{path} cannot be read: {error}")


def _tells_of_a_full_disk(error: apsw.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    # For a WAL's index, which is made when a file is opened, SQLite has an error of its own.
    grows_index = getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE
    return grows_index or isinstance(error, apsw.FullError)
