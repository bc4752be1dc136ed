"""Deleted tenants' files go to the trash, whole, and are purged from there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.core.engine import SupportsTrash
from ebus.core.errors import InvalidInput, StoreBusy
from ebus.testing.observation import read_through

EVENTS = [NewEvent.of("T", number) for number in range(3)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def values(directory: Path, name: str) -> list[object]:
    with SqliteEngine(directory) as engine:
        return [event.value() for event in engine.open(name).read(1).events]


def test_what_was_stored_is_in_the_trash_and_the_name_is_free(data: Path) -> None:
    with SqliteEngine(data) as engine:
        assert isinstance(engine, SupportsTrash)
        engine.open("acme").append(EVENTS)
        engine.open("acme").close()
        size = engine.discard("acme", "acme-1")
        assert engine.tenants() == []
        assert engine.open("acme").append(EVENTS[:1]).first_position == 1
    trash = data / "tenants.trash" / "acme-1"
    assert os.listdir(trash) == ["acme.db"]
    assert size == (trash / "acme.db").stat().st_size > 0
    assert trash.stat().st_mode & 0o777 == 0o700
    assert values(trash, "acme") == [0, 1, 2]


def test_a_tenant_that_was_put_away_takes_its_log_along(data: Path) -> None:
    with SqliteEngine(data) as engine:
        store = engine.open("acme")
        store.append(EVENTS)
        store.put_away()
        assert (data / "acme.db-wal").stat().st_size
        engine.discard("acme", "acme-1")
        assert not list(data.glob("acme*"))
        assert read_through(engine.open("acme")) == []
    assert values(data / "tenants.trash" / "acme-1", "acme") == [0, 1, 2]


def test_what_somebody_has_open_stays(data: Path) -> None:
    with SqliteEngine(data) as engine, SqliteEngine(data) as other:
        engine.open("acme").append(EVENTS)
        with pytest.raises(StoreBusy):
            engine.discard("acme", "acme-1")
        with pytest.raises(StoreBusy):
            other.discard("acme", "acme-1")
        assert engine.open("acme").head() == 3


@pytest.mark.parametrize("moved", [["acme.db"], ["acme.db", "acme.db-wal"], []])
def test_a_move_that_was_cut_off_is_finished(data: Path, moved: list[str]) -> None:
    with SqliteEngine(data) as engine:
        store = engine.open("acme")
        store.append(EVENTS)
        store.put_away()
        kept = {name: (data / name).read_bytes() for name in ("acme.db", "acme.db-wal")}
    (data / "acme.db").write_bytes(kept["acme.db"])  # as it was before the engine's end
    (data / "acme.db-wal").write_bytes(kept["acme.db-wal"])
    trash = data / "tenants.trash" / "acme-1"
    trash.mkdir(parents=True)
    for name in moved:
        (data / name).rename(trash / name)
    with SqliteEngine(data) as engine:
        assert engine.discard("acme", "acme-1") > 0
        assert not list(data.glob("acme*"))
    assert values(trash, "acme") == [0, 1, 2]


def test_a_damaged_file_goes_as_it_is(data: Path) -> None:
    data.mkdir()
    (data / "acme.db").write_bytes(b"no database" * 1_000)
    with SqliteEngine(data) as engine:
        assert engine.discard("acme", "acme-1") == 11_000


def test_nothing_is_discarded_of_a_tenant_that_never_was(data: Path) -> None:
    with SqliteEngine(data) as engine:
        assert engine.discard("acme", "acme-1") == 0
        assert not data.exists()
        engine.purge("acme-1")


def test_purging_deletes_for_good_and_twice_is_fine(data: Path) -> None:
    with SqliteEngine(data) as engine:
        engine.open("acme").append(EVENTS)
        engine.open("acme").close()
        engine.discard("acme", "acme-1")
        engine.purge("acme-1")
        engine.purge("acme-1")
    assert os.listdir(data / "tenants.trash") == []


@pytest.mark.parametrize("trash", ["", "..", "a/b", "a.b", "x" * 256])
def test_an_id_is_no_path(data: Path, trash: str) -> None:
    with SqliteEngine(data) as engine:
        with pytest.raises(InvalidInput):
            engine.discard("acme", trash)
        with pytest.raises(InvalidInput):
            engine.purge(trash)
