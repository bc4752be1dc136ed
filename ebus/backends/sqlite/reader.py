"""Reading one tenant's file over one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from ebus.backends.sqlite.blocks import READ_BLOCKS, Block
from ebus.backends.sqlite.connection import connect_for_reading, driver_errors
from ebus.backends.sqlite.index import STREAM_VERSION, SUBSCRIPTION, subscription_of
from ebus.backends.sqlite.search import prefix_end, search, snapshot, within_time
from ebus.core.consumers import Subscription
from ebus.core.errors import StoreBusy, StoreClosed
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import QuickReads, ReadBounds, StreamInfo, WirePage, check_range

T = TypeVar("T")

HEAD = "SELECT coalesce(max(last_position), 0) FROM blocks"
COUNT = f"""
    SELECT ({HEAD})
         - (SELECT coalesce(sum(last_position - first_position + 1), 0)
            FROM blocks WHERE events IS NULL)
"""  # noqa: S608 - of constants only
STORED_BYTES = """
    SELECT (page_count - freelist_count) * page_size
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
HAS_CHECKPOINT = "SELECT EXISTS (SELECT 1 FROM checkpoints WHERE name = ?)"
_POSITIONS = "SELECT id, position FROM ids WHERE id IN (SELECT value FROM json_each(?))"
_STREAMS = """
    SELECT name, version FROM streams WHERE name >= ? AND name < ? ORDER BY name LIMIT ?
"""
_CHECKPOINTS = """
    SELECT name, position FROM checkpoints WHERE name >= ? AND name < ? ORDER BY name LIMIT ?
"""
_NO_LIMIT = -1


class Reader:
    """A connection that reads, for one thread at a time. Raises the driver's errors.

    Every method is a read transaction of its own, which has ended when it returns.
    """

    def __init__(self, path: Path, limits: Limits, *, busy_timeout_ms: int) -> None:
        self._limits = limits
        self._connection = connect_for_reading(path, busy_timeout_ms=busy_timeout_ms)

    def head(self) -> int:
        head: int = self._connection.execute(HEAD).get
        return head

    def count(self) -> int:
        count: int = self._connection.execute(COUNT).get
        return count

    def stored_bytes(self) -> int:
        stored_bytes: int = self._connection.execute(STORED_BYTES).get
        return stored_bytes

    def checkpoint(self, name: str) -> int | None:
        position: int | None = self._connection.execute(
            "SELECT position FROM checkpoints WHERE name = ?", (encoded(name),)
        ).get
        return position

    def checkpoints(self, prefix: str, after: str, limit: int | None) -> dict[str, int]:
        if encoded(prefix) is None:
            return {}  # no name begins with what cannot be stored
        most = _NO_LIMIT if limit is None else limit
        values = (_first_behind(prefix, after), prefix_end(prefix), most)
        return dict(self._connection.execute(_CHECKPOINTS, values))

    def subscription(self, name: str) -> Subscription | None:
        return subscription_of(self._connection.execute(SUBSCRIPTION, (encoded(name),)).get)

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        names = msgspec.json.encode([name for name in ids if encoded(name) is not None]).decode()
        return dict(self._connection.execute(_POSITIONS, (names,)))

    def stream_version(self, stream: str) -> int:
        version: int = self._connection.execute(STREAM_VERSION, (encoded(stream),)).get
        return version

    def streams(self, prefix: str, after: str, limit: int) -> list[StreamInfo]:
        if encoded(prefix) is None:
            return []  # no name begins with what cannot be stored
        values = (_first_behind(prefix, after), prefix_end(prefix), limit)
        return [StreamInfo(name, v) for name, v in self._connection.execute(_STREAMS, values)]

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
        bounds = check_range(start, stop, limit, max_bytes, self._limits, filter)
        if filter is None and not backwards:
            return self._read_on(bounds)
        with snapshot(self._connection):
            head = self.head()
            if filter is not None:
                bounds = within_time(self._connection, bounds, filter, head)
            if not backwards and filter is not None and not filter.looks_at_events:
                return self._read_on(bounds)
            return search(self._connection, bounds, filter, head=head, backwards=backwards)

    def _read_on(self, bounds: ReadBounds) -> WirePage:
        rows = self._connection.execute(READ_BLOCKS, (bounds.start,))
        try:
            return _fill_page(rows, bounds)
        finally:
            rows.close()  # ends the read transaction; a scan that stopped early holds it

    def close(self) -> None:
        self._connection.close()


class SqliteQuickReads(QuickReads):
    """Reads over a connection of its own, which waits for nobody."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._reader: Reader | None = self._connect()
        self._lock = threading.Lock()  # so that nobody closes it while it reads
        self._closed = False

    def _connect(self) -> Reader:
        return Reader(self._path, self._limits, busy_timeout_ms=0)

    def head(self) -> int:
        return self._read(Reader.head)

    def checkpoint(self, name: str) -> int | None:
        return self._read(lambda reader: reader.checkpoint(name))

    def subscription(self, name: str) -> Subscription | None:
        return self._read(lambda reader: reader.subscription(name))

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
        return self._read(
            lambda reader: reader.read_wire(
                start,
                stop,
                limit=limit,
                max_bytes=max_bytes,
                filter=filter,
                backwards=backwards,
            )
        )

    def _read(self, read: Callable[[Reader], T]) -> T:
        if not self._lock.acquire(blocking=False):
            raise StoreBusy(f"{self._path} is closed for a moment")
        try:
            with driver_errors(self._path):
                if self._closed:
                    raise StoreClosed(f"{self._path} is closed")
                if self._reader is None:
                    self._reader = self._connect()
                return read(self._reader)
        finally:
            self._lock.release()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The connection is closed; the next read after that opens another."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            yield

    def close(self) -> None:
        with self.paused():
            self._closed = True


def encoded(name: str) -> str | None:
    """A name to look for; None, which is equal to nothing, for text that cannot be stored."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    return name


def _first_behind(prefix: str, after: str) -> str:
    """The least text that begins with a prefix or is behind it, and is behind `after`."""
    return max(prefix, _comparable(after) + "\0") if after else prefix


def _comparable(text: str) -> str:
    """A text that can be stored, with the same names behind it: those hold no lone surrogates."""
    for at, character in enumerate(text):
        if 0xD800 <= ord(character) <= 0xDFFF:
            return text[:at] + "\ud7ff" + "\U0010ffff" * 256
    return text


def _fill_page(
    rows: Iterator[tuple[int, int, bytes, bytes | None]], bounds: ReadBounds
) -> WirePage:
    """Take whole blocks while they fit, and cut the ones at the two ends."""
    chunks: list[bytes] = []
    count = size = first_position = 0
    for first, last, starts, events in rows:
        begin = max(first, bounds.start)
        if begin > bounds.stop:
            break
        if events is None:
            continue
        if count == bounds.limit or size >= bounds.max_bytes:
            return WirePage(chunks, count, first_position, begin)
        block = Block(first, last, starts, events)
        end = min(last, bounds.stop, begin + bounds.limit - count - 1)
        if size + block.size(begin, end) > bounds.max_bytes:
            room = bounds.max_bytes - size
            end = next(at for at in range(begin, end + 1) if block.size(begin, at) >= room)
        chunks.append(block.slice(begin, end))
        count += end - begin + 1
        size += block.size(begin, end)
        first_position = first_position or begin
        if end < min(last, bounds.stop):
            return WirePage(chunks, count, first_position, end + 1)
    return WirePage(chunks, count, first_position, None)
