"""One tenant's file as a `TenantStore`: one connection that writes, several that read."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import perf_counter_ns

import apsw
import msgspec

from ebus.backends.sqlite.blocks import READ_BLOCKS, Block, build_blocks
from ebus.backends.sqlite.connection import (
    Patience,
    connect,
    driver_errors,
    leave_the_wal_behind,
    sync_on_commit,
    transaction,
)
from ebus.backends.sqlite.index import StoredIndex, forget_names, set_versions, store_names
from ebus.backends.sqlite.reader import (
    COUNT,
    HAS_CHECKPOINT,
    HEAD,
    STORED_BYTES,
    Reader,
    SqliteQuickReads,
    encoded,
)
from ebus.backends.sqlite.resting import Resting, may_rest, wal_bytes
from ebus.backends.sqlite.schema import VERSION, FileKind, identify
from ebus.backends.sqlite.segments import INSERT_TYPE_SEGMENT, SEGMENT_EVENTS, OpenSegment
from ebus.backends.sqlite.write_back import WriteBack
from ebus.core.consumers import Subscription
from ebus.core.engine import Durability, SupportsDurability
from ebus.core.errors import (
    InvalidRange,
    StoreBusy,
    StoreClosed,
    StoreForeign,
    StoreUnavailable,
)
from ebus.core.event import Event, utc_now
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.observing import StoreObserver, SupportsObserver
from ebus.core.plan import Plan, plan_writes
from ebus.core.store import (
    LOOK_AGAIN_S,
    NO_QUOTA,
    Append,
    Checked,
    Page,
    Quota,
    Room,
    StreamInfo,
    SupportsGaps,
    SupportsIdLookup,
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
    check_gap,
    check_list_limit,
    check_saved_position,
    check_writes,
    refuse_unexpected,
)

_INSERT_BLOCK = """
    INSERT INTO blocks (last_position, first_position, recorded_ns, starts, events)
    VALUES (?, ?, ?, ?, ?)
"""
# Nothing, if anybody has written since the caller looked at the head.
_INSERT_BLOCK_AFTER = f"""
    INSERT INTO blocks (last_position, first_position, recorded_ns, starts, events)
    SELECT ?, ?, ?, ?, ? WHERE ({HEAD}) = ?
"""
_TIP = "SELECT last_position, recorded_ns FROM blocks ORDER BY last_position DESC LIMIT 1"
MAX_IDLE_READERS = 1

_decode_events = msgspec.json.Decoder(list[Event]).decode


class SqliteStore(
    TenantStore,
    SupportsWireRead,
    SupportsQuickReads,
    SupportsQuickCommit,
    SupportsPutAway,
    SupportsTrim,
    SupportsGaps,
    SupportsIdLookup,
    SupportsQuota,
    SupportsObserver,
    SupportsDurability,
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
        self._open_segment: OpenSegment | None = None  # unknown
        self._commits = 0
        self._waiters = 0
        self._appended = threading.Condition()
        self._durability = durability
        self._observer: StoreObserver | None = None
        self._synced: Callable[[int], None] | None = None
        """The observer's, while commits sync. It may change at any time: look once."""
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
                self._head: int
                self._recorded_ns: int
                self._head, self._recorded_ns = self._writer.execute(_TIP).get or (0, 0)
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
        checked = check_writes(writes, self._limits)
        if None not in checked.refusals:
            self._refuse_if_closed()
            return [*checked.refusals]
        if not (waits or checked.is_plain) and any(map(_has_condition, writes)):
            raise StoreBusy("to find what was not to have come may take long")
        with self._writing(waits=waits) as connection:
            plan, blocks = None, None
            if checked.is_plain:
                plan = self._plan(writes, checked, connection)
                blocks = self._blocks(plan)
                if len(blocks) == 1 and not _completes_segment(self._head, plan.head):
                    # The common case in one statement, which takes the interpreter's lock back
                    # from busy threads once and not five times.
                    recorded_ns = max(time.time_ns(), self._recorded_ns)
                    row = (*_row(blocks[0], recorded_ns), self._head)
                    synced = self._synced
                    begun_ns = perf_counter_ns() if synced is not None else 0
                    connection.execute(_INSERT_BLOCK_AFTER, row)
                    if connection.changes():
                        if synced is not None:
                            synced(perf_counter_ns() - begun_ns)
                        if self._open_segment is not None:
                            self._open_segment.add(plan.events)
                        self._head, self._recorded_ns = plan.head, recorded_ns
                        self._tell_waiters()
                        return plan.results
            with transaction(connection, committed=self._synced):
                staged = self._commit_plan(writes, checked, connection, plan, blocks, waits=waits)
            self._head, self._recorded_ns = staged.plan.head, staged.recorded_ns
            self._open_segment = staged.segment
            self._tell_waiters()
        return staged.plan.results

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

    def _plan(self, writes: Sequence[Write], checked: Checked, connection: apsw.Connection) -> Plan:
        """What becomes of these writes, if the head is the one that this store knows."""
        head = self._head
        room = None if self._quota is NO_QUOTA else self._room(connection)
        index = StoredIndex(connection, head)
        return plan_writes(writes, checked, head=head, now=utc_now(), index=index, room=room)

    def _commit_plan(
        self,
        writes: Sequence[Write],
        checked: Checked,
        connection: apsw.Connection,
        plan: Plan | None,
        blocks: list[Block] | None,
        *,
        waits: bool,
    ) -> _Staged:
        """Store what the writes come to, within a transaction, unless that is known already."""
        head, recorded_ns = connection.execute(_TIP).get or (0, 0)
        if head != self._head:  # another process has written
            self._head, self._recorded_ns, self._open_segment = head, recorded_ns, None
            plan = None
        if plan is None or blocks is None:
            plan = self._plan(writes, checked, connection)
            blocks = self._blocks(plan)
        segment = self._open_segment
        if plan.events:
            recorded_ns = max(time.time_ns(), recorded_ns)
            rows = [_row(block, recorded_ns) for block in blocks]
            connection.executemany(_INSERT_BLOCK, rows)
            if segment is not None:
                segment = segment.copy()  # this one may yet be rolled back
            elif _completes_segment(head, plan.head):
                if not waits:
                    raise StoreBusy("to find which types a segment holds may take long")
                segment = OpenSegment.read(connection, head)
            if segment is not None:
                completed = segment.take(plan.types)
                connection.executemany(INSERT_TYPE_SEGMENT, completed)
        store_names(connection, plan)
        return _Staged(plan, recorded_ns, segment)

    def _tell_waiters(self) -> None:
        """To be called after every commit."""
        self._commits += 1
        if self._waiters:
            with self._appended:
                self._appended.notify_all()

    def _blocks(self, plan: Plan) -> list[Block]:
        encoded = plan.encoded
        first_position = plan.head - len(encoded) + 1
        if len(encoded) == 1:
            return [Block(first_position, first_position, b"", encoded[0])]
        bounds = self._limits
        max_events, max_bytes = bounds.max_block_events, bounds.max_block_bytes
        return list(
            build_blocks(encoded, first_position, max_events=max_events, max_bytes=max_bytes)
        )

    def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> Page:
        page = self.read_wire(
            start, stop, limit=limit, max_bytes=max_bytes, filter=filter, backwards=backwards
        )
        return Page(_decode_events(b"[" + b",".join(page.chunks) + b"]"), page.next)

    def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> WirePage:
        with self._reading() as reader:
            return reader.read_wire(
                start, stop, limit=limit, max_bytes=max_bytes, filter=filter, backwards=backwards
            )

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        most = self._limits.max_read_events
        if limit is not None and not 1 <= limit <= most:
            raise InvalidRange(f"a list is limited to 1 to {most} streams")
        with self._reading() as reader:
            return reader.streams(prefix, after, limit or most)

    def stream_version(self, stream: str) -> int:
        with self._reading() as reader:
            return reader.stream_version(stream)

    def wait(self, position: int, timeout_s: float) -> int:
        until_s = time.monotonic() + timeout_s
        with self._appended:  # before it looks, so that no commit after that goes unnoticed
            self._waiters += 1
        try:
            while True:
                commits = self._commits
                head = self.head()
                left_s = until_s - time.monotonic()
                if head >= position or left_s <= 0:
                    return head
                with self._appended:
                    if self._commits == commits and not self._closed:
                        self._appended.wait(min(LOOK_AGAIN_S, left_s))
        finally:
            with self._appended:
                self._waiters -= 1

    def trim(self, through: int) -> None:
        with self._writing() as connection, transaction(connection):
            head = connection.execute(HEAD).get
            if not 0 <= through <= head:
                raise InvalidRange(f"cannot trim through {through}: the head is {head}")
            if through == 0:
                return
            forget_names(connection, through)
            [(first, last, starts, events)] = connection.execute(
                READ_BLOCKS + " LIMIT 1", (through,)
            )
            # The gap is given the time of its last position: times never go down.
            recorded_ns = connection.execute(
                "SELECT recorded_ns FROM blocks WHERE last_position = ?", (last,)
            ).get
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
            connection.execute(_INSERT_BLOCK, (through, 1, recorded_ns, b"", None))

    def leave_gap(
        self, through: int, *, versions: Mapping[str, int] | None = None, expected: int
    ) -> None:
        versions = versions or {}
        with self._writing() as connection:
            with transaction(connection):
                head, recorded_ns = connection.execute(_TIP).get or (0, 0)
                version_of = StoredIndex(connection, head).stream_version
                check_gap(
                    through,
                    versions,
                    expected,
                    head=head,
                    version_of=version_of,
                    limits=self._limits,
                )
                set_versions(connection, versions)
                if through > head:
                    recorded_ns = max(time.time_ns(), recorded_ns)
                    segment = OpenSegment.read(connection, head)
                    connection.executemany(INSERT_TYPE_SEGMENT, segment.skip(through))
                    row = (through, head + 1, recorded_ns, b"", None)
                    connection.execute(_INSERT_BLOCK, row)
            self._head, self._recorded_ns = through, recorded_ns
            self._open_segment = None
            self._tell_waiters()

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        with self._reading() as reader:
            return reader.positions_of(ids)

    def stored_bytes(self) -> int:
        with self._reading() as reader:
            return reader.stored_bytes()

    def set_quota(self, quota: Quota) -> None:
        self._quota = quota

    def observe(self, observer: StoreObserver) -> None:
        self._observer = observer
        self._tell_of_syncs()
        self._write_back.written_back = observer.written_back

    def _tell_of_syncs(self) -> None:
        observer, syncs = self._observer, self._durability == "full"
        self._synced = observer.synced if observer is not None and syncs else None

    def set_durability(self, durability: Durability) -> None:
        with self._writing() as writer:
            self._durability = durability
            sync_on_commit(writer, durability)
            self._tell_of_syncs()

    def head(self) -> int:
        with self._reading() as reader:
            return reader.head()

    def count(self) -> int:
        with self._reading() as reader:
            return reader.count()

    def checkpoint(self, name: str) -> int | None:
        with self._reading() as reader:
            return reader.checkpoint(name)

    def subscription(self, name: str) -> Subscription | None:
        with self._reading() as reader:
            return reader.subscription(name)

    def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> dict[str, int]:
        check_list_limit(limit)
        with self._reading() as reader:
            return reader.checkpoints(prefix, after, limit)

    def quick_reads(self) -> SqliteQuickReads:
        with self._readers_changed, driver_errors(self._path):  # none is open that is not known
            self._refuse_if_closed()
            quick = SqliteQuickReads(self._path, self._limits)
            self._quick_reads.append(quick)
            return quick

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        if expected is not None:
            check_saved_position(expected)
        with self._writing() as connection, transaction(connection):
            position: int | None = connection.execute(
                "DELETE FROM checkpoints WHERE name = ? RETURNING position", (encoded(name),)
            ).get
            if position is None:
                return False
            refuse_unexpected(position, expected)  # which undoes it
            return True

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
        written to the WAL. A store that is closed, or about to be, is not looked at: its WAL goes.
        """
        try:
            with driver_errors(self._path):
                if (
                    _identity(self._file) != self._identity
                    or _identity(self._wal) != self._wal_identity
                ):
                    raise StoreUnavailable(f"{self._path} is not the file that was opened any more")
        except StoreUnavailable:
            if not self._closed:
                raise

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
                with self._appended:
                    self._appended.notify_all()
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


class _Staged(msgspec.Struct, frozen=True):
    """What a transaction has stored, once it is committed."""

    plan: Plan
    recorded_ns: int
    segment: OpenSegment | None


def _row(block: Block, recorded_ns: int) -> tuple[int, int, int, bytes, bytes]:
    return block.last_position, block.first_position, recorded_ns, block.starts, block.events


def _completes_segment(head: int, later: int) -> bool:
    return head // SEGMENT_EVENTS != later // SEGMENT_EVENTS


def _has_condition(write: Write) -> bool:
    return (
        isinstance(write, Append)
        and write.expect is not None
        and write.expect.none_after is not None
    )
