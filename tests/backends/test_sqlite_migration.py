"""Files of version 1, and those of the original server, get what version 2 knows of events."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine, engine, schema
from ebus.backends.sqlite.schema import APPLICATION_ID, FileKind, inspect_file
from ebus.core.consumers import Subscription
from ebus.core.errors import StoreDamaged
from ebus.core.filter import Filter
from ebus.core.store import StreamInfo

COMPAT = Path(__file__).parents[3] / "shared" / "compat"

VERSION_1 = """
    CREATE TABLE blocks (
        last_position   INTEGER PRIMARY KEY,
        first_position  INTEGER NOT NULL CHECK (first_position BETWEEN 1 AND last_position),
        recorded_at_ns  INTEGER NOT NULL,
        starts          BLOB NOT NULL,
        events          BLOB
    ) STRICT;

    CREATE INDEX gaps ON blocks (last_position, first_position) WHERE events IS NULL;

    CREATE TABLE checkpoints (
        name      TEXT PRIMARY KEY,
        position  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE VIEW events AS
    SELECT event.value ->> '$.position'  AS position,
           event.value ->> '$.type'      AS type,
           event.value -> '$.data'       AS data,
           event.value ->> '$.timestamp' AS timestamp
    FROM blocks, json_each('[' || CAST(blocks.events AS TEXT) || ']') AS event
    WHERE blocks.events IS NOT NULL;
"""

SECOND = 1_000_000_000
HEAD = 1_500
TRIMMED = 40


def kind(position: int) -> str:
    return "Rare" if position in (41, 700, 1_024, 1_450) else f"Type{position % 3}"


def wire(position: int) -> bytes:
    data = json.dumps({"n": position, "text": 'né "x"'}).encode()
    return b'{"position":%d,"type":"%b","data":%b,"timestamp":"2024-01-01T00:00:00Z"}' % (
        position,
        kind(position).encode(),
        data,
    )


def write_version_1(path: Path) -> list[bytes]:
    """A file whose first events were trimmed, late, and whose clock went back once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    connection.executescript(VERSION_1)
    insert = "INSERT INTO blocks VALUES (?, ?, ?, ?, ?)"
    connection.execute(insert, (TRIMMED, 1, 9_000 * SECOND, b"", None))
    events: list[bytes] = []
    position = TRIMMED + 1
    size = 1
    while position <= HEAD:
        last = min(HEAD, position + size - 1)
        block = [wire(at) for at in range(position, last + 1)]
        if 900 <= position < 1_000:
            connection.execute(insert, (last, position, 0, b"", None))
        else:
            starts, at = [], 0
            for event in block[:-1]:
                at += len(event) + 1
                starts.append(at)
            clock = position if position < 1_200 else position - 500
            connection.execute(
                insert,
                (
                    last,
                    position,
                    clock * SECOND,
                    struct.pack(f"<{len(starts)}I", *starts),
                    b",".join(block),
                ),
            )
            events += block
        position = last + 1
        size = size % 128 + 7
    connection.execute("INSERT INTO checkpoints VALUES ('mailer', 77)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    return events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


def query(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_what_was_stored_is_read_as_it_was(path: Path) -> None:
    events = write_version_1(path)
    assert inspect_file(path) is FileKind.OUTDATED
    with SqliteEngine(path.parent) as opened:
        store = opened.open("alice")
        assert b",".join(store.read_wire(1).chunks) == b",".join(events)
        assert (store.head(), store.count()) == (HEAD, len(events))
        assert store.subscription("mailer") == Subscription(position=77)
        assert store.checkpoints() == {"mailer": 77}
    assert inspect_file(path) is FileKind.OURS


def test_the_log_tells_of_a_migration_before_and_after(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_version_1(path)
    size = path.stat().st_size
    caplog.set_level("INFO", logger="ebus.sqlite")
    for _ in range(2):
        with SqliteEngine(path.parent) as opened:
            opened.open("alice")
            opened.open("bob")
    assert [record.getMessage() for record in caplog.records] == [
        f"alice.db: migrating {size} bytes from version 1 to 2",
        "alice.db: migrated",
    ]


def test_filters_find_what_was_stored_before(path: Path) -> None:
    write_version_1(path)
    with SqliteEngine(path.parent) as opened:
        store = opened.open("alice")
        found = store.read(1, filter=Filter(types=("Rare",)))
        assert [event.position for event in found.events] == [41, 700, 1_024, 1_450]
        assert store.read(1, filter=Filter(types=("Nothing",))).events == []
    rows = query(path, "SELECT segment FROM type_segments WHERE type = 'Rare' ORDER BY segment")
    assert rows == [(0,), (1,)]


def test_new_events_get_ids_and_streams(path: Path) -> None:
    write_version_1(path)
    with SqliteEngine(path.parent) as opened:
        store = opened.open("alice")
        event = NewEvent.of("Rare", 1, id="one", stream="order-1")
        assert store.append([event]).events[0].position == HEAD + 1
        assert store.append([event]).duplicates == 1
        assert store.streams() == [StreamInfo("order-1", 1)]
        found = store.read(1, filter=Filter(types=("Rare",)), backwards=True, limit=2)
        assert [event.position for event in found.events] == [HEAD + 1, 1_450]
        assert store.lease("mailer", max_events=1) is not None
        assert store.checkpoints() == {"mailer": 77}


def test_times_do_not_go_down_any_more_and_a_trim_of_old_does_not_lift_them(path: Path) -> None:
    write_version_1(path)
    with SqliteEngine(path.parent) as opened:
        store = opened.open("alice")
        # Position n was recorded at second n, up to 1,200, within blocks of at most 128.
        since = store.read(1, filter=Filter(since="1970-01-01T00:16:40Z"))
        until = store.read(1, filter=Filter(until="1970-01-01T00:16:40Z"))
        assert 1_000 <= since.events[0].position < 1_128
        assert until.events[0].position == TRIMMED + 1
        assert until.events[-1].position == since.events[0].position - 1
        assert since.events[-1].position == HEAD
    times = [at for (at,) in query(path, "SELECT recorded_ns FROM blocks ORDER BY last_position")]
    assert times == sorted(times)
    assert times[-1] < 1_200 * SECOND


def test_a_process_of_version_1_cannot_write_past_the_index(path: Path) -> None:
    write_version_1(path)
    old = sqlite3.connect(path)
    insert = (
        "INSERT INTO blocks (last_position, first_position, recorded_at_ns, starts, events) "
        "VALUES (1501, 1501, 0, x'', x'')"
    )
    old.execute(insert)
    old.rollback()
    with SqliteEngine(path.parent) as opened:
        opened.open("alice")
        with pytest.raises(sqlite3.OperationalError, match="recorded_at_ns"):
            old.execute(insert)
        old.close()


def test_a_migration_that_fails_leaves_version_1(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = write_version_1(path)
    before = query(path, "SELECT * FROM sqlite_schema"), query(path, "SELECT * FROM blocks")

    def fail(connection: object) -> None:
        schema.migrate(connection)  # type: ignore[arg-type]
        raise StoreDamaged("half way")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "migrate", fail)
        with SqliteEngine(path.parent) as opened, pytest.raises(StoreDamaged):
            opened.open("alice")
    assert inspect_file(path) is FileKind.OUTDATED
    assert (
        query(path, "SELECT * FROM sqlite_schema"),
        query(path, "SELECT * FROM blocks"),
    ) == before
    with SqliteEngine(path.parent) as opened:
        assert b",".join(opened.open("alice").read_wire(1).chunks) == b",".join(events)


def test_a_migration_that_is_killed_leaves_version_1(path: Path) -> None:
    events = write_version_1(path)
    program = (
        "import os, sys\n"
        "from ebus.backends.sqlite import SqliteEngine, engine\n"
        "migrate = engine.migrate\n"
        "def die(connection):\n"
        "    migrate(connection)\n"
        "    connection.cache_flush()\n"
        "    os._exit(9)\n"
        "engine.migrate = die\n"
        "SqliteEngine(sys.argv[1]).open('alice')\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path.parent)], check=False)
    assert run.returncode == 9
    assert query(path, "PRAGMA user_version") == [(1,)]
    assert query(path, "SELECT count(*) FROM checkpoints") == [(1,)]
    with SqliteEngine(path.parent) as opened:
        assert b",".join(opened.open("alice").read_wire(1).chunks) == b",".join(events)


def test_a_block_that_cannot_be_read_is_damage(path: Path) -> None:
    write_version_1(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE blocks SET events = x'7b' WHERE last_position = 1500")
    connection.commit()
    connection.close()
    with SqliteEngine(path.parent) as opened, pytest.raises(StoreDamaged, match="1500"):
        opened.open("alice")
    assert inspect_file(path) is FileKind.OUTDATED


@pytest.mark.parametrize("name", ["events-go-sqlite-times.db", "events-go-string-times.db"])
def test_a_file_of_the_original_server_has_the_index(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (COMPAT / name).exists():
        pytest.skip("the files of the original server are not here")
    for module in ("segments", "search", "store", "index"):
        monkeypatch.setattr(f"ebus.backends.sqlite.{module}.SEGMENT_EVENTS", 2)
    shutil.copyfile(COMPAT / name, path)
    with SqliteEngine(path.parent) as opened:
        store = opened.open("alice")
        events = store.read(1).events
        assert len(events) > 1
        for wanted in {event.type for event in events if event.type}:
            found = store.read(1, filter=Filter(types=(wanted,)))
            assert found.events == [event for event in events if event.type == wanted]
        head = store.head()
    places = {(event.type, (event.position - 1) // 2) for event in events}
    segments = {(name, segment) for name, segment in places if segment < head // 2}
    assert set(query(path, "SELECT type, segment FROM type_segments")) == segments
