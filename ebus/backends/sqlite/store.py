"""One tenant's file as a `TenantStore`: one connection that writes, several that read."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import apsw
import msgspec

from ebus.backends.sqlite.blocks import Block, build_blocks
from ebus.backends.sqlite.connection import (
    Patience,
    connect,
    driver_errors,
    leave_the_wal_behind,
    transaction,
)
from ebus.backends.sqlite.reader import (
    COUNT,
    HAS_CHECKPOINT,
    HEAD,
    READ_BLOCKS,
    STORED_BYTES,
    Reader,
    SqliteQuickReads,
    encoded,
)
from ebus.backends.sqlite.resting import Resting, may_rest, wal_bytes
from ebus.backends.sqlite.schema import VERSION, FileKind, identify
from ebus.backends.sqlite.write_back import WriteBack
from ebus.core.engine import Durability
from ebus.core.errors import (
    EbusError,
    InvalidRange,
    StoreBusy,
    StoreClosed,
    StoreForeign,
    StoreFull,
    StoreUnavailable,
)
from ebus.core.event import Event, NewEvent, encode_events, utc_now
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.store import (
    NO_QUOTA,
    Appended,
    Page,
    Quota,
    Room,
    SaveCheckpoint,
    SupportsPutAway,
    SupportsQuickCommit,
    SupportsQuickReads,
    SupportsQuota,
    SupportsTrim,
    SupportsWireRead,
    TenantStore,
    WirePage,
    Write,
    Written,
    refusals_of,
)

_INSERT_BLOCK = """
    INSERT INTO blocks (last_position, first_position, recorded_at_ns, starts, events)
    VALUES (?, ?, ?, ?, ?)
"""
# Nothing, if anybody has written since the caller looked at the head.
_INSERT_BLOCK_AFTER = f"""
    INSERT INTO blocks (last_position, first_position, recorded_at_ns, starts, events)
    SELECT ?, ?, ?, ?, ? WHERE ({HEAD}) = ?
"""
_SAVE_CHECKPOINT = """
    INSERT INTO checkpoints (name, position) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET position = excluded.position
"""
MAX_IDLE_READERS = 1

_decode_events = msgspec.json.Decoder(list[Event]).decode


class _Layout(msgspec.Struct):
    """Writes as they are to be stored, and what to answer once they are."""

    results: list[Written]
    blocks: list[Block]
    checkpoints: list[tuple[str, int]]
    head: int


class SqliteStore(
    TenantStore,
    SupportsWireRead,
    SupportsQuickReads,
    SupportsQuickCommit,
    SupportsPutAway,
    SupportsTrim,
    SupportsQuota,
):
    """One tenant's log in one SQLite file, which must exist and be of the newest version.

    Several processes may have the file open. One idle connection for reading is kept. A WAL that
    has grown to `limits.wal_checkpoint_bytes` is written back in a thread of `checkpoints`.
    `on_close` is called when the store has been closed. `resting` is how this process left the
    file when it had it open before, if it is still the same.
    """

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        limits: Limits,
        checkpoints: Executor,
        on_close: Callable[[SqliteStore], None],
        resting: Resting | None = None,
    ) -> None:
        self._path = path
        self._file = str(path)
        self._wal = f"{path}-wal"
        self._limits = limits
        self._quota = NO_QUOTA
        self._may_hold_refused = False
        self._closed = False
        self._durability = durability
        self._patience = Patience(limits.busy_timeout_ms)
        self._on_close = on_close
        self.resting: Resting | None = None
        """How the file was left, once the store has been put away and its WAL is beside it."""
        self._idle_readers: list[Reader] = []
        self._quick_reads: list[SqliteQuickReads] = []
        self._busy_readers = 0
        self._readers_wait = False
        self._readers_changed = threading.Condition()
        self._write_lock = threading.Lock()
        self._write_back = WriteBack(path, limits, write_lock=self._write_lock, threads=checkpoints)
        with driver_errors(path):
            if resting is not None:
                self._write_back.wal_pages = resting.wal_pages
                self._write_back.is_doubtful = resting.is_doubtful
            else:  # nobody knows how the process fared that left it
                self._write_back.is_doubtful = wal_bytes(path) > 0
            self._writer = self._connect_writer()
            try:
                # What is damaged, or newer by what its WAL says, shows now, not at first use.
                if identify(self._writer, path) is not FileKind.OURS:
                    raise StoreForeign(f"{path} is not a file of ebus")
                self._head: int = self._writer.execute(HEAD).get
                self._identity = _identity(self._file)
                self._wal_identity = _identity(self._wal)
            except BaseException:
                self._writer.close()
                raise

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def closed(self) -> bool:
        return self._closed

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        self._write_back.wait_if_far_behind()
        return self._commit(writes, waits=True)

    def commit_quickly(self, writes: Sequence[Write]) -> list[Written] | None:
        behind = self._write_back.is_far_behind or self._write_back.is_doubtful
        if self._durability == "full" or behind or self._write_back.wal_pages == 0:
            return None  # the first commit into a WAL syncs its header
        try:
            return self._commit(writes, waits=False)
        except StoreBusy:
            return None

    def _commit(self, writes: Sequence[Write], *, waits: bool) -> list[Written]:
        # Before the transaction: meanwhile another process may write.
        refusals = refusals_of(writes, self._limits)
        if None not in refusals:
            self._refuse_if_closed()
            return [*refusals]
        with self._writing(waits=waits) as connection:
            layout = self._lay_out(writes, refusals, self._head, self._room(connection))
            if len(layout.blocks) == 1 and not layout.checkpoints:
                # The common case in one statement, which takes the interpreter's lock back
                # from busy threads once and not five times.
                row = (*self._row(layout.blocks[0]), self._head)
                connection.execute(_INSERT_BLOCK_AFTER, row)
                if connection.changes():
                    self._head = layout.head
                    return layout.results
            with transaction(connection):
                head: int = connection.execute(HEAD).get
                if head != self._head:  # another process has written
                    self._head = head
                    layout = self._lay_out(writes, refusals, head, self._room(connection))
                for block in layout.blocks:
                    connection.execute(_INSERT_BLOCK, self._row(block))
                if layout.checkpoints:
                    connection.executemany(_SAVE_CHECKPOINT, layout.checkpoints)
            self._head = layout.head
        return layout.results

    def _room(self, connection: apsw.Connection) -> Room | None:
        """What the quota leaves; None when there is none."""
        if self._quota == NO_QUOTA:
            return None
        return Room(
            self._quota,
            events=connection.execute(COUNT).get,
            size_bytes=connection.execute(STORED_BYTES).get,
            knows=lambda name: bool(connection.execute(HAS_CHECKPOINT, (name,)).get),
        )

    def _lay_out(
        self,
        writes: Sequence[Write],
        refusals: Sequence[EbusError | None],
        head: int,
        room: Room | None,
    ) -> _Layout:
        """How these writes are stored, if this is the last position so far."""
        first_position = head + 1
        results: list[Written] = []
        accepted: list[NewEvent] = []
        encoded: list[bytes] = []
        checkpoints: list[tuple[str, int]] = []
        now = utc_now()
        for write, refusal in zip(writes, refusals, strict=True):
            if refusal is not None:
                results.append(refusal)
            elif isinstance(write, SaveCheckpoint):
                over_quota = room.take_name(write.name) if room is not None else None
                results.append(over_quota)
                if over_quota is None:
                    checkpoints.append((write.name, write.position))
            else:
                last = head + len(write.events)
                if last > MAX_POSITION:
                    raise StoreFull(f"{self._path} has no positions left")
                over_quota = None
                if room is not None:
                    wire = encode_events(write.events, head + 1, now)
                    over_quota = room.take_events(wire)
                    encoded += wire if over_quota is None else []
                results.append(over_quota or Appended(head + 1, last))
                if over_quota is None:
                    accepted += write.events
                    head = last
        if room is None:  # all at once: one after the other they take several times as long
            encoded = encode_events(accepted, first_position, now)
        if len(encoded) == 1:
            blocks = [Block(first_position, first_position, b"", encoded[0])]
        else:
            bounds = self._limits
            max_events, max_bytes = bounds.max_block_events, bounds.max_block_bytes
            blocks = list(
                build_blocks(encoded, first_position, max_events=max_events, max_bytes=max_bytes)
            )
        return _Layout(results, blocks, checkpoints, head)

    @staticmethod
    def _row(block: Block) -> tuple[int, int, int, bytes, bytes]:
        last, first = block.last_position, block.first_position
        return last, first, time.time_ns(), block.starts, block.events

    def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> Page:
        page = self.read_wire(start, stop, limit=limit, max_bytes=max_bytes)
        return Page(_decode_events(b"[" + b",".join(page.chunks) + b"]"), page.next)

    def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> WirePage:
        with self._reading() as reader:
            return reader.read_wire(start, stop, limit=limit, max_bytes=max_bytes)

    def trim(self, through: int) -> None:
        with self._writing() as connection, transaction(connection):
            head = connection.execute(HEAD).get
            if not 0 <= through <= head:
                raise InvalidRange(f"cannot trim through {through}: the head is {head}")
            if through == 0:
                return
            [(first, last, starts, events)] = connection.execute(
                READ_BLOCKS + " LIMIT 1", (through,)
            )
            if last > through:
                if events is not None:
                    rest = Block(first, last, starts, events).cut(through + 1, last)
                    starts, events = rest.starts, rest.events
                connection.execute(
                    "UPDATE blocks SET first_position = ?, starts = ?, events = ? "
                    "WHERE last_position = ?",
                    (through + 1, starts, events, last),
                )
            connection.execute("DELETE FROM blocks WHERE last_position <= ?", (through,))
            connection.execute(_INSERT_BLOCK, (through, 1, time.time_ns(), b"", None))

    def stored_bytes(self) -> int:
        with self._reading() as reader:
            return reader.stored_bytes()

    def set_quota(self, quota: Quota) -> None:
        self._quota = quota

    def head(self) -> int:
        with self._reading() as reader:
            return reader.head()

    def count(self) -> int:
        with self._reading() as reader:
            return reader.count()

    def checkpoint(self, name: str) -> int | None:
        with self._reading() as reader:
            return reader.checkpoint(name)

    def checkpoints(self) -> dict[str, int]:
        with self._reading() as reader:
            return reader.checkpoints()

    def quick_reads(self) -> SqliteQuickReads:
        with self._readers_changed, driver_errors(self._path):  # none is open that is not known
            self._refuse_if_closed()
            quick = SqliteQuickReads(self._path, self._limits)
            self._quick_reads.append(quick)
            return quick

    def delete_checkpoint(self, name: str) -> bool:
        with self._writing() as connection, transaction(connection):
            connection.execute("DELETE FROM checkpoints WHERE name = ?", (encoded(name),))
            return connection.changes() > 0

    @contextmanager
    def _writing(self, *, waits: bool = True) -> Iterator[apsw.Connection]:
        """The connection that writes, for this thread alone."""
        if not self._write_lock.acquire(blocking=waits):
            raise StoreBusy(f"{self._path} is being written to")
        try:
            with driver_errors(self._path):
                self._refuse_if_closed()
                self.check_in_place()
                self._patience.exhausted = not waits
                if self._may_hold_refused:  # before anybody finds it by opening the file
                    self._overwrite_refused()
                if self._write_back.is_doubtful:
                    self._begin_anew()
                try:
                    yield self._writer
                except apsw.IOError:
                    self._may_hold_refused = True
                    with suppress(apsw.Error):
                        self._overwrite_refused()
                    raise
                self._write_back.start_if_due()
        finally:
            self._write_lock.release()

    def _overwrite_refused(self) -> None:
        """Make sure that a commit which has failed is not found in the WAL.

        One whose sync fails stands there as a whole, where it would be found after a crash. Commits
        begin where the last good one ended, and no checksum behind what has changed holds any
        more: so one that changes nothing takes its place, and is itself written and synced anew.
        """
        with transaction(self._writer):
            self._writer.pragma("user_version", VERSION)
        self._may_hold_refused = False

    def _begin_anew(self) -> None:
        """Go on after a sync that failed while the WAL was written back. With the write lock held.

        SQLite counts pages of the WAL as written back before it syncs them, and would not write
        them again. It forgets that with the last connection; other processes have theirs.
        """
        with self._without_readers():
            with suppress(apsw.ConnectionClosedError):  # it could not be opened the last time
                leave_the_wal_behind(self._writer)
            self._writer.close()
            self._writer = self._connect_writer()
        self._write_back.write_anew(self._writer)

    def _connect_writer(self) -> apsw.Connection:
        writer = connect(self._path, durability=self._durability, patience=self._patience)
        writer.set_wal_hook(self._write_back.note_pages)
        return writer

    @contextmanager
    def _without_readers(self) -> Iterator[None]:
        """No connection reads, and none is open for it."""
        with self._readers_changed, ExitStack() as pauses:
            self._readers_wait = True
            try:
                self._readers_changed.wait_for(lambda: self._busy_readers == 0)
                while self._idle_readers:
                    self._idle_readers.pop().close()
                for quick in self._quick_reads:
                    pauses.enter_context(quick.paused())
                yield
            finally:
                self._readers_wait = False
                self._readers_changed.notify_all()

    @contextmanager
    def _reading(self) -> Iterator[Reader]:
        """A connection that reads, for this thread alone."""
        with self._readers_changed:
            self._readers_changed.wait_for(lambda: not self._readers_wait)
            self._refuse_if_closed()
            self._busy_readers += 1
            reader = self._idle_readers.pop() if self._idle_readers else None
        try:
            with driver_errors(self._path):
                if reader is None:
                    timeout = self._limits.busy_timeout_ms
                    reader = Reader(self._path, self._limits, busy_timeout_ms=timeout)
                yield reader
        finally:
            with self._readers_changed:
                self._busy_readers -= 1
                keep = not self._closed and len(self._idle_readers) < MAX_IDLE_READERS
                if reader is not None and keep:
                    self._idle_readers.append(reader)
                elif reader is not None:
                    reader.close()
                self._readers_changed.notify_all()

    def check_in_place(self) -> None:
        """Raise `StoreUnavailable` when a file that is open is no longer the one at its path.

        What is written to a file that was deleted or moved away would be lost, and commits are
        written to the WAL.
        """
        with driver_errors(self._path):
            if (
                _identity(self._file) != self._identity
                or _identity(self._wal) != self._wal_identity
            ):
                raise StoreUnavailable(f"{self._path} is not the file that was opened any more")

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self._path} is closed")

    def close(self) -> None:
        self._close(leaves_wal=False)

    def put_away(self) -> None:
        with self._write_lock, driver_errors(self._path):
            if self._may_hold_refused and not self._closed:
                self._overwrite_refused()  # or else who opens the file again finds it
        self._close(leaves_wal=True)

    def _close(self, *, leaves_wal: bool) -> None:
        self._write_back.close()
        with self._write_lock, driver_errors(self._path), ExitStack() as closing:
            if not self._closed:  # or else somebody may have opened the file again
                closing.callback(self._on_close, self)
            if not self._closed:
                self._leave_wal(asked_to=leaves_wal)
            # The writer goes last: the last connection to a file writes its WAL back.
            closing.callback(self._writer.close)
            with self._readers_changed:
                self._closed = True
                self._readers_changed.wait_for(lambda: self._busy_readers == 0)
                for reader in (*self._idle_readers, *self._quick_reads):
                    closing.callback(reader.close)
                self._idle_readers.clear()
                self._quick_reads.clear()

    def _leave_wal(self, *, asked_to: bool) -> None:
        """See to it that the WAL stays, if it may, or must since it cannot be trusted.

        Otherwise it is written back when the last connection is closed. Should a sync fail then,
        the WAL is still there, and who opens the file does not trust it either.
        """
        back = self._write_back
        if self._may_hold_refused:
            back.is_doubtful = True
            with suppress(apsw.Error):
                self._overwrite_refused()
        if not (back.is_doubtful or (asked_to and may_rest(self._path))):
            return
        with suppress(OSError):  # a file that is gone: closing tells
            resting = Resting.of(self._path, wal_pages=back.wal_pages, is_doubtful=back.is_doubtful)
            if resting.identity == self._identity:
                with suppress(apsw.ConnectionClosedError):  # it could not be opened again
                    leave_the_wal_behind(self._writer)
                self.resting = resting


def _identity(file: str) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino
