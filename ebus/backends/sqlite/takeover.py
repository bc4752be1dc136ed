"""Taking over a file of the original server, in place and in one transaction.

Its files hold a row an event and a row a subscription. Positions, data and types are kept as
they are, time stamps as the same instant with the same offset, and the numbering goes on
where it would have gone on. Memory stays flat whatever the size of the file.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from ebus.backends.sqlite.blocks import Block, build_blocks
from ebus.backends.sqlite.schema import FileKind, identify, migrate, refuse_strayed_wal
from ebus.backends.sqlite.segments import index_blocks
from ebus.core.errors import StoreDamaged, StoreForeign
from ebus.core.event import is_timestamp
from ebus.core.limits import Limits

logger = logging.getLogger("ebus.sqlite")

PROGRESS_INTERVAL_S = 2.0


def take_over(connection: apsw.Connection, path: Path, limits: Limits) -> None:
    """Turn the original server's file into one of ours. Needs a transaction.

    Does nothing if another process was quicker. Raises `StoreDamaged` for a file that is
    damaged or that strayed from its WAL, `StoreForeign` for a row that cannot be served; the
    caller's transaction must then be rolled back.
    """
    if identify(connection, path) is not FileKind.ORIGINAL:
        return
    refuse_strayed_wal(path)
    _refuse_damage(connection, path)
    head, total = connection.execute(
        "SELECT coalesce((SELECT CAST(seq AS INTEGER) FROM sqlite_sequence "
        "WHERE name = 'events'), 0), "
        "(SELECT count(*) FROM events)"
    ).get
    logger.info("%s: taking over %d events of the original server", path.name, total)
    connection.execute("ALTER TABLE events RENAME TO original_events")
    _drop_indexes(connection)
    migrate(connection)
    taken = _copy_events(connection, path, limits, head, total)
    if taken != total:
        raise StoreDamaged(f"{path} is damaged: it lists {total} events but holds {taken}")
    index_blocks(connection)
    _copy_subscriptions(connection, path)
    connection.execute("DROP TABLE original_events")
    connection.execute("DROP TABLE IF EXISTS subscriptions")
    connection.execute("DROP TABLE IF EXISTS sqlite_stat1")
    logger.info("%s: took over all %d events", path.name, total)


def _refuse_damage(connection: apsw.Connection, path: Path) -> None:
    finding = connection.execute("PRAGMA quick_check(1)").get
    if finding != "ok":
        raise StoreDamaged(f"{path} is damaged: {finding}")


def _drop_indexes(connection: apsw.Connection) -> None:
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for (name,) in names:
        quoted = str(name).replace('"', '""')
        connection.execute(f'DROP INDEX "{quoted}"')


class _Run(msgspec.Struct):
    """Events of contiguous positions."""

    first_position: int
    events: Iterator[bytes]


def _copy_events(
    connection: apsw.Connection, path: Path, limits: Limits, head: int, total: int
) -> int:
    """Write blocks for the events and gaps for the positions between. Returns the events."""
    recorded_ns = time.time_ns()
    insert = (
        "INSERT INTO blocks (last_position, first_position, recorded_ns, starts, events) "
        "VALUES (?, ?, ?, ?, ?)"
    )

    def insert_gap(first: int, last: int) -> None:
        if first <= last:
            connection.execute(insert, (last, first, recorded_ns, b"", None))

    written = 0
    taken = 0
    report_at = time.monotonic() + PROGRESS_INTERVAL_S
    for block in _blocks(connection, path, limits):
        insert_gap(written + 1, block.first_position - 1)
        connection.execute(
            insert,
            (
                block.last_position,
                block.first_position,
                recorded_ns,
                block.starts,
                block.events,
            ),
        )
        written = block.last_position
        taken += block.count
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + PROGRESS_INTERVAL_S
            logger.info("%s: took over %d of %d events", path.name, taken, total)
    insert_gap(written + 1, head)
    return taken


def _blocks(connection: apsw.Connection, path: Path, limits: Limits) -> Iterator[Block]:
    for run in _runs(connection, path):
        yield from build_blocks(
            run.events,
            run.first_position,
            max_events=limits.max_block_events,
            max_bytes=limits.max_block_bytes,
        )


def _runs(connection: apsw.Connection, path: Path) -> Iterator[_Run]:
    """The events in runs without a gap. Each run must be used up before the next is asked for."""
    rows = connection.execute(
        "SELECT position, CAST(type AS BLOB), CAST(data AS BLOB), CAST(timestamp AS BLOB) "
        "FROM original_events ORDER BY position"
    )
    row = next(rows, None)

    def run() -> Iterator[bytes]:
        nonlocal row
        while row is not None:
            position = row[0]
            yield _wire(path, *row)
            row = next(rows, None)
            if row is None or row[0] != position + 1:
                return

    while row is not None:
        if row[0] < 1:
            raise StoreForeign(f"{path}: position {row[0]} is none that ebus can serve")
        yield _Run(row[0], run())


class _Stored(msgspec.Struct):
    position: int
    type: str
    data: msgspec.Raw
    timestamp: str


_parse_json = msgspec.json.Decoder(msgspec.Raw).decode


def _wire(
    path: Path, position: int, type: bytes | None, data: bytes | None, timestamp: bytes | None
) -> bytes:
    """One row as wire JSON. What the original accepted is kept, an empty type among it."""
    try:
        # No data at all is how the original stored an event that was sent without any.
        parsed = _parse_json(data) if data else msgspec.Raw(b"null")
        bytes(parsed).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unservable(path, position, f"data that is not JSON ({error})") from None
    stamp = rfc3339((timestamp or b"").decode(errors="replace"))
    if stamp is None:
        raise _unservable(path, position, f"a time stamp that cannot be read ({timestamp!r})")
    try:
        text = (type or b"").decode()
    except UnicodeDecodeError:
        raise _unservable(path, position, "a type that is not UTF-8") from None
    return msgspec.json.encode(_Stored(position, text, parsed, stamp))


def _unservable(path: Path, position: int, problem: str) -> StoreForeign:
    return StoreForeign(
        f"{path}: the event at position {position} has {problem}; "
        f"mend or delete that row of the table events"
    )


_GO_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)"
    r"(?:(Z)| ?([+-]\d\d):?(\d\d)(?: [A-Za-z0-9+-]+)?)(?: m=[+-][\d.]+)?",
    re.ASCII,
)


def rfc3339(timestamp: str) -> str | None:
    """A time stamp as the original's drivers wrote it, in RFC 3339; None when it is none.

    They wrote `2024-05-06 07:08:09.5+02:00`, or what Go prints for a time:
    `2024-05-06 07:08:09.5 +0200 CEST`, at times with a reading of the monotonic clock behind.
    """
    match = _GO_TIME.fullmatch(timestamp)
    if match is None:
        return None
    day, clock, _, hours, minutes = match.groups()
    offset = "Z" if hours is None or (hours[1:], minutes) == ("00", "00") else f"{hours}:{minutes}"
    stamp = f"{day}T{clock}{offset}"
    return stamp if is_timestamp(stamp) else None


def _copy_subscriptions(connection: apsw.Connection, path: Path) -> None:
    there = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'subscriptions'"
    ).get
    if not there:
        return
    for (name,) in connection.execute(
        "SELECT subscription_id FROM subscriptions WHERE typeof(subscription_id) <> 'text' "
        "OR typeof(position) <> 'integer'"
    ):
        raise StoreForeign(
            f"{path}: the subscription {name!r} has no name or no position that is a number; "
            f"mend or delete that row of the table subscriptions"
        )
    connection.execute(
        "INSERT INTO checkpoints (name, position) "
        "SELECT subscription_id, position FROM subscriptions"
    )
