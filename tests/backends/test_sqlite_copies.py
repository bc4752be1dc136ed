"""Copies of SQLite files, and what a look through a file finds: beneath the commands."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine, SqliteStore, copying
from ebus.backends.sqlite.connection import connect_for_reading
from ebus.backends.sqlite.copying import mark_of
from ebus.backends.sqlite.write_back import WriteBack
from ebus.core.backup import Copy, SupportsBackup
from ebus.core.errors import StoreBusy, StoreDamaged, StoreRefused
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from tests.backends.test_sqlite_wal import wait_until

ALICE = TenantName("alice")


def event(number: int) -> NewEvent:
    return NewEvent.of(f"T{number % 3}", number, id=f"id-{number}", stream=f"s{number % 7}")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    with SqliteEngine(tmp_path / "data") as engine:
        yield engine


@contextmanager
def writing(engine: SqliteEngine) -> Iterator[list[float]]:
    """A thread that appends all the time. Gives how long each append has taken."""
    store = engine.open(ALICE)
    stopping = threading.Event()
    took_s: list[float] = []

    def write() -> None:
        while not stopping.is_set():
            begun_s = time.perf_counter()
            store.append([NewEvent.of("Busy", None)] * 100)
            took_s.append(time.perf_counter() - begun_s)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield took_s
    finally:
        stopping.set()
        thread.join()


def test_the_engine_has_the_power_to_back_up(engine: SqliteEngine) -> None:
    assert isinstance(engine, SupportsBackup)


def test_a_copy_is_of_one_moment_however_much_is_written(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    with writing(engine) as took_s:
        wait_until(lambda: len(took_s) > 50)
        for number in range(5):
            file = tmp_path / f"copy-{number}.db"
            steps: list[int] = []
            snapshot = engine.back_up("alice", file, progress=steps.append)
            assert snapshot is not None
            assert sum(steps) == file.stat().st_size
            found = engine.verify("alice", file)
            assert found.problems == []
            assert found.snapshot is not None
            assert found.snapshot.position == snapshot.position >= 5_000


def test_a_tenant_of_which_nothing_is_stored_has_no_copy(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    assert engine.back_up("alice", tmp_path / "copy.db") is None
    assert not (tmp_path / "copy.db").exists()


def test_a_mark_holds_until_something_is_written(
    engine: SqliteEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "SETTLED_S", 0.0)
    engine.open("alice").append([event(1)])
    file = tmp_path / "copy.db"
    snapshot = engine.back_up("alice", file)
    assert snapshot is not None
    assert snapshot.mark
    with monkeypatch.context() as patch:
        patch.setattr(copying, "_opened", None)  # so it is not even looked at
        again = engine.back_up("alice", tmp_path / "2.db", known=Copy(file, snapshot))
        assert again is snapshot
    path = engine.path("alice")
    before = mark_of(path)
    engine.open("alice").save_checkpoint("mailer", 1)
    assert mark_of(path) != before


def test_what_was_written_just_now_has_no_mark(engine: SqliteEngine) -> None:
    """It could be written to once more within the same tick of the file system's clock."""
    engine.open("alice").append([event(1)])
    assert mark_of(engine.path("alice")) == ""


def test_the_time_of_modification_that_was_set_back_does_not_deceive(
    engine: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "SETTLED_S", 0.0)
    engine.open("alice").append([event(1)])
    path = engine.path("alice")
    before, mark = path.stat(), mark_of(path)
    engine.close()  # which writes the WAL back
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert mark_of(path) != mark


def test_a_copy_that_cannot_be_made_is_not_left(
    engine: SqliteEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.open("alice").append([event(1)])

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(copying, "_sync", fail)
    with pytest.raises(Exception, match="Input/output error"):
        engine.back_up("alice", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


# Writers beside somebody who reads for long


def test_writers_do_not_wait_for_who_reads_for_long(tmp_path: Path) -> None:
    """The WAL cannot be begun anew meanwhile. To wait for that time and again would not help."""
    limits = Limits(wal_checkpoint_bytes=64 * 1024)
    with SqliteEngine(tmp_path / "data", limits=limits, durability="normal") as engine:
        store = engine.open("alice")
        store.append([event(1)])
        reader = connect_for_reading(engine.path("alice"), busy_timeout_ms=1_000)
        reader.execute("BEGIN; SELECT count(*) FROM blocks").fetchall()
        back = store._write_back
        wal = Path(f"{engine.path('alice')}-wal")
        busy: list[int] = []
        write_back = type(back)._write_back

        with pytest.MonkeyPatch.context() as patch:

            def count(back: WriteBack) -> None:
                try:
                    write_back(back)
                except (StoreBusy, apsw.BusyError) as error:
                    busy.append(isinstance(error, apsw.BusyError))
                    raise

            patch.setattr(type(back), "_write_back", count)
            while wal.stat().st_size < 40 * limits.wal_checkpoint_bytes:
                is_known = bool(busy)  # until then nobody knows that it is a reader
                store.append([NewEvent.of("Busy", "x" * 1_000)] * 20)
                assert not (is_known and back.is_far_behind)
            wait_until(lambda: len(busy) >= 1)
            store.append([NewEvent.of("Busy", "x" * 1_000)] * 100)
            wait_until(lambda: len(busy) >= 2)
            assert sum(busy) == 1, "writers were made to wait once, to find out"
        reader.execute("ROLLBACK").fetchall()
        reader.close()
        wait_until(lambda: _is_begun_anew(store, back))


def _is_begun_anew(store: SqliteStore, back: WriteBack) -> bool:
    store.append([NewEvent.of("Busy", "x" * 1_000)] * 20)
    return back.wal_pages < 100


# Putting copies back


def test_what_is_open_in_this_process_is_not_restored_over(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    engine.open("alice").append([event(1)])
    engine.back_up("alice", tmp_path / "copy.db")
    copies = {ALICE: tmp_path / "copy.db"}
    with pytest.raises(StoreRefused, match="there already"):
        list(engine.restore(copies))
    with pytest.raises(StoreBusy, match="is open"):
        list(engine.restore(copies, overwrite=True))
    with pytest.raises(StoreBusy, match="in this process"):
        list(engine.restore(copies, overwrite=True, even_if_open=True))
    assert engine.open("alice").append([event(2)]).last_position == 2


def test_a_tenant_that_is_not_open_is_restored_while_its_engine_is(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    engine.open("alice").append([event(1)])
    engine.back_up("alice", tmp_path / "copy.db")
    engine.open("alice").append([event(2)])
    engine.open("alice").put_away()
    assert Path(f"{engine.path('alice')}-wal").stat().st_size > 0
    assert list(engine.restore({ALICE: tmp_path / "copy.db"}, overwrite=True)) == [ALICE]
    assert engine.open("alice").head() == 1


def test_a_restore_that_is_cut_off_leaves_the_old_or_the_new_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the names change, all that was in the WAL is in the database."""
    with SqliteEngine(tmp_path / "data") as engine:
        engine.open("alice").append([event(1)])
        engine.back_up("alice", tmp_path / "copy.db")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with SqliteEngine(tmp_path / "data") as engine:
        engine.open("alice").append([event(2)])
        engine.open("alice").put_away()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", cut)
            with pytest.raises(KeyboardInterrupt):
                list(engine.restore({ALICE: tmp_path / "copy.db"}, overwrite=True))
        assert not Path(f"{engine.path('alice')}-wal").exists()
        assert os.listdir(tmp_path / "data") == ["alice.db"]
    with SqliteEngine(tmp_path / "data") as engine:
        assert engine.open("alice").head() == 2


def test_a_copy_that_is_nobodys_is_refused_before_anything_changes(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    (tmp_path / "copy.db").write_text("a shopping list" * 1_000)
    (tmp_path / "empty.db").touch()
    for name in ("copy.db", "empty.db"):
        with pytest.raises(StoreRefused):
            list(engine.restore({ALICE: tmp_path / name}))
    assert os.listdir(tmp_path / "data") == []


# What a look through a file finds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    limits = Limits(max_block_events=100)
    with SqliteEngine(tmp_path / "data", limits=limits, durability="normal") as engine:
        store = engine.open("alice")
        for begin in range(1, 1_201, 100):
            store.append([event(number) for number in range(begin, begin + 100)])
        store.trim(150)
        store.save_checkpoint("mailer", 700)
        store.lease("worker")
    return tmp_path / "data" / "alice.db"


def problems_of(file: Path) -> list[str]:
    with SqliteEngine(file.parent) as engine:
        return engine.verify("alice").problems


def test_a_file_that_was_trimmed_and_leased_from_is_whole(file: Path) -> None:
    with SqliteEngine(file.parent) as engine:
        found = engine.verify("alice")
    assert found.problems == []
    assert found.notes == []
    assert found.snapshot is not None
    assert (found.snapshot.position, found.snapshot.events) == (1_200, 1_050)


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("DELETE FROM blocks WHERE last_position = 500", "after position 400 comes 501"),
        ("DELETE FROM blocks WHERE first_position = 1", "after position 0 comes 151"),
        (
            "UPDATE blocks SET first_position = 450 WHERE last_position = 500",
            "after position 400 comes 450",
        ),
        (
            "UPDATE blocks SET recorded_ns = 1 WHERE last_position = 500",
            "the time of recording goes back at position 401",
        ),
        (
            "UPDATE blocks SET starts = CAST(substr(starts, 5) AS BLOB) WHERE last_position = 500",
            "does not say where its events begin",
        ),
        (
            "UPDATE blocks SET starts = CAST(x'01000000' || substr(starts, 5) AS BLOB)"
            " WHERE last_position = 500",
            "says wrongly where its events begin",
        ),
        (
            "UPDATE blocks SET events = (SELECT events FROM blocks WHERE last_position = 600)"
            " WHERE last_position = 500",
            "holds events of other positions",
        ),
        (
            "UPDATE blocks SET events = CAST(substr(events, 2) AS BLOB) WHERE last_position = 500",
            "cannot be read",
        ),
        ("DELETE FROM ids WHERE id = 'id-500'", "the id of the event at 500 is not that"),
        ("INSERT INTO ids VALUES ('new', 7)", "there are 1051 ids, of 1050 events"),
        ("UPDATE ids SET position = 8 WHERE id = 'id-500'", "the id of the event at 500"),
        (
            "UPDATE stream_events SET position = 9 WHERE position = 500",
            "the event at 500 is not where its stream says",
        ),
        ("DELETE FROM stream_events WHERE position = 500", "are not contiguous up to the last"),
        ("INSERT INTO stream_events VALUES (99, 1, 1)", "events of streams without a name"),
        (
            "UPDATE streams SET version = 999 WHERE name = 's1'",
            "the stream 's1' are not contiguous",
        ),
        ("DELETE FROM type_segments WHERE segment = 1", "is not known to be in segment 1"),
        ("INSERT INTO type_segments VALUES ('T1', 2)", "types of segments that are not complete"),
        ("UPDATE checkpoints SET consumers = x'7b'", "the consumers of 'mailer' cannot be read"),
        ("UPDATE checkpoints SET position = -1", "the checkpoint 'mailer' is at -1"),
    ],
)
def test_what_is_out_of_step_is_told(file: Path, sql: str, problem: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(sql)
    connection.commit()
    connection.close()
    assert any(problem in told for told in problems_of(file)), problems_of(file)


def test_an_index_that_is_damaged_is_told(file: Path) -> None:
    """Which a look at the tables alone does not find."""
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA writable_schema = on")
    connection.execute(
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE "
        "name = 'sqlite_autoindex_streams_1') WHERE name = 'gaps'"
    )
    connection.commit()
    connection.close()
    assert problems_of(file)


def test_what_numbers_its_events_wrongly_is_not_backed_up(file: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("DELETE FROM blocks WHERE last_position = 500")
    connection.commit()
    connection.close()
    with SqliteEngine(file.parent) as engine:
        with pytest.raises(StoreDamaged, match="after position 400 comes 501"):
            engine.back_up("alice", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
