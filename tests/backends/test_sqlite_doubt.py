"""What a store does about a WAL that it cannot trust, beside whatever else has the file open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from ebus import Append, NewEvent
from ebus.backends.sqlite import SqliteEngine, SqliteStore, store, write_back
from ebus.backends.sqlite.connection import connect_for_checkpoints
from ebus.core.errors import StoreUnavailable
from ebus.core.limits import Limits
from tests.torture.disk import Disk

LIMITS = Limits(wal_checkpoint_bytes=64 * 1024)
EVENT = NewEvent.of("T", "x" * 2_000, "2024-01-01T00:00:00Z")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    with SqliteEngine(tmp_path / "data", limits=LIMITS) as engine:
        yield engine


@pytest.fixture
def alice(engine: SqliteEngine) -> SqliteStore:
    return engine.open("alice")


def test_a_wal_is_in_doubt_once_the_connection_that_failed_is_closed(
    alice: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a commit begins anew while SQLite still counts as written back what is lost."""
    back = alice._write_back
    at_the_close: list[bool] = []

    class Failing:
        def __init__(self, path: Path) -> None:
            self._connection = connect_for_checkpoints(path)

        def wal_checkpoint(self, **_: Any) -> None:
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)

        def close(self) -> None:
            at_the_close.append(back.is_doubtful)
            self._connection.close()

    monkeypatch.setattr(write_back, "connect_for_checkpoints", Failing)
    while not at_the_close:
        alice.append([EVENT] * 4)
    back.close()
    assert at_the_close == [False]
    assert back.is_doubtful


def test_no_connection_for_quick_reads_is_opened_while_a_wal_is_begun_anew(
    alice: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()

    def note(*_: object) -> None:
        opened.set()
        raise StoreUnavailable("enough")

    monkeypatch.setattr(store, "SqliteQuickReads", note)

    def open_quick_reads() -> None:
        with pytest.raises(StoreUnavailable):
            alice.quick_reads()

    opening = threading.Thread(target=open_quick_reads)
    with alice._without_readers():
        opening.start()
        assert not opened.wait(0.2)
    opening.join(60)
    assert opened.is_set()


@pytest.mark.parametrize("method", ["put_away", "close"])
def test_a_store_that_could_not_begin_anew_can_be_closed_and_leaves_its_wal(
    engine: SqliteEngine,
    alice: SqliteStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise apsw.CantOpenError("too many open files")

    alice.append([EVENT])
    assert alice.quick_reads().head() == 1
    alice._write_back.is_doubtful = True
    with monkeypatch.context() as broken:
        broken.setattr(store, "connect", fail)
        with pytest.raises(StoreUnavailable):
            alice.append([EVENT])
        assert alice.head() == 1
        getattr(alice, method)()
        alice.close()
    assert alice.closed
    assert (tmp_path / "data" / "alice.db-wal").stat().st_size > 0
    again = engine.open("alice")
    assert again is not alice
    assert again._write_back.is_doubtful
    assert again.append([EVENT]).first_position == 2


def test_what_was_refused_is_not_found_after_its_tenant_was_to_be_put_away(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk")
    disk.root.mkdir()
    failing: set[str] = set()

    def fault(kind: str, _: str) -> Exception | None:
        if kind not in failing:
            return None
        failing.add("write")  # and what would take the place of the commit cannot be written
        return apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)

    disk.fault = fault
    with disk.mounted(), SqliteEngine(disk.root / "data") as engine:
        alice = engine.open("alice")
        alice.append([NewEvent.of("Good", 1)])
        failing.add("sync")
        with pytest.raises(StoreUnavailable):
            alice.append([NewEvent.of("Refused", 2)])
        with pytest.raises(StoreUnavailable):
            alice.put_away()
        failing.clear()
        assert engine.open("alice") is alice
        assert alice.append([NewEvent.of("Good", 3)]).first_position == 2
        alice.put_away()
        assert [event.type for event in engine.open("alice").read(1).events] == ["Good", "Good"]


def test_a_wal_is_written_back_although_no_thread_could_be_started_at_first(
    alice: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused: list[str] = []

    def start_later(thread: threading.Thread) -> None:
        if thread.name.startswith("ebus-checkpoint") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    for _ in range(400):
        alice.append([EVENT] * 4)
    assert refused
    assert (tmp_path / "data" / "alice.db-wal").stat().st_size < 1024 * 1024


def test_appends_that_are_all_refused_wait_for_nobody(alice: SqliteStore, tmp_path: Path) -> None:
    holder = apsw.Connection(str(tmp_path / "data" / "alice.db"))
    holder.execute("BEGIN IMMEDIATE")
    results = alice.commit([Append([]), Append([NewEvent.of("", 1)])])
    assert [type(result).__name__ for result in results] == ["InvalidBatch", "InvalidEvent"]
    holder.execute("ROLLBACK")
    holder.close()


def test_nothing_is_acknowledged_once_the_wal_is_gone(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    alice.append([EVENT])
    (tmp_path / "data" / "alice.db-wal").unlink()
    with pytest.raises(StoreUnavailable):
        alice.append([EVENT])
    with pytest.raises(StoreUnavailable):
        engine.check_health()
    engine.close()
    with SqliteEngine(tmp_path / "data") as again:
        assert again.open("alice").head() == 1
