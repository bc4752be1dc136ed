"""What was cut off is gone on with, and no file looks whole that is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from ebus.core.store import TenantStore
from ebus.moving import (
    FileOutput,
    Input,
    Moved,
    MoveRefused,
    export_log,
    files,
    import_log,
    reading,
)
from ebus.testing.events import new_event
from tests.moving.logs import ODD, exported, fill, memory_store, named, wires

NAMES = ["a.ndjson", "a.ndjson.zst"]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE_BYTES", 1_000)
    monkeypatch.setattr(files, "PAGE_BYTES", 1_000)
    monkeypatch.setattr(files, "FRAME_BYTES", 5_000)


@pytest.fixture
def source() -> TenantStore:
    store = memory_store()
    fill(store, [*named(100), *ODD, *named(100, first=101)])
    store.save_checkpoint("mailer", 3)
    return store


def export_to(path: Path, source: TenantStore, *, checkpoints: bool = False) -> Moved:
    with FileOutput(path) as output:
        return export_log(source, output, checkpoints=checkpoints)


def text_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return Input(file).read(-1)


def partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 0.8, 0.999, 1.0])
def test_an_export_that_was_cut_off_anywhere_goes_on(
    name: str, share: float, tmp_path: Path, source: TenantStore
) -> None:
    path = tmp_path / name
    export_to(path, source, checkpoints=True)
    whole, text = path.read_bytes(), text_of(path)
    path.unlink()
    partial(path).write_bytes(whole[: int(len(whole) * share)])
    moved = export_to(path, source, checkpoints=True)
    assert text_of(path) == text
    assert (moved.events, moved.last_position) == (205, 205)
    assert moved.digest == export_to(tmp_path / "anew", source).digest
    if 0.4 <= share < 0.9:
        assert 0 < moved.appended < 200
    assert not partial(path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_an_export_goes_on_with_a_source_that_has_grown(
    name: str, tmp_path: Path, source: TenantStore
) -> None:
    path = tmp_path / name
    export_to(path, source)
    path.rename(partial(path))
    fill(source, named(100, first=201))
    assert export_to(path, source).appended == 100
    assert text_of(path) == exported(source)


@pytest.mark.parametrize("name", NAMES)
def test_a_partial_file_of_another_log_is_left_alone(
    name: str, tmp_path: Path, source: TenantStore
) -> None:
    path = tmp_path / name
    export_to(path, source)
    path.rename(partial(path))
    before = partial(path).read_bytes()
    other = memory_store()
    for wrong in (100, 205, 300):
        fill(other, [new_event() for _ in range(wrong - other.head())])
        with pytest.raises(MoveRefused, match="of another export"):
            export_to(path, other)
    with pytest.raises(MoveRefused, match="begins at position 1, not at 7"):
        with FileOutput(path) as output:
            export_log(source, output, start=7)
    assert partial(path).read_bytes() == before
    assert not path.exists()


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path, source: TenantStore) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"precious")
    with pytest.raises(MoveRefused, match="is there already"):
        export_to(path, source)
    assert [it.name for it in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"precious"


def test_two_exports_into_one_file_do_not_mix(tmp_path: Path, source: TenantStore) -> None:
    with FileOutput(tmp_path / "a") as output:
        with pytest.raises(MoveRefused, match="another export"):
            FileOutput(tmp_path / "a")
        export_log(source, output)
    assert (tmp_path / "a").read_bytes() == exported(source)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_leaves_a_partial_file_to_go_on_with(
    name: str, tmp_path: Path, source: TenantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write = os.write
    room = 3_000 if name == NAMES[0] else 700

    def small(fd: int, data: bytes) -> int:
        size = os.fstat(fd).st_size
        if size >= room:
            raise OSError(28, "No space left on device")
        return write(fd, data[: room - size])

    monkeypatch.setattr(os, "write", small)
    with pytest.raises(OSError, match="No space left"):
        export_to(path, source)
    assert not path.exists()
    assert partial(path).stat().st_size == room
    monkeypatch.setattr(os, "write", write)
    export_to(path, source)
    assert text_of(path) == exported(source)


def test_an_export_without_room_for_anything_leaves_nothing(
    tmp_path: Path, source: TenantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        export_to(tmp_path / "a", source)
    assert list(tmp_path.iterdir()) == []


class Cut(Exception):
    pass


@pytest.mark.parametrize("appends", [0, 1, 3])
def test_an_import_goes_on_where_it_was_cut_off(appends: int, source: TenantStore) -> None:
    target = memory_store()
    file = exported(source)
    append: Callable[..., object] = target.append
    done = 0

    def cut(*arguments: object, **options: object) -> object:
        nonlocal done
        if done == appends:
            raise Cut
        done += 1
        return append(*arguments, **options)

    target.append = cut  # type: ignore[method-assign,assignment]
    with pytest.raises(Cut):
        import_log(Input(BytesIO(file)), target)
    del target.append
    stored = target.head()
    moved = import_log(Input(BytesIO(file)), target)
    assert (moved.events, moved.appended) == (205, 205 - stored)
    assert import_log(Input(BytesIO(file)), target).appended == 0
    assert wires(target) == wires(source)
