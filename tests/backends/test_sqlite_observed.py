"""What a store of SQLite tells of itself: syncs, writing back, and sizes."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from ebus.backends.sqlite.engine import SqliteEngine
from ebus.backends.sqlite.store import SqliteStore
from ebus.core.engine import Durability, SupportsDurability
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.observing import SupportsObserver, SupportsSizes

EVENT = NewEvent(type="OrderPlaced", data=msgspec.Raw(b"{}"))


class Observer:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.syncs: list[int] = []
        self.has_written_back = threading.Event()

    def committed(self, writes: int, duration_ns: int) -> None:
        pytest.fail("who commits says this")

    def synced(self, duration_ns: int) -> None:
        self.syncs.append(duration_ns)

    def written_back(self, duration_ns: int) -> None:
        assert duration_ns > 0
        self.has_written_back.set()


@pytest.mark.parametrize(("durability", "syncs"), [("full", 3), ("normal", 0)])
def test_each_commit_that_syncs_is_told(tmp_path: Path, durability: Durability, syncs: int) -> None:
    observer = Observer()
    with SqliteEngine(tmp_path, durability=durability) as engine:
        store = engine.open("alice")
        assert isinstance(store, SupportsObserver)
        store.append([EVENT])
        store.observe(observer)
        store.append([EVENT])
        store.append([EVENT, EVENT])
        store.save_checkpoint("mailer", 1)
    assert len(observer.syncs) == syncs
    assert all(duration_ns > 0 for duration_ns in observer.syncs)


def test_syncs_are_told_while_there_are_any(tmp_path: Path) -> None:
    observer = Observer()
    with SqliteEngine(tmp_path, durability="normal") as engine:
        store = engine.open("alice")
        assert isinstance(store, SupportsObserver)
        assert isinstance(store, SupportsDurability)
        store.observe(observer)
        changes: list[tuple[Durability, int]] = [("full", 1), ("normal", 1), ("full", 2)]
        for durability, syncs in changes:
            store.set_durability(durability)
            store.append([EVENT])
            assert len(observer.syncs) == syncs


def test_who_begins_to_observe_during_a_commit_is_told_of_the_next(tmp_path: Path) -> None:
    observer = Observer()
    with SqliteEngine(tmp_path) as engine:
        store = engine.open("alice")
        assert isinstance(store, SqliteStore)
        store.append([EVENT])

        def begin(*_: object) -> bool:
            store.observe(observer)
            return True

        store._writer.exec_trace = begin
        store.append([EVENT])
        assert observer.syncs == []
        store.append([EVENT])
    assert len(observer.syncs) == 1


def test_writing_a_wal_back_is_told(tmp_path: Path) -> None:
    observer = Observer()
    with SqliteEngine(tmp_path, limits=Limits(wal_checkpoint_bytes=4_096)) as engine:
        store = engine.open("alice")
        assert isinstance(store, SupportsObserver)
        store.observe(observer)
        store.append([EVENT])
        assert observer.has_written_back.wait(10)


def test_sizes_are_those_of_the_files_whether_open_or_not(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    assert isinstance(engine, SupportsSizes)
    assert engine.sizes("alice") is None
    with engine:
        engine.open("alice").append([EVENT])
        sizes = engine.sizes("alice")
        assert sizes is not None
        assert sizes.database_bytes == (tmp_path / "alice.db").stat().st_size
        assert sizes.wal_bytes == (tmp_path / "alice.db-wal").stat().st_size > 0
    closed = SqliteEngine(tmp_path).sizes("alice")
    assert closed is not None
    assert closed.database_bytes > 0
    assert closed.wal_bytes == 0
