"""A tenant's SQLite file: what it is set to, who may read it, and which files are refused."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from ebus import EbusError, NewEvent, open_engine
from ebus.backends.sqlite import SqliteEngine, SqliteStore
from ebus.backends.sqlite.connection import (
    Patience,
    check_sqlite_version,
    connect,
    connect_for_reading,
    write_ahead,
)
from ebus.backends.sqlite.reader import HEAD
from ebus.backends.sqlite.schema import APPLICATION_ID, VERSION
from ebus.core.errors import (
    EngineError,
    InvalidInput,
    StoreBusy,
    StoreDamaged,
    StoreForeign,
    StoreFull,
    StoreNewer,
    StoreUnavailable,
)
from ebus.core.limits import Limits

EVENT = NewEvent.of("OrderPlaced", {"order": "A-001"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine(directory: Path) -> Iterator[SqliteEngine]:
    with SqliteEngine(directory) as engine:
        yield engine


def stored(directory: Path, name: str = "alice", events: int = 1) -> Path:
    """The file of a tenant with some events, closed."""
    with SqliteEngine(directory) as engine:
        engine.open(name).append([EVENT] * events)
    return directory / f"{name}.db"


def edit(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()


# How a file is set up


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("fullfsync", 1),
        ("trusted_schema", 0),
        ("journal_size_limit", 64 * 1024 * 1024),
        ("wal_autocheckpoint", 0),
        ("cache_size", -2_000),
        ("query_only", 0),
    ],
)
def test_the_writing_connection_is_set_up(directory: Path, pragma: str, value: object) -> None:
    connection = connect(stored(directory), durability="full", patience=Patience(5_000))
    assert connection.pragma(pragma) == value


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("trusted_schema", 0),
        ("wal_autocheckpoint", 0),
        ("cache_size", -2_000),
        ("query_only", 1),
    ],
)
def test_every_reading_connection_is_set_up(directory: Path, pragma: str, value: object) -> None:
    connection = connect_for_reading(stored(directory), busy_timeout_ms=5_000)
    assert connection.pragma(pragma) == value


def test_there_is_no_index_but_the_one_of_gaps(directory: Path) -> None:
    connection = connect(stored(directory), durability="full", patience=Patience(5_000))
    made = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    assert connection.execute(made).fetchall() == [("gaps",)]


def test_a_connection_takes_no_memory_for_pages_that_it_has_not_read(directory: Path) -> None:
    path = stored(directory)
    before = apsw.memory_used()
    plain = apsw.Connection(str(path))
    plain.execute(HEAD).get  # noqa: B018 - which opens it
    as_it_comes = apsw.memory_used() - before
    ours = connect(path, durability="full", patience=Patience(5_000))
    ours.execute(HEAD).get  # noqa: B018
    assert apsw.memory_used() - before - as_it_comes < as_it_comes * 0.7
    assert ours.pragma("cache_size") == -2_000
    plain.close()
    ours.close()


@pytest.mark.parametrize("milliseconds", [0, 50])
def test_a_connection_waits_for_others_as_long_as_it_is_told(
    directory: Path, milliseconds: int
) -> None:
    path = stored(directory)
    holder = connect(path, durability="normal", patience=Patience(5_000))
    holder.execute("BEGIN IMMEDIATE")
    waiting = connect(path, durability="normal", patience=Patience(milliseconds))
    begun = time.monotonic()
    with pytest.raises(apsw.BusyError):
        waiting.execute("BEGIN IMMEDIATE")
    assert time.monotonic() - begun >= milliseconds / 1_000
    holder.execute("ROLLBACK")
    waiting.execute("BEGIN IMMEDIATE")


def test_durability_normal_syncs_at_checkpoints_only(directory: Path) -> None:
    connection = connect(stored(directory), durability="normal", patience=Patience(5_000))
    assert (connection.pragma("synchronous"), connection.pragma("fullfsync")) == (1, 0)


def test_a_tenant_can_have_a_durability_of_its_own(engine: SqliteEngine) -> None:
    stores = [engine.open("alice"), engine.open("bob", durability="normal")]
    assert [store._writer.pragma("synchronous") for store in stores] == [2, 1]


def test_a_reading_connection_cannot_write(directory: Path) -> None:
    connection = connect_for_reading(stored(directory), busy_timeout_ms=5_000)
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM blocks")


@pytest.mark.parametrize("version", ["3.51.2", "3.46.1", "3.7.17"])
def test_an_old_sqlite_is_refused_with_what_to_install(version: str) -> None:
    with pytest.raises(EngineError, match="pip install"):
        check_sqlite_version(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.54.1", "3.100.0", "4.0.0"])
def test_a_new_sqlite_is_taken(version: str) -> None:
    check_sqlite_version(version)


def test_only_the_owner_can_read_the_directory_and_the_files(engine: SqliteEngine) -> None:
    engine.open("alice").append([EVENT])
    places = [engine.path("alice").parent, *engine.path("alice").parent.iterdir()]
    assert len(places) >= 3
    assert [place for place in places if stat.S_IMODE(place.stat().st_mode) & 0o077] == []


def test_a_file_carries_our_mark_and_version(directory: Path) -> None:
    path = stored(directory)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    connection.close()


def test_opening_a_file_of_ours_again_does_not_write_to_it(directory: Path) -> None:
    path = stored(directory)
    before = path.read_bytes()
    with SqliteEngine(directory) as engine:
        engine.open("alice").read(1)
    assert path.read_bytes() == before


def test_the_view_shows_people_one_row_an_event(directory: Path) -> None:
    with SqliteEngine(directory) as engine:
        engine.open("alice").append(
            [
                NewEvent.of("A", {"x": 1}, "2024-01-01T00:00:00Z"),
                NewEvent.of("B", "t", "2024-02-01T00:00:00+02:00"),
                NewEvent.of(
                    "C", 1, "2024-03-01T00:00:00Z", id="c", stream="s", metadata={"k": "v"}
                ),
            ]
        )
    connection = sqlite3.connect(directory / "alice.db")
    rows = connection.execute("SELECT * FROM events").fetchall()
    connection.close()
    assert rows == [
        (1, "A", '{"x":1}', "2024-01-01T00:00:00Z", None, None, None, None),
        (2, "B", '"t"', "2024-02-01T00:00:00+02:00", None, None, None, None),
        (3, "C", "1", "2024-03-01T00:00:00Z", "c", "s", 1, '{"k":"v"}'),
    ]


def test_what_is_committed_together_is_stored_in_few_rows(directory: Path) -> None:
    path = stored(directory, events=300)
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT first_position, last_position FROM blocks").fetchall()
    connection.close()
    assert rows == [(1, 128), (129, 256), (257, 300)]


def test_counting_uses_the_index_of_gaps(engine: SqliteEngine) -> None:
    engine.open("alice").append([EVENT])
    connection = sqlite3.connect(engine.path("alice"))
    plan = connection.execute(
        "EXPLAIN QUERY PLAN SELECT sum(last_position - first_position + 1) "
        "FROM blocks WHERE events IS NULL"
    ).fetchall()
    connection.close()
    assert "USING INDEX gaps" in plan[0][-1]


def test_closing_leaves_one_file_with_everything_in_it(engine: SqliteEngine) -> None:
    engine.open("alice").append([EVENT])
    assert engine.path("alice").with_name("alice.db-wal").exists()
    engine.close()
    assert [file.name for file in engine.path("alice").parent.iterdir()] == ["alice.db"]


def test_the_health_is_not_that_of_a_store_that_has_just_been_closed(engine: SqliteEngine) -> None:
    store = engine.open("alice")
    store.append([NewEvent.of("T", 1)])
    store.check_in_place()
    store.close()  # its WAL is gone, and that is as it should be
    store.check_in_place()


def test_making_an_engine_touches_nothing(directory: Path) -> None:
    with SqliteEngine(directory) as engine:
        assert engine.tenants() == []
        engine.drop("alice")
    assert not directory.exists()


def test_a_directory_that_went_away_is_not_made_anew(engine: SqliteEngine) -> None:
    engine.open("alice").close()
    shutil.rmtree(engine.path("alice").parent)
    with pytest.raises(StoreUnavailable):
        engine.open("alice")
    with pytest.raises(StoreUnavailable):
        engine.check_health()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_nothing_is_acknowledged_into_a_file_that_is_gone(engine: SqliteEngine, how: str) -> None:
    store = engine.open("alice")
    store.append([EVENT])
    path = engine.path("alice")
    kept = path.with_name("kept")
    path.rename(kept)
    if how == "replaced":
        shutil.copyfile(kept, path)
    with pytest.raises(StoreUnavailable, match=r"alice\.db"):
        store.append([EVENT])
    with pytest.raises(StoreUnavailable):
        engine.check_health()
    kept.replace(path)
    assert store.append([EVENT]).first_position == 2
    engine.check_health()


@pytest.mark.parametrize("durability", ["FULL", "ful", "off", ""])
def test_a_slip_in_the_durability_does_not_mean_less(directory: Path, durability: Any) -> None:
    slip: Any = durability or "bogus"
    for attempt in (
        lambda: open_engine(f"sqlite:{directory}", durability=durability),
        lambda: SqliteEngine(directory, durability=durability),
        lambda: SqliteEngine(directory).open("alice", durability=slip),
    ):
        with pytest.raises(InvalidInput, match="full or normal"):
            attempt()


def test_a_file_whose_making_was_cut_off_is_made_anew(directory: Path) -> None:
    """The process dies while the schema is written: an empty file and its journal are left."""
    directory.mkdir()
    program = (
        "import os, sys, apsw\n"
        "from ebus.backends.sqlite import SqliteEngine, engine\n"
        "migrate = engine.migrate\n"
        "def die(connection):\n"
        "    migrate(connection)\n"
        "    connection.cache_flush()\n"
        "    os._exit(9)\n"
        "engine.migrate = die\n"
        "SqliteEngine(sys.argv[1]).open('alice')\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(directory)], check=False)
    assert run.returncode == 9
    assert (directory / "alice.db-journal").stat().st_size > 0
    with SqliteEngine(directory) as engine:
        assert engine.open("alice").append([EVENT]).first_position == 1


def test_an_empty_file_beside_its_journal_is_a_new_tenant(directory: Path) -> None:
    directory.mkdir()
    (directory / "alice.db").touch()
    (directory / "alice.db-journal").write_bytes(bytes(512))
    with SqliteEngine(directory) as engine:
        assert engine.open("alice").append([EVENT]).first_position == 1


def test_a_newer_version_that_is_still_in_the_wal_is_seen(directory: Path) -> None:
    path = stored(directory)
    newer_one = sqlite3.connect(path)
    newer_one.execute(f"PRAGMA user_version = {VERSION + 1}")
    with SqliteEngine(directory) as engine, pytest.raises(StoreNewer):
        engine.open("alice")
    newer_one.close()


def test_the_last_position_there_can_be_is_not_passed(directory: Path) -> None:
    path = stored(directory)
    edit(path, f"UPDATE blocks SET last_position = {2**63 - 1}")
    with SqliteEngine(directory) as engine, pytest.raises(StoreFull):
        engine.open("alice").append([EVENT])


def test_one_store_that_does_not_close_leaves_no_other_open(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = engine.open("alice"), engine.open("bob")

    def fail() -> None:
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr(bob, "close", fail)
    with pytest.raises(StoreUnavailable):
        engine.close()
    assert alice.closed


def test_a_directory_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a directory")
    with SqliteEngine(tmp_path / "data") as engine:
        with pytest.raises(StoreUnavailable):
            engine.check_health()
        with pytest.raises(StoreUnavailable):
            engine.open("alice")


def test_other_files_in_the_directory_are_no_tenants(directory: Path) -> None:
    stored(directory)
    (directory / "not a tenant.db").touch()
    (directory / "notes.txt").touch()
    with SqliteEngine(directory) as engine:
        assert engine.tenants() == ["alice"]


# Several processes on one file


def test_two_engines_on_one_directory_share_one_numbering(directory: Path) -> None:
    with SqliteEngine(directory) as one, SqliteEngine(directory) as other:
        for expected in range(1, 7):
            store = (one if expected % 2 else other).open("alice")
            assert store.append([EVENT]).last_position == expected
        assert one.open("alice").head() == other.open("alice").head() == 6


def test_a_file_that_another_process_holds_is_busy(directory: Path) -> None:
    path = stored(directory)
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    with SqliteEngine(directory, limits=Limits(busy_timeout_ms=1)) as engine:
        store = engine.open("alice")
        with pytest.raises(StoreBusy):
            store.append([EVENT])
        holder.execute("ROLLBACK")
        assert store.append([EVENT]).first_position == 2
    holder.close()


def test_looking_at_a_file_does_not_drop_the_locks_of_this_process(directory: Path) -> None:
    path = stored(directory)
    holder = apsw.Connection(str(path))
    holder.pragma("journal_mode", "delete")
    holder.execute("BEGIN EXCLUSIVE")
    SqliteEngine(directory).inspect("alice")
    read = (
        "import sqlite3, sys;"
        "sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM blocks')"
    )
    reader = subprocess.run(
        [sys.executable, "-c", read, str(path)], capture_output=True, text=True, check=False
    )
    holder.close()
    assert "database is locked" in reader.stderr


def test_many_threads_may_open_one_tenant_at_once(directory: Path) -> None:
    barrier = threading.Barrier(8)
    stores: list[SqliteStore] = []

    def open_alice(engine: SqliteEngine) -> None:
        barrier.wait()
        stores.append(engine.open("alice"))

    with SqliteEngine(directory) as engine:
        threads = [threading.Thread(target=open_alice, args=(engine,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, stores))) == 1
        assert len(stores) == 8


# Files that are refused: with their name and the reason, and unchanged


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but it is long enough to be taken for one" * 99)


def foreign_tables(path: Path) -> None:
    edit(path, "CREATE TABLE customers (name TEXT)")


def foreign_mark(path: Path) -> None:
    edit(path, "PRAGMA application_id = 42; CREATE TABLE events (position INTEGER)")


def original_with_other_tables(path: Path) -> None:
    edit(
        path,
        "CREATE TABLE events (position INTEGER PRIMARY KEY, type, data, timestamp);"
        "CREATE TABLE invoices (number INTEGER)",
    )


def newer(path: Path) -> None:
    shutil.copy(stored(path.parent, "newer"), path)
    edit(path, f"PRAGMA user_version = {VERSION + 1}")


def broken_view(path: Path) -> None:
    edit(path, "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t; DROP TABLE t")


def quotes_in_a_name(path: Path) -> None:
    edit(path, """CREATE TABLE "it's ""odd\""" (a)""")


def cut_short(path: Path) -> None:
    whole = stored(path.parent, "whole", events=500).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def only_a_header(path: Path) -> None:
    path.write_bytes(stored(path.parent, "whole").read_bytes()[:50])


def wal_without_database(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"the newest events")


REFUSED: list[tuple[Callable[[Path], None], type[EbusError], str]] = [
    (garbage, StoreForeign, "not a SQLite database"),
    (foreign_tables, StoreForeign, "another program"),
    (foreign_mark, StoreForeign, "another program"),
    (original_with_other_tables, StoreForeign, "another program"),
    (broken_view, StoreForeign, "another program"),
    (quotes_in_a_name, StoreForeign, "another program"),
    (newer, StoreNewer, "newer ebus"),
    (cut_short, StoreDamaged, "the end is missing"),
    (only_a_header, StoreDamaged, "within its header"),
    (wal_without_database, StoreDamaged, "alice.db-wal still holds data"),
]


@pytest.mark.parametrize(
    ("make", "error", "reason"), REFUSED, ids=lambda it: getattr(it, "__name__", None)
)
def test_a_file_that_is_not_fit_is_refused_and_not_changed(
    directory: Path, make: Callable[[Path], None], error: type[EbusError], reason: str
) -> None:
    directory.mkdir()
    make(directory / "alice.db")
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    with SqliteEngine(directory) as engine:
        for look in (engine.inspect, engine.open):
            with pytest.raises(error, match=reason) as refusal:
                look("alice")
            assert "alice.db" in str(refusal.value)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before


def test_our_mark_without_our_tables_is_damage(directory: Path) -> None:
    path = stored(directory)
    edit(path, "DROP VIEW events; DROP TABLE blocks")
    with SqliteEngine(directory) as engine, pytest.raises(StoreDamaged, match="no such table"):
        engine.open("alice")


def test_damage_within_a_file_shows_as_damage_not_as_other_events(directory: Path) -> None:
    path = stored(directory, events=1_000)
    content = bytearray(path.read_bytes())
    content[4096 : len(content) - 4096] = bytes(len(content) - 8192)
    path.write_bytes(content)
    with SqliteEngine(directory) as engine, pytest.raises(StoreDamaged, match=r"alice\.db"):
        engine.open("alice").read(1)


def test_an_empty_file_is_a_new_tenant(directory: Path) -> None:
    directory.mkdir()
    (directory / "alice.db").touch()
    with SqliteEngine(directory) as engine:
        assert engine.inspect("alice") == "new"
        assert engine.open("alice").append([EVENT]).first_position == 1


class HeldFor:
    """A database of which another connection takes the whole file when it is first asked."""

    def __init__(self, times: int) -> None:
        self.left = times

    def pragma(self, *_: object) -> str:
        self.left -= 1
        if self.left >= 0:
            raise apsw.BusyError("database is locked")
        return "wal"


def test_who_makes_a_new_file_at_the_same_moment_as_another_waits_for_it() -> None:
    held = HeldFor(3)
    write_ahead(cast(apsw.Connection, held), Patience(timeout_ms=60_000))
    assert held.left == -1


def test_nobody_waits_for_a_new_file_without_end() -> None:
    with pytest.raises(apsw.BusyError):
        write_ahead(cast(apsw.Connection, HeldFor(1_000_000_000)), Patience(timeout_ms=5))
