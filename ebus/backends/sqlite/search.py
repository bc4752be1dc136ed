"""Reading by a filter, by time, and backwards.

An index says where there may be something, in the order of positions; every event there is looked
at before it is taken, so an index may say too much but never too little. A page looks at a bounded
number of events and bytes. Whoever calls holds a transaction, so that all statements see the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from typing import Any

import apsw
import msgspec

from ebus.backends.sqlite.blocks import READ_BLOCKS, Block
from ebus.backends.sqlite.segments import SEGMENT_EVENTS, first_in, segment_of
from ebus.core.filter import Filter
from ebus.core.limits import (
    MAX_LOOKED_AT_BYTES,
    MAX_LOOKED_AT_EVENTS,
    MAX_MERGED_STREAMS,
    MAX_POSITION,
)
from ebus.core.store import ReadBounds, WirePage

_FIRST_BATCH_ROWS = 16
_BATCH_ROWS = 1_024
"""Small at first: of many that are merged, a page may take but a few each."""

_BLOCKS_BACKWARDS = """
    SELECT first_position, last_position, starts, events
    FROM blocks WHERE last_position <= (SELECT min(last_position) FROM blocks
                                        WHERE last_position >= ?)
    ORDER BY last_position DESC
"""
_RECORDED_AT = """
    SELECT first_position, last_position, recorded_ns
    FROM blocks WHERE last_position >= ? ORDER BY last_position LIMIT 1
"""
_VERSIONS = """
    SELECT (SELECT min(version) FROM stream_events WHERE stream = ?1),
           (SELECT max(version) FROM stream_events WHERE stream = ?1)
"""
_POSITION = "SELECT position FROM stream_events WHERE stream = ? AND version = ?"
_POSITIONS = """
    SELECT position FROM stream_events WHERE stream = ? AND version BETWEEN ? AND ?
    ORDER BY version
"""
_STREAMS = """
    SELECT stream FROM streams WHERE name >= ? AND name < ? ORDER BY name LIMIT ?
"""
_SEGMENTS = """
    SELECT segment FROM type_segments WHERE type = ? AND segment BETWEEN ? AND ?
    ORDER BY segment
"""


class Seen(msgspec.Struct):
    """What a filter looks at."""

    type: str
    stream: str | None = None
    version: int | None = None


_decode_seen = msgspec.json.Decoder(list[Seen]).decode


def decode_seen(events: bytes) -> list[Seen]:
    """Of events with commas between them."""
    return _decode_seen(b"[%b]" % events)


@contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """All statements in it see the same state. It has ended when the block has."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def within_time(
    connection: apsw.Connection, bounds: ReadBounds, wanted: Filter, head: int
) -> ReadBounds:
    """The bounds, narrowed to the positions that were recorded when the filter says."""
    start, stop = bounds.start, min(bounds.stop, head)
    since_ns, until_ns = wanted.since_ns, wanted.until_ns
    if since_ns is not None:
        start = max(start, _first_recorded(connection, since_ns, head))
    if until_ns is not None:
        stop = min(stop, _first_recorded(connection, until_ns, head) - 1)
    return ReadBounds(start, stop, bounds.limit, bounds.max_bytes)


def _first_recorded(connection: apsw.Connection, at_ns: int, head: int) -> int:
    """The first position that was recorded then or later; the one after the head if none was."""
    least, most = 1, head + 1
    while least < most:
        first, last, recorded_ns = connection.execute(_RECORDED_AT, ((least + most) // 2,)).get
        if recorded_ns >= at_ns:
            most = first
        else:
            least = last + 1
    return least


def search(
    connection: apsw.Connection,
    bounds: ReadBounds,
    wanted: Filter | None,
    *,
    head: int,
    backwards: bool,
) -> WirePage:
    """The page of these bounds. What a filter says of time must be in the bounds already."""
    if wanted is not None and not wanted.looks_at_events:
        wanted = None
    chunks: list[bytes] = []
    size = first_position = looked_at = looked_at_bytes = 0
    known: Block | None = None
    found = candidates(
        connection, wanted, bounds.start, min(bounds.stop, head), head=head, backwards=backwards
    )
    with closing(found):
        for block, first, last in found:
            positions = range(last, first - 1, -1) if backwards else range(first, last + 1)
            if block is not known:
                if looked_at_bytes >= MAX_LOOKED_AT_BYTES:
                    return WirePage(chunks, len(chunks), first_position, positions[0])
                known = block
                looked_at_bytes += len(block.events) if wanted is not None else 0
            seen = None if wanted is None else decode_seen(block.slice(first, last))
            for position in positions:
                if (
                    len(chunks) == bounds.limit
                    or size >= bounds.max_bytes
                    or looked_at >= MAX_LOOKED_AT_EVENTS
                ):
                    return WirePage(chunks, len(chunks), first_position, position)
                if wanted is not None and seen is not None:
                    looked_at += 1
                    event = seen[position - first]
                    if not wanted.matches(event, event.version):
                        continue
                chunk = block.slice(position, position)
                chunks.append(chunk)
                size += len(chunk)
                first_position = first_position or position
    return WirePage(chunks, len(chunks), first_position, None)


def candidates(
    connection: apsw.Connection,
    wanted: Filter | None,
    first: int,
    last: int,
    *,
    head: int,
    backwards: bool,
) -> Generator[tuple[Block, int, int]]:
    """Blocks, and from where to where in them an event may match, within these positions.

    To be closed by whoever does not use it up.
    """
    if first > last:
        return
    positions = None if wanted is None else _positions(connection, wanted, first, last, backwards)
    if positions is not None:
        yield from _at(connection, positions)
    elif wanted is not None and wanted.types:
        for begin, end in _runs(_segments(connection, wanted.types, first, last, head, backwards)):
            yield from _between(connection, max(begin, first), min(end, last), backwards)
    else:
        yield from _between(connection, first, last, backwards)


def block_at(connection: apsw.Connection, position: int) -> Block | None:
    """The block of a position; None where there is a gap."""
    with closing(connection.execute(READ_BLOCKS, (position,))) as rows:
        for first, last, starts, events in rows:
            if events is not None and first <= position:
                return Block(first, last, starts, events)
            break
    return None


def prefix_end(prefix: str) -> str | bytes:
    """The least text behind all that begin with the prefix; without one a BLOB, behind any text.

    So that the end is one bound, which an index can be searched by.
    """
    for at in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[at])
        if code < 0x10FFFF:
            return prefix[:at] + chr(0xE000 if code == 0xD7FF else code + 1)
    return b""


def _between(
    connection: apsw.Connection, first: int, last: int, backwards: bool
) -> Generator[tuple[Block, int, int]]:
    statement, begin = (_BLOCKS_BACKWARDS, last) if backwards else (READ_BLOCKS, first)
    with closing(connection.execute(statement, (begin,))) as rows:
        for block_first, block_last, starts, events in rows:
            if block_first > last or block_last < first:
                return
            if events is not None:
                block = Block(block_first, block_last, starts, events)
                yield block, max(block_first, first), min(block_last, last)


def _at(connection: apsw.Connection, positions: Iterable[int]) -> Generator[tuple[Block, int, int]]:
    block: Block | None = None
    for position in positions:
        if block is None or not block.first_position <= position <= block.last_position:
            block = block_at(connection, position)
        if block is not None:
            yield block, position, position


def _positions(
    connection: apsw.Connection, wanted: Filter, first: int, last: int, backwards: bool
) -> Iterable[int] | None:
    """Where the events of the streams are, in order; None when there are too many streams."""
    prefix = wanted.stream_prefix
    if wanted.stream is not None:
        if not wanted.stream.startswith(prefix or ""):
            return ()
        numbers: list[Any] = connection.execute(
            "SELECT stream FROM streams WHERE name = ?", (wanted.stream,)
        ).fetchall()
    elif prefix is not None:
        numbers = connection.execute(
            _STREAMS, (prefix, prefix_end(prefix), MAX_MERGED_STREAMS + 1)
        ).fetchall()
        if len(numbers) > MAX_MERGED_STREAMS:
            return None
    else:
        return None
    from_version = wanted.from_version or 0
    to_version = MAX_POSITION if wanted.to_version is None else wanted.to_version
    each = [
        _stream_positions(connection, number, from_version, to_version, first, last, backwards)
        for (number,) in numbers
    ]
    return each[0] if len(each) == 1 else heapq.merge(*each, reverse=backwards)


def _stream_positions(
    connection: apsw.Connection,
    stream: int,
    from_version: int,
    to_version: int,
    first: int,
    last: int,
    backwards: bool,
) -> Iterator[int]:
    """Where events of one stream are. The versions that are left of it have no holes."""
    oldest, newest = connection.execute(_VERSIONS, (stream,)).get
    if oldest is None:
        return
    least = max(from_version, _first_version(connection, stream, oldest, newest, first))
    most = min(to_version, _first_version(connection, stream, oldest, newest, last + 1) - 1)
    # In batches, so that no statement stays open: who merges cannot close what it merges.
    statement = f"{_POSITIONS} {'DESC' if backwards else ''} LIMIT ?"
    batch = _FIRST_BATCH_ROWS
    while least <= most:
        rows: list[Any] = connection.execute(statement, (stream, least, most, batch)).fetchall()
        yield from (position for (position,) in rows)
        if backwards:
            most -= batch
        else:
            least += batch
        batch = min(_BATCH_ROWS, batch * 4)


def _first_version(
    connection: apsw.Connection, stream: int, oldest: int, newest: int, position: int
) -> int:
    """The first version at this position or beyond: positions grow with versions."""
    least, most = oldest, newest + 1
    while least < most:
        middle = (least + most) // 2
        if connection.execute(_POSITION, (stream, middle)).get >= position:
            most = middle
        else:
            least = middle + 1
    return least


def _segments(
    connection: apsw.Connection,
    types: tuple[str, ...],
    first: int,
    last: int,
    head: int,
    backwards: bool,
) -> Iterator[int]:
    """Segments where there are events of these types; of the unfinished one nobody knows."""
    unfinished = head // SEGMENT_EVENTS
    least, most = segment_of(first), segment_of(last)
    if backwards and most == unfinished:
        yield unfinished
    each = [
        _type_segments(connection, name, least, min(most, unfinished - 1), backwards)
        for name in set(types)
    ]
    for segment, _ in groupby(heapq.merge(*each, reverse=backwards)):
        yield segment
    if not backwards and most == unfinished:
        yield unfinished


def _type_segments(
    connection: apsw.Connection, name: str, least: int, most: int, backwards: bool
) -> Iterator[int]:
    statement = f"{_SEGMENTS} {'DESC' if backwards else ''} LIMIT ?"
    batch = _FIRST_BATCH_ROWS
    while least <= most:
        rows: list[Any] = connection.execute(statement, (name, least, most, batch)).fetchall()
        yield from (segment for (segment,) in rows)
        if len(rows) < batch:
            return
        batch = min(_BATCH_ROWS, batch * 4)
        if backwards:
            most = rows[-1][0] - 1
        else:
            least = rows[-1][0] + 1


def _runs(segments: Iterable[int]) -> Iterator[tuple[int, int]]:
    """From which position to which one segments lie that follow upon each other, in any order.

    A run ends after a few, for the next segment is asked for before it is looked at.
    """
    run: list[int] = []
    for segment in segments:
        if run and (len(run) == _MAX_RUN or abs(segment - run[-1]) != 1):
            yield first_in(min(run)), first_in(max(run) + 1) - 1
            run = []
        run.append(segment)
    if run:
        yield first_in(min(run)), first_in(max(run) + 1) - 1


_MAX_RUN = 16
