"""Copies of tenants' files: made page by page from one moment while others write, and put back.

One read transaction sees one state for as long as it lasts, and in a WAL nobody waits for it. The
pages are copied by SQLite's own backup within it, so that it never begins anew, however much is
written. All that it costs is that the WAL is not begun anew meanwhile; see `write_back`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from ebus.backends.sqlite.connection import (
    Patience,
    distrust_the_schema,
    driver_errors,
    leave_checkpoints_to_others,
    leave_the_wal_behind,
    refuse_to_write,
    wait_for_other_processes,
)
from ebus.backends.sqlite.examine import examine, take_snapshot
from ebus.backends.sqlite.resting import wal_bytes
from ebus.backends.sqlite.schema import FileKind, identify, inspect_file
from ebus.backends.sqlite.search import snapshot
from ebus.core.backup import Copy, Progress, Snapshot
from ebus.core.backup_directory import disk_errors, sync_directory
from ebus.core.errors import StoreBusy, StoreDamaged, StoreRefused, StoreUnavailable

STEP_PAGES = 512

SYNC_STEPS = 8
"""A sync of much at once would hold up those of the writers on the same disk."""

SETTLED_S = 3.0
"""A file that was written to less long ago may be written to again without its times changing:
file systems count in steps of up to 2 s."""

PIECE_BYTES = 1024 * 1024

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL

_READS_SOURCE = {apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ}

JOURNALS = ("-wal", "-shm", "-journal")


def copy_tenant(
    path: Path, file: Path, *, known: Copy | None, busy_timeout_ms: int, progress: Progress
) -> Snapshot | None:
    """`SupportsBackup.back_up` of the tenant whose file is at `path`."""
    if inspect_file(path) is FileKind.ABSENT:
        return None
    with driver_errors(path):
        mark = mark_of(path)  # before the state is chosen, which then is this or a later one
    if known is not None and mark and known.snapshot.mark == mark:
        return known.snapshot
    with driver_errors(path), _opened(path, busy_timeout_ms) as source, snapshot(source):
        kind = identify(source, path)
        if kind is FileKind.ABSENT:
            return None
        now = take_snapshot(source, kind)
        now = Snapshot(
            position=now.position, events=now.events, checkpoints=now.checkpoints, mark=mark
        )
        if known is not None and _holds_the_same(source, now, known):
            return now
        _copy_pages(source, path, file, progress)
    with disk_errors(file):
        _sync(file)
    _refuse_damage(path, file)
    return now


def mark_of(path: Path) -> str:
    """Of the file as it is, and what its WAL holds; empty while it has just been written to.

    Nobody can set the time of a change (ctime), unlike that of a modification; every write sets
    it. Of a WAL it is set too by whoever opens it as root.
    """
    status = os.stat(path)
    if time.time() - status.st_ctime < SETTLED_S:
        return ""
    state = status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
    digest = hashlib.sha256(repr(state).encode())
    with suppress(FileNotFoundError), open(f"{path}-wal", "rb", buffering=0) as wal:
        while piece := wal.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()[:32]


@contextmanager
def _opened(path: Path, busy_timeout_ms: int) -> Iterator[apsw.Connection]:
    """A connection that only reads, and leaves the file and its WAL as they are."""
    # To read a WAL, its index must be writable; and what was cut off is undone.
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        wait_for_other_processes(connection, Patience(busy_timeout_ms))
        distrust_the_schema(connection)
        refuse_to_write(connection)
        leave_checkpoints_to_others(connection)
        yield connection
    finally:
        with suppress(OSError):
            if wal_bytes(path):  # an empty one goes, as it came
                leave_the_wal_behind(connection)
        connection.close()


@contextmanager
def opened_copy(file: Path) -> Iterator[apsw.Connection]:
    """A connection to a file that nobody writes to. It makes no files beside it."""
    connection = apsw.Connection(
        f"file:{quote(str(file.absolute()))}?immutable=1",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
    )
    try:
        distrust_the_schema(connection)
        yield connection
    finally:
        connection.close()


@contextmanager
def opened_tenant(path: Path, busy_timeout_ms: int) -> Iterator[apsw.Connection]:
    """A connection within a transaction that sees one state of a tenant's file."""
    with _opened(path, busy_timeout_ms) as connection, snapshot(connection):
        yield connection


def _copy_pages(source: apsw.Connection, path: Path, file: Path, progress: Progress) -> None:
    with disk_errors(file):
        os.close(os.open(file, NEW_FILE, 0o600))
    page_bytes: int = source.pragma("page_size")
    try:
        target = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            # Nobody needs what is half done, and the whole is synced once.
            target.pragma("journal_mode", "off")
            target.pragma("synchronous", "off")
            with target.backup("main", source, "main") as backup:
                left = None
                steps = 0
                while not backup.done:
                    backup.step(STEP_PAGES)
                    steps += 1
                    if steps % SYNC_STEPS == 0:
                        _sync(file)
                    before = backup.page_count if left is None else left
                    left = backup.remaining
                    progress((before - left) * page_bytes)
        finally:
            target.close()
    except apsw.Error as error:
        reads = isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.BusyError))
        if reads or getattr(error, "extendedresult", None) in _READS_SOURCE:
            raise  # for the source's own name
        with driver_errors(file):
            raise


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_damage(path: Path, file: Path) -> None:
    """What is damaged in a copy was damaged before: no better copy may give way to it."""
    with driver_errors(file), opened_copy(file) as copy:
        found = examine(copy, path, is_thorough=False)
    if found.problems:
        raise StoreDamaged(f"{path} is damaged: {found.problems[0]}")


def _holds_the_same(source: apsw.Connection, now: Snapshot, known: Copy) -> bool:
    """Whether every row of every table is the same. Reads both, up to the first difference."""
    before = known.snapshot
    if (now.position, now.events) != (before.position, before.events):
        return False
    if now.checkpoints != before.checkpoints:
        return False
    try:
        with opened_copy(known.file) as copy:
            for ours, its in zip_longest(_rows(source), _rows(copy)):
                if ours != its:
                    return False
    except apsw.Error:  # the copy cannot be read, and a new one is due; or the source will tell
        return False
    return True


def _rows(connection: apsw.Connection) -> Iterator[tuple[Any, ...]]:
    yield connection.pragma("application_id"), connection.pragma("user_version")
    schema: list[Any] = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    ).fetchall()
    yield from schema
    for kind, name, _ in schema:
        if kind == "table":
            quoted = str(name).replace('"', '""')
            query = f'SELECT * FROM "{quoted}"'  # noqa: S608
            with closing(connection.execute(query)) as rows:
                yield from rows


def stage(copy: Path, staged: Path, progress: Progress) -> None:
    """Copy a file durably to the place beside which it is to go."""
    with driver_errors(copy):
        kind = inspect_file(copy)
    if kind is FileKind.ABSENT:
        raise StoreDamaged(f"{copy} is damaged: it is empty")
    with disk_errors(staged):
        staged.unlink(missing_ok=True)
        with copy.open("rb", buffering=0) as source:
            with open(os.open(staged, NEW_FILE, 0o600), "wb") as target:
                while piece := source.read(PIECE_BYTES):
                    target.write(piece)
                    progress(len(piece))
                target.flush()
                os.fsync(target.fileno())


def check_place(path: Path, *, overwrite: bool, even_if_open: bool) -> None:
    """Raise unless a file may be put at this path."""
    with driver_errors(path):
        names = os.listdir(path.parent) if path.parent.exists() else []
        for name in sorted(names):
            if name.lower() == path.name.lower() and name != path.name:
                raise StoreRefused(
                    f"{path.parent / name} is there, whose name differs from {path.name} in case "
                    "only: move one of them away"
                )
        if not (overwrite or _is_free(path)):
            raise StoreRefused(f"{path} is there already, and would be overwritten")
        if not even_if_open:
            with for_oneself(path):
                pass


def _is_free(path: Path) -> bool:
    try:
        return inspect_file(path) is FileKind.ABSENT
    except StoreRefused:
        return False


def swap_in(staged: Path, path: Path, *, even_if_open: bool) -> None:
    """Put a file in the place of a tenant's, whatever is cut off: the old one or the new one.

    A WAL that outlived its database would be taken for the new one's. So what it holds is written
    back first, where the old one is not damaged, and it is gone before the names change.
    """
    if path.exists():
        try:
            write_wal_back(path)
        except StoreBusy:
            if not even_if_open:
                raise
        except StoreRefused:
            pass  # it was damaged, and is not wanted any more
    with driver_errors(path), for_oneself(path, waived=even_if_open):
        for suffix in JOURNALS:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        sync_directory(path.parent)
        os.replace(staged, path)
        sync_directory(path.parent)


def write_wal_back(path: Path) -> None:
    with driver_errors(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            if wal_bytes(path):
                # A connection that has not read yet does not know that there is a WAL.
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            with suppress(apsw.Error):
                connection.close()
        if wal_bytes(path):
            raise StoreUnavailable(f"{path}-wal could not be written back")


@contextmanager
def for_oneself(path: Path, *, waived: bool = False) -> Iterator[None]:
    """Nobody has the file open, nor can open it meanwhile. Raises `StoreBusy`.

    Who has a database with a WAL open holds a lock on it all the time.
    """
    if waived or not path.exists():
        yield
        return
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
    file = apsw.VFSFile("", str(path), flags)
    try:
        try:
            file.xLock(apsw.SQLITE_LOCK_SHARED)
            file.xLock(apsw.SQLITE_LOCK_EXCLUSIVE)
        except apsw.BusyError:
            raise StoreBusy(
                f"{path} is open in a process: stop the server that serves it"
            ) from None
        yield
    finally:
        file.xUnlock(apsw.SQLITE_LOCK_NONE)
        file.xClose()
