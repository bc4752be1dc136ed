"""What a tenant's file holds, as an index in memory: all that `plan_writes` and readers ask for."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter

import msgspec

from ebus.core.consumers import Subscription
from ebus.core.errors import StoreDamaged
from ebus.core.event import Event, decode_event
from ebus.core.filter import Filter
from ebus.core.plan import Index
from ebus.core.store import NoneAfter
from ebus_jsonl.file import Frame, TenantFile
from ebus_jsonl.lines import event_of, saved_of


class Entry(msgspec.Struct, frozen=True, gc=False):
    """Where an event is in the file, and what a filter asks of it."""

    offset: int
    size: int
    recorded_ns: int
    type: str
    stream: str | None
    version: int | None


class _Named(msgspec.Struct):
    """As much of an event as the index needs. Its data is passed over."""

    type: str
    id: str | None = None
    stream: str | None = None
    version: int | None = None


_recorded_ns = attrgetter("recorded_ns")
_decode_named = msgspec.json.Decoder(_Named).decode


class Log(Index):
    """The events and subscriptions of one file. Positions are places in `entries`, from 1."""

    def __init__(self, file: TenantFile) -> None:
        self._file = file
        self.entries: list[Entry] = []
        self.ids: dict[str, int] = {}
        self.streams: dict[str, int] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.recorded_ns = 0
        """Of the last commit."""

    @property
    def head(self) -> int:
        return len(self.entries)

    def take(self, frame: Frame) -> None:
        """Go through a commit: of an open file the new one, of one that is being opened each."""
        offset = frame.offset
        self.recorded_ns = frame.recorded_ns
        for line in frame.lines:
            saved = saved_of(line)
            if saved is None:
                self._take_event(line, offset)
            elif saved.state is None:
                self.subscriptions.pop(saved.subscription, None)
            else:
                self.subscriptions[saved.subscription] = saved.state
            offset += len(line)

    def _take_event(self, line: bytes, offset: int) -> None:
        it = _decode_named(event_of(line))
        entry = Entry(offset, len(line), self.recorded_ns, it.type, it.stream, it.version)
        self.entries.append(entry)
        if it.id is not None:
            self.ids[it.id] = self.head
        if it.stream is not None and it.version is not None:
            self.streams[it.stream] = it.version

    def wire(self, position: int) -> bytes:
        """The event at a position as it goes over the wire."""
        entry = self.entries[position - 1]
        wire = event_of(self._file.read(entry.offset, entry.size))
        if not wire.startswith(b'{"position":%d,' % position):
            raise StoreDamaged(f"{self._file.path} has changed at byte {entry.offset}")
        return wire

    def recorded(self, wanted: Filter | None, positions: range) -> range:
        """Those of the positions that were recorded at the times which a filter wants."""
        if wanted is None:
            return positions
        start, stop = positions.start, positions.stop
        since_ns, until_ns = wanted.since_ns, wanted.until_ns
        if since_ns is not None:
            start = max(start, 1 + bisect_left(self.entries, since_ns, key=_recorded_ns))
        if until_ns is not None:
            stop = min(stop, 1 + bisect_left(self.entries, until_ns, key=_recorded_ns))
        return range(start, stop)

    def matches(self, wanted: Filter, position: int) -> bool:
        """Whether the event at a position is one that is wanted, whenever it was recorded."""
        entry = self.entries[position - 1]
        return wanted.matches(entry, entry.version)

    # The Index of `plan_writes`

    def position_of(self, id: str) -> int | None:
        return self.ids.get(id)

    def event_at(self, position: int) -> Event:
        return decode_event(self.wire(position))

    def stream_version(self, stream: str) -> int:
        return self.streams.get(stream, 0)

    def any_match(self, condition: NoneAfter) -> int | None:
        for position in range(condition.position + 1, self.head + 1):
            if any(self.matches(wanted, position) for wanted in condition.filters):
                return position
        return None

    def subscription(self, name: str) -> Subscription | None:
        return self.subscriptions.get(name)
