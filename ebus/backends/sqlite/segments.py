"""Which types of events lie where: a row for each type and segment of 512 positions.

Only segments that are complete have rows, so that 511 of 512 commits of one event write none.
The one at the end, which is not, is looked through by whoever searches for a type.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw
import msgspec

from ebus.backends.sqlite.blocks import READ_BLOCKS, Block
from ebus.core.errors import StoreDamaged
from ebus.core.event import NewEvent

logger = logging.getLogger("ebus.sqlite")

SEGMENT_EVENTS = 512

PROGRESS_INTERVAL_S = 2.0

INSERT_TYPE_SEGMENT = "INSERT OR IGNORE INTO type_segments (type, segment) VALUES (?, ?)"

_BATCH_BLOCKS = 4


class _Typed(msgspec.Struct):
    type: str


_decode_types = msgspec.json.Decoder(list[_Typed]).decode


def segment_of(position: int) -> int:
    """The segment in which a position lies."""
    return (position - 1) // SEGMENT_EVENTS


def first_in(segment: int) -> int:
    """The first position of a segment."""
    return segment * SEGMENT_EVENTS + 1


class OpenSegment:
    """The types in the segment at the end, as far as it has come: up to `head`."""

    def __init__(self, head: int, types: Iterable[str] = ()) -> None:
        self.head = head
        self.types = set(types)

    @classmethod
    def read(cls, connection: apsw.Connection, head: int) -> OpenSegment:
        """What is stored of it, if the head is this."""
        first = first_in(head // SEGMENT_EVENTS)
        segment = cls(head)
        if first > head:
            return segment
        for begin, last, starts, events in connection.execute(READ_BLOCKS, (first,)):
            if events is not None:
                wire = Block(begin, last, starts, events).slice(max(begin, first), last)
                segment.types.update(types_of(wire))
        return segment

    def copy(self) -> OpenSegment:
        return OpenSegment(self.head, self.types)

    def add(self, events: Sequence[NewEvent]) -> None:
        """Add the next events, which must not complete it."""
        for event in events:
            self.types.add(event.type)
        self.head += len(events)

    def take(self, types: Sequence[str]) -> list[tuple[str, int]]:
        """Add the next events. Returns the rows of the segments that they complete."""
        rows: list[tuple[str, int]] = []
        taken = 0
        while taken < len(types):
            piece = types[taken : taken + SEGMENT_EVENTS - self.head % SEGMENT_EVENTS]
            self.types.update(piece)
            taken += len(piece)
            rows += self.skip(self.head + len(piece))
        return rows

    def skip(self, last: int) -> list[tuple[str, int]]:
        """Go on to this position. Returns the rows of the segment, if that completes it."""
        segment = self.head // SEGMENT_EVENTS
        self.head = last
        if last // SEGMENT_EVENTS == segment:
            return []
        rows = [(name, segment) for name in sorted(self.types)]
        self.types.clear()
        return rows


def types_of(events: bytes) -> list[str]:
    """The types of events with commas between them."""
    return [event.type for event in _decode_types(b"[%b]" % events)]


def index_blocks(connection: apsw.Connection) -> None:
    """Fill the index of a file that has none, and set clocks right that went back.

    Takes memory for a few blocks whatever the size of the file, and says how far it is. Where a
    gap lies nothing was recorded: it is given the time of the events before it, since a trim of
    old wrote the time when it happened. Needs a transaction. Raises `StoreDamaged`.
    """
    name = Path(connection.filename).name
    head: int = connection.execute("SELECT coalesce(max(last_position), 0) FROM blocks").get
    report_at = time.monotonic() + PROGRESS_INTERVAL_S
    segment = OpenSegment(0)
    recorded_ns = 0
    while segment.head < head:
        rows: list[tuple[str, int]] = []
        lifted: list[tuple[int, int]] = []
        batch: list[Any] = connection.execute(
            "SELECT last_position, recorded_ns, events FROM blocks "
            "WHERE last_position > ? ORDER BY last_position LIMIT ?",
            (segment.head, _BATCH_BLOCKS),
        ).fetchall()
        for last, recorded, events in batch:
            if events is not None:
                recorded_ns = max(recorded_ns, recorded)
                try:
                    rows += segment.take(types_of(events))
                except msgspec.MsgspecError as error:
                    raise StoreDamaged(
                        f"{name} is damaged: events up to {last} cannot be read: {error}"
                    ) from None
            if recorded != recorded_ns:
                lifted.append((recorded_ns, last))
            if segment.head != last:
                rows += segment.skip(last)
        connection.executemany(INSERT_TYPE_SEGMENT, rows)
        connection.executemany("UPDATE blocks SET recorded_ns = ? WHERE last_position = ?", lifted)
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + PROGRESS_INTERVAL_S
            logger.info("%s: indexed %d of %d events", name, segment.head, head)
