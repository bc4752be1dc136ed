"""Files of the original server: taken over in place, whole or not at all."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from ebus import NewEvent, TenantStore
from ebus.backends.sqlite import SqliteEngine
from ebus.backends.sqlite.takeover import rfc3339
from ebus.core.errors import StoreBusy, StoreDamaged, StoreForeign
from ebus.core.limits import Limits

Row = tuple[int, object, object, object]

ORIGINAL_SCHEMA = """
    CREATE TABLE events (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        type TEXT NOT NULL,
        data BLOB NOT NULL,
        timestamp DATETIME NOT NULL
    );
    CREATE TABLE subscriptions (subscription_id TEXT PRIMARY KEY, position INTEGER NOT NULL);
    CREATE INDEX idx_events_timestamp ON events(timestamp);
    CREATE INDEX idx_events_type_position ON events(type, position);
"""


def original_file(
    directory: Path, rows: Iterable[Row], *, last_given: int = 0, name: str = "main"
) -> Path:
    """A file as the original server writes it."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.db"
    connection = sqlite3.connect(path)
    connection.executescript(ORIGINAL_SCHEMA)
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
    connection.execute("INSERT INTO subscriptions VALUES ('mailer', 2)")
    if last_given:
        connection.execute("DELETE FROM sqlite_sequence")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (last_given,))
    connection.commit()
    connection.close()
    return path


def row(
    position: int, data: object = b'{"n":1}', timestamp: object = "2024-01-01 00:00:00+00:00"
) -> Row:
    return (position, "OrderPlaced", data, timestamp)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


def everything(store: TenantStore) -> list[tuple[int, str, bytes, str]]:
    return [
        (event.position, event.type, bytes(event.data), event.timestamp)
        for event in store.read(1).events
    ]


# The files that the original server wrote


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            "events-go-sqlite-times.db",
            [
                (1, "OrderPlaced", b'{"order":"A-001"}', "2024-01-01T00:00:00Z"),
                (2, "OrderPlaced", b'{"order":"A-002"}', "2024-05-06T07:08:09.123456789+02:00"),
            ],
        ),
        (
            "events-go-string-times.db",
            [
                (1, "OrderPlaced", b'{"order":"A-001"}', "2024-01-01T00:00:00Z"),
                (
                    2,
                    "OrderPlaced",
                    '{"order":"A-002","note":"café"}'.encode(),
                    "2024-05-06T07:08:09.123456789Z",
                ),
                (
                    3,
                    "OrderShipped",
                    b'{"order":"A-001","tracking":null}',
                    "2024-05-06T07:08:09.5+02:00",
                ),
            ],
        ),
    ],
)
def test_a_file_of_the_original_server_serves_all_it_holds(
    directory: Path, shared: Path, file: str, expected: list[tuple[int, str, bytes, str]]
) -> None:
    directory.mkdir()
    shutil.copyfile(shared / "compat" / file, directory / "main.db")
    with SqliteEngine(directory) as engine:
        store = engine.open("main")
        assert everything(store) == expected
        assert store.checkpoints() == {"mailer": len(expected) - 1}
        assert store.count() == len(expected)
        assert store.append([NewEvent.of("Next", 1)]).first_position == 11


# Everything is kept


def test_gaps_stay_gaps_and_the_numbering_goes_on_where_it_would_have(directory: Path) -> None:
    original_file(directory, [row(3), row(4), row(9)], last_given=20)
    with SqliteEngine(directory) as engine:
        store = engine.open("main")
        assert [event.position for event in store.read(1).events] == [3, 4, 9]
        assert (store.head(), store.count()) == (20, 3)
        assert store.append([NewEvent.of("Next", 1)]).first_position == 21


def test_a_file_without_events_keeps_its_numbering(directory: Path) -> None:
    original_file(directory, [], last_given=7)
    with SqliteEngine(directory) as engine:
        store = engine.open("main")
        assert (everything(store), store.head(), store.count()) == ([], 7, 0)


@pytest.mark.parametrize(
    "data",
    [
        b'{"b":1.0,"a":0.10,"big":12345678901234567890123456789012345678901234567890}',
        b'{ "spaces" : [ 1 , 2 ] }',
        b"1e999",
        b'"\\u003c\\u00e9"',
        b'{"k":1,"k":2}',
    ],
)
def test_data_is_kept_to_the_byte(directory: Path, data: bytes) -> None:
    original_file(directory, [row(1, data)])
    with SqliteEngine(directory) as engine:
        assert everything(engine.open("main"))[0][2] == data


def test_an_event_without_data_holds_null(directory: Path) -> None:
    original_file(directory, [row(1, b"")])
    with SqliteEngine(directory) as engine:
        assert everything(engine.open("main"))[0][2] == b"null"


def test_an_event_without_a_type_is_kept(directory: Path) -> None:
    original_file(directory, [(1, "", b"1", "0001-01-01 00:00:00 +0000 UTC")])
    with SqliteEngine(directory) as engine:
        assert everything(engine.open("main")) == [(1, "", b"1", "0001-01-01T00:00:00Z")]


@pytest.mark.parametrize(
    ("stored", "served"),
    [
        ("2024-01-01 00:00:00+00:00", "2024-01-01T00:00:00Z"),
        ("2024-05-06 07:08:09.123456789+02:00", "2024-05-06T07:08:09.123456789+02:00"),
        ("2024-05-06 07:08:09-03:30", "2024-05-06T07:08:09-03:30"),
        ("2024-01-01 00:00:00 +0000 UTC", "2024-01-01T00:00:00Z"),
        ("2024-05-06 07:08:09.5 +0200 CEST", "2024-05-06T07:08:09.5+02:00"),
        ("2024-05-06 07:08:09 -0330 -0330", "2024-05-06T07:08:09-03:30"),
        ("2024-05-06 07:08:09.1 +0530 IST m=+0.012345", "2024-05-06T07:08:09.1+05:30"),
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
    ],
)
def test_a_time_keeps_its_instant_and_its_offset(stored: str, served: str) -> None:
    assert rfc3339(stored) == served


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "yesterday",
        "2024-05-06",
        "2024-05-06 07:08",
        "1714979289",
        "2024-13-45 99:99:99 +0000 UTC",
        "2024-05-06 07:08:09",
    ],
)
def test_what_is_no_time_is_not_guessed_at(stored: str) -> None:
    assert rfc3339(stored) is None


def test_nothing_of_the_original_tables_is_left(directory: Path) -> None:
    path = original_file(directory, [row(1)])
    with SqliteEngine(directory) as engine:
        engine.open("main")
    connection = sqlite3.connect(path)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    [integrity] = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    assert {"original_events", "subscriptions", "idx_events_timestamp"} & names == set()
    assert integrity == "ok"


# All or nothing


def test_a_takeover_that_fails_leaves_the_file_as_it_was(directory: Path) -> None:
    path = original_file(directory, [*map(row, range(1, 2_000)), row(2_000, b"not json")])
    before = path.read_bytes()
    with SqliteEngine(directory) as engine:
        for _ in range(2):
            with pytest.raises(
                StoreForeign, match=r"main\.db: the event at position 2000 has data"
            ):
                engine.open("main")
    assert path.read_bytes() == before
    assert [file.name for file in directory.iterdir()] == ["main.db"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(1, b'{"n":'), "is not JSON"),
        (row(1, b'"\xff"'), "is not JSON"),
        (row(1, b"[" * 100_000), "is not JSON"),
        ((1, b"\xff\xfe", b"1", "2024-01-01 00:00:00+00:00"), "a type that is not UTF-8"),
        (row(1, b"1", "not a time"), "time stamp that cannot be read"),
        (row(-5), "position -5"),
    ],
)
def test_a_row_that_cannot_be_served_is_named(directory: Path, bad: Row, reason: str) -> None:
    original_file(directory, [bad])
    with SqliteEngine(directory) as engine, pytest.raises(StoreForeign, match=reason):
        engine.open("main")


@pytest.mark.parametrize("values", ["(NULL, 5)", "('a', 1.5)", "('a', 'x')", "(x'ff', 1)"])
def test_a_subscription_that_cannot_be_kept_is_refused(directory: Path, values: str) -> None:
    path = original_file(directory, [row(1)])
    connection = sqlite3.connect(path)
    connection.execute(f"INSERT INTO subscriptions VALUES {values}")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with SqliteEngine(directory) as engine, pytest.raises(StoreForeign, match="subscription"):
        engine.open("main")
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_not_changed(directory: Path) -> None:
    path = original_file(directory, map(row, range(1, 5_000)))
    content = bytearray(path.read_bytes())
    content[16_384:32_768] = b"\xaa" * 16_384
    path.write_bytes(content)
    with (
        SqliteEngine(directory) as engine,
        pytest.raises(StoreDamaged, match=r"main\.db is damaged"),
    ):
        engine.open("main")
    assert path.read_bytes() == content


def test_a_file_that_left_its_newest_events_behind_is_refused(directory: Path) -> None:
    path = original_file(directory, [row(1)])
    before = path.read_bytes()
    (directory / "events.db-wal").write_bytes(b"the newest events")
    with SqliteEngine(directory) as engine:
        with pytest.raises(StoreDamaged, match=r"rename the file to main\.db-wal"):
            engine.open("main")
        assert path.read_bytes() == before
        (directory / "events.db-wal").unlink()
        assert engine.open("main").count() == 1


def test_events_that_are_still_in_the_wal_are_taken_over_too(directory: Path) -> None:
    path = original_file(directory, [row(1)])
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("INSERT INTO events VALUES (2, 'InTheWal', x'31', '2024-01-01 00:00:00+00:00')")
    writer.commit()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", directory / f"copy.db{suffix}")
    writer.close()
    with SqliteEngine(directory) as engine:
        assert [event[1] for event in everything(engine.open("copy"))] == [
            "OrderPlaced",
            "InTheWal",
        ]


def test_a_file_that_the_original_server_is_writing_is_busy(directory: Path) -> None:
    path = original_file(directory, [row(1)])
    with SqliteEngine(directory, limits=Limits(busy_timeout_ms=1)) as engine:
        with held_by_another_process(path), pytest.raises(StoreBusy):
            engine.open("main")
        assert engine.open("main").count() == 1


@contextmanager
def held_by_another_process(path: Path) -> Iterator[None]:
    """Another process holds the lock for writing."""
    program = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "connection.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    yield
    holder.communicate()


def test_a_takeover_that_was_cut_off_begins_anew(directory: Path) -> None:
    """The process dies when all is written but the end of the transaction."""
    original_file(directory, map(row, range(1, 20_001)))
    program = (
        "import os, sys\n"
        "from ebus.backends.sqlite import SqliteEngine, engine\n"
        "take_over = engine.take_over\n"
        "def die(connection, *arguments):\n"
        "    take_over(connection, *arguments)\n"
        "    connection.cache_flush()\n"
        "    os._exit(9)\n"
        "engine.take_over = die\n"
        "SqliteEngine(sys.argv[1]).open('main')\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(directory)], check=False)
    assert run.returncode == 9
    assert (directory / "main.db-journal").stat().st_size > 0
    with SqliteEngine(directory) as engine:
        store = engine.open("main")
        assert (store.head(), store.count()) == (20_000, 20_000)


# Large files


def test_memory_stays_flat_whatever_the_size_of_the_file(directory: Path) -> None:
    data = msgspec.json.encode({"text": "x" * 1_000})
    peaks = []
    for name, size in (("small", 2_000), ("large", 20_000)):
        original_file(directory, (row(at, data) for at in range(1, size + 1)), name=name)
        with SqliteEngine(directory) as engine:
            tracemalloc.start()
            engine.open(name)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert engine.open(name).count() == size
    small, large = peaks
    assert large < 2 * small
    assert large < 2_000_000


def test_progress_is_told_on_the_log(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebus.backends.sqlite.takeover.PROGRESS_INTERVAL_S", 0)
    original_file(directory, map(row, range(1, 1_001)))
    with caplog.at_level(logging.INFO, "ebus.sqlite"), SqliteEngine(directory) as engine:
        engine.open("main")
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "main.db: taking over 1000 events of the original server"
    assert "main.db: took over 512 of 1000 events" in messages
    assert messages[-1] == "main.db: took over all 1000 events"
