"""Looking through a file: whether SQLite finds it whole, and whether events are numbered rightly.

What is looked at is one state: whoever calls holds a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any

import apsw
import msgspec

from ebus.backends.sqlite.index import subscription_of
from ebus.backends.sqlite.reader import COUNT, HEAD
from ebus.backends.sqlite.schema import FileKind, identify
from ebus.backends.sqlite.segments import SEGMENT_EVENTS, segment_of
from ebus.core.backup import Progress, Snapshot, Verification, no_progress
from ebus.core.errors import StoreRefused

MAX_PROBLEMS = 20
"""Of one file that are told."""

_ORIGINAL_HEAD = """
    SELECT max(coalesce((SELECT max(position) FROM events), 0), coalesce((
        SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = 'events'
    ), 0))
"""
_BLOCKS = (
    "SELECT first_position, last_position, {}, starts, events FROM blocks ORDER BY last_position"
)
_SAME_ID = "SELECT position FROM ids WHERE id = ?"
_SAME_PLACE = """
    SELECT position FROM stream_events
    WHERE stream = (SELECT stream FROM streams WHERE name = ?) AND version = ?
"""
_HAS_SEGMENT = "SELECT 1 FROM type_segments WHERE type = ? AND segment = ?"
_UNFINISHED_SEGMENTS = "SELECT count(*) FROM type_segments WHERE segment < 0 OR segment >= ?"
_BROKEN_STREAMS = """
    SELECT name FROM streams JOIN (
        SELECT stream, min(version) AS oldest, max(version) AS newest, count(*) AS count
        FROM stream_events GROUP BY stream
    ) USING (stream)
    WHERE newest - oldest + 1 <> count OR newest <> version OR oldest < 1
"""
_NAMELESS_STREAMS = (
    "SELECT count(*) FROM stream_events WHERE stream NOT IN (SELECT stream FROM streams)"
)


class _Stored(msgspec.Struct):
    position: int
    type: str
    id: str | None = None
    stream: str | None = None
    version: int | None = None


_decode_stored = msgspec.json.Decoder(list[_Stored]).decode
_decode_pieces = msgspec.json.Decoder(list[msgspec.Raw]).decode


def take_snapshot(connection: apsw.Connection, kind: FileKind) -> Snapshot:
    """What a file of ours or of the original server holds."""
    if kind is FileKind.ORIGINAL:
        head = connection.execute(_ORIGINAL_HEAD).get
        events = connection.execute("SELECT count(*) FROM events").get
        checkpoints = _original_checkpoints(connection)
    else:
        head, events = connection.execute(HEAD).get, connection.execute(COUNT).get
        rows: list[Any] = connection.execute(
            "SELECT name, position FROM checkpoints ORDER BY name"
        ).fetchall()
        checkpoints = dict(rows)
    return Snapshot(position=head, events=events, checkpoints=checkpoints)


def _original_checkpoints(connection: apsw.Connection) -> dict[str, int]:
    there = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'subscriptions'").get
    if not there:
        return {}
    rows: list[Any] = connection.execute(
        "SELECT CAST(subscription_id AS TEXT), CAST(position AS INTEGER) FROM subscriptions "
        "ORDER BY subscription_id"
    ).fetchall()
    return dict(rows)


def examine(
    connection: apsw.Connection,
    path: Path,
    *,
    is_thorough: bool = True,
    progress: Progress = no_progress,
) -> Verification:
    """Look through a file. What is not thorough leaves out to compare indexes with events."""
    problems: list[str] = []
    notes: list[str] = []
    snapshot = None
    try:
        pragma = "integrity_check" if is_thorough else "quick_check"
        with closing(connection.execute(f"PRAGMA {pragma}({MAX_PROBLEMS})")) as rows:
            problems += [str(finding) for (finding,) in rows if finding != "ok"]
        kind = identify(connection, path)
        if kind is FileKind.ABSENT:
            return Verification(None, [*problems, "it holds no tables"])
        snapshot = take_snapshot(connection, kind)
        if kind is FileKind.ORIGINAL:
            notes.append("it is a file of the original server")
            progress(path.stat().st_size)
        else:
            if kind is FileKind.OUTDATED:
                notes.append("an older ebus wrote it")
            examined = _Examined(connection, kind, is_thorough=is_thorough)
            for problem in examined.look_through(progress):
                problems.append(problem)
                if len(problems) >= MAX_PROBLEMS:
                    break
        notes += [
            f"the checkpoint {name!r} is at {position}, beyond the head"
            for name, position in snapshot.checkpoints.items()
            if position > snapshot.position
        ]
    except StoreRefused as error:
        problems.append(str(error))
    except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError) as error:
        problems.append(f"it cannot be read: {error}")
    return Verification(snapshot, problems, notes)


class _Examined:
    """A file of ours that is gone through from the first block to the last."""

    def __init__(self, connection: apsw.Connection, kind: FileKind, *, is_thorough: bool) -> None:
        self._connection = connection
        self._is_newest = kind is FileKind.OURS
        self._is_thorough = is_thorough
        self._head = 0
        self._recorded_ns = 0
        self._ids = self._placed = 0
        self._types: set[tuple[str, int]] = set()

    def look_through(self, progress: Progress) -> Iterator[str]:
        recorded = "recorded_ns" if self._is_newest else "recorded_at_ns"
        with closing(self._connection.execute(_BLOCKS.format(recorded))) as rows:
            for first, last, recorded_ns, starts, events in rows:
                yield from self._look_at(first, last, recorded_ns, starts, events)
                progress(len(events or b"") + len(starts))
        if self._is_newest:
            yield from self._look_at_names()
            yield from self._look_at_subscriptions()

    def _look_at(
        self, first: int, last: int, recorded_ns: int, starts: bytes, events: bytes | None
    ) -> Iterator[str]:
        if first != self._head + 1:
            yield f"after position {self._head} comes {first}"
        if self._is_newest and recorded_ns < self._recorded_ns:
            yield f"the time of recording goes back at position {first}"
        self._head, self._recorded_ns = last, recorded_ns
        if events is None:
            return
        where = f"the block of the positions {first} to {last}"
        if len(starts) != 4 * (last - first):
            yield f"{where} does not say where its events begin"
            return
        if not self._is_thorough:
            return
        try:
            stored = _decode_stored(b"[%b]" % events)
            pieces = _decode_pieces(b"[%b]" % events)
        except msgspec.MsgspecError as error:
            yield f"{where} cannot be read: {error}"
            return
        if [event.position for event in stored] != list(range(first, last + 1)):
            yield f"{where} holds events of other positions"
            return
        begins = accumulate(len(bytes(piece)) + 1 for piece in pieces[:-1])
        if b"".join(begin.to_bytes(4, "little") for begin in begins) != starts:
            yield f"{where} says wrongly where its events begin"
        if self._is_newest:
            yield from self._look_up(stored)

    def _look_up(self, stored: list[_Stored]) -> Iterator[str]:
        """Whether the indexes know these events."""
        for event in stored:
            if event.id is not None:
                self._ids += 1
                if self._connection.execute(_SAME_ID, (event.id,)).get != event.position:
                    yield f"the id of the event at {event.position} is not that of this position"
            if event.stream is not None:
                self._placed += 1
                found = self._connection.execute(_SAME_PLACE, (event.stream, event.version)).get
                if found != event.position:
                    yield f"the event at {event.position} is not where its stream says"
            self._types.add((event.type, segment_of(event.position)))
        finished = self._head // SEGMENT_EVENTS
        for of_type, segment in sorted(it for it in self._types if it[1] < finished):
            self._types.remove((of_type, segment))
            if self._connection.execute(_HAS_SEGMENT, (of_type, segment)).get is None:
                yield f"the type {of_type!r} is not known to be in segment {segment}"

    def _look_at_names(self) -> Iterator[str]:
        if not self._is_thorough:
            return
        get = self._connection.execute
        ids: int = get("SELECT count(*) FROM ids").get
        if ids != self._ids:
            yield f"there are {ids} ids, of {self._ids} events"
        placed: int = get("SELECT count(*) FROM stream_events").get
        if placed != self._placed:
            yield f"streams have {placed} events, of {self._placed}"
        for (name,) in get(_BROKEN_STREAMS).fetchall():
            yield f"the versions of the stream {name!r} are not contiguous up to the last"
        if get(_NAMELESS_STREAMS).get:
            yield "there are events of streams without a name"
        if get(_UNFINISHED_SEGMENTS, (self._head // SEGMENT_EVENTS,)).get:
            yield "there are types of segments that are not complete"

    def _look_at_subscriptions(self) -> Iterator[str]:
        rows: list[Any] = self._connection.execute(
            "SELECT name, position, consumers FROM checkpoints"
        ).fetchall()
        for name, position, consumers in rows:
            try:
                subscription_of((position, consumers))
            except msgspec.MsgspecError as error:
                yield f"the consumers of {name!r} cannot be read: {error}"
            if position < 0:
                yield f"the checkpoint {name!r} is at {position}"
