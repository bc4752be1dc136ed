"""What the suite cannot see: what a file is after a crash, and what a disk that fails leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebus.core.engine import Durability
from ebus.core.errors import (
    StoreBusy,
    StoreDamaged,
    StoreForeign,
    StoreFull,
    StoreNewer,
    StoreUnavailable,
)
from ebus.core.event import NewEvent
from ebus.testing.events import new_event
from ebus_jsonl import JsonlEngine
from ebus_jsonl import file as jsonl_file

BATCHES = [
    [new_event(b"1"), new_event(b"[\n2\n]", id="two")],
    [new_event(b"3", stream="s", metadata={"user": "x"})],
    [new_event(b'"four%b"' % (b"r" * 600)), new_event(b"5"), new_event(b"6")],
]
HEADS = (0, 2, 3, 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of the tenant alice is."""
    return tmp_path / "alice.jsonl"


def filled(path: Path, durability: Durability = "full") -> list[int]:
    """Append all batches. Returns where in the file each commit ends, and the header first."""
    ends = []
    with JsonlEngine(path.parent, durability=durability) as engine:
        store = engine.open("alice")
        ends.append(path.stat().st_size)
        for batch in BATCHES:
            store.append(batch)
            ends.append(path.stat().st_size)
    return ends


def found(path: Path) -> list[bytes]:
    """The data of all events that are there. One more is appended, found again, and left out."""
    with JsonlEngine(path.parent) as engine:
        store = engine.open("alice")
        head = store.head()
        assert store.append([new_event(b'"new"')]).first_position == head + 1
    with JsonlEngine(path.parent) as engine:
        events = engine.open("alice").read(1).events
    assert [event.position for event in events] == list(range(1, head + 2))
    assert bytes(events.pop().data) == b'"new"'
    return [bytes(event.data) for event in events]


def data_of(*batches: list[NewEvent]) -> list[bytes]:
    return [bytes(event.data) for batch in batches for event in batch]


def test_one_line_is_one_record_whatever_the_data_holds(path: Path) -> None:
    filled(path)
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 1 + len(data_of(*BATCHES)) + len(BATCHES)
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_a_file_that_ends_anywhere_the_whole_commits_are_left(path: Path) -> None:
    ends = filled(path)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        commits = sum(end <= size for end in ends[1:])
        with JsonlEngine(path.parent) as engine:
            engine.open("alice")
        assert path.read_bytes() == whole[: ends[commits]]
        assert found(path) == data_of(*BATCHES[:commits]), f"of {size} bytes"


@pytest.mark.parametrize("sector", [16, 64, 512])
def test_of_a_last_commit_that_was_written_in_part_nothing_is_left(path: Path, sector: int) -> None:
    """After a power cut any part of what was not synced may be missing, and reads as zeros."""
    *_, begin, end = filled(path)
    whole = path.read_bytes()
    for at in range(begin, end, sector):
        upto = min(at + sector, end)
        path.write_bytes(whole[:at] + bytes(upto - at) + whole[upto:])
        assert found(path) == data_of(*BATCHES[:-1]), f"without {at} to {upto}"


def test_what_was_on_the_disk_and_is_not_any_more_is_refused_and_not_cut_off(path: Path) -> None:
    header, _, end, _ = filled(path)
    whole = path.read_bytes()
    for at in range(header, end):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        path.write_bytes(damaged)
        with JsonlEngine(path.parent) as engine, pytest.raises(StoreDamaged):
            engine.open("alice")
        assert path.read_bytes() == damaged


def test_what_was_never_synced_may_be_missing_before_what_is_there(path: Path) -> None:
    _, first, second, _ = filled(path, "normal")
    whole = path.read_bytes()
    path.write_bytes(whole[:first] + bytes(second - first) + whole[second:])
    assert found(path) == data_of(BATCHES[0])


def test_a_file_of_others_is_left_as_it_is(path: Path) -> None:
    for begin, error in {
        b'{"position":1}\n': StoreForeign,
        b"x": StoreForeign,
        b'{"ebus-jsonl":2}\n': StoreNewer,
    }.items():
        path.write_bytes(begin)
        with JsonlEngine(path.parent) as engine:
            for look in (engine.open, engine.inspect):
                with pytest.raises(error):
                    look("alice")
        assert path.read_bytes() == begin


FAILURES = {
    "a sync": ("sync", errno.EIO, StoreUnavailable),
    "a write": ("write_all", errno.EIO, StoreUnavailable),
    "a full disk": ("write_all", errno.ENOSPC, StoreFull),
}


def failing(real: Callable[..., None], number: int, times: int) -> Callable[..., None]:
    """What fails so many times, a write half way, and then does its work."""

    def fail(fd: int, *write: Any) -> None:
        nonlocal times
        if times == 0:
            real(fd, *write)
            return
        times -= 1
        if write:
            data, offset = write
            os.pwrite(fd, data[: len(data) // 2], offset)
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_a_disk_refuses_is_not_there_and_the_next_append_is(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: tuple[str, int, type[Exception]],
    times: int,
    durability: Durability,
) -> None:
    name, number, error = failure
    real = getattr(jsonl_file, name)
    with JsonlEngine(path.parent, durability=durability) as engine:
        store = engine.open("alice")
        store.append(BATCHES[0])
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(jsonl_file, name, failing(real, number, times))
            while store.head() == 2:
                try:
                    store.append(BATCHES[1])
                except error:
                    assert store.head() == 2
                    assert times > 1 or path.read_bytes() == before
        store.append(BATCHES[2])
    assert found(path) == data_of(*BATCHES)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str | bytes]:
    """What is written to a file and when it is synced, in order."""
    done: list[str | bytes] = []
    write_all, fsync = jsonl_file.write_all, os.fsync

    def noted_write(fd: int, data: bytes, offset: int) -> None:
        write_all(fd, data, offset)
        if data:
            done.append(data)

    def noted_sync(fd: int) -> None:
        fsync(fd)
        done.append("sync")

    monkeypatch.setattr(jsonl_file, "write_all", noted_write)
    monkeypatch.setattr(os, "fsync", noted_sync)
    return done


by_fsync = pytest.mark.skipif(sys.platform == "darwin", reason="there, another call syncs")


@by_fsync
def test_with_full_durability_a_write_is_answered_after_its_sync(
    path: Path, done: list[str | bytes]
) -> None:
    with JsonlEngine(path.parent) as engine:
        store = engine.open("alice")
        done.clear()
        store.append(BATCHES[0])
        assert [type(it) for it in done] == [bytes, str]
        store.set_durability("normal")
        store.append(BATCHES[1])
        store.save_checkpoint("mailer", 1)
        assert [type(it) for it in done[2:]] == [bytes, bytes]
        store.set_durability("full")
        store.append(BATCHES[2])
        assert [type(it) for it in done[4:]] == [str, bytes, str]


@by_fsync
def test_what_a_failed_sync_was_for_is_written_anew(
    path: Path, done: list[str | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system takes it for written: a second sync would succeed, and prove nothing."""
    with JsonlEngine(path.parent, durability="normal") as engine:
        store = engine.open("alice")
        done.clear()
        store.append(BATCHES[0])
        store.set_durability("full")
        with monkeypatch.context() as patch:
            patch.setattr(jsonl_file, "sync", failing(jsonl_file.sync, errno.EIO, 1))
            with pytest.raises(StoreUnavailable):
                store.append(BATCHES[1])
        first, again, synced = done
        assert (first, synced) == (again, "sync")


@by_fsync
def test_what_no_sync_has_confirmed_is_written_anew_by_who_opens_it(
    path: Path, done: list[str | bytes]
) -> None:
    """Nobody knows how the process fared that left it; and who reads it must find it again."""
    _, begin, *_ = filled(path, "normal")
    with JsonlEngine(path.parent) as engine:
        store = engine.open("alice")
        store.append([new_event(b"7")])
    whole = path.read_bytes()
    del done[:]
    with JsonlEngine(path.parent) as engine:
        engine.open("alice")
    [again, *_] = done
    assert isinstance(again, bytes)
    assert whole.endswith(again)
    assert again.startswith(b'{"position":7,')
    path.write_bytes(whole[:begin])  # which has no commit that was synced
    del done[:]
    with JsonlEngine(path.parent) as engine:
        engine.open("alice")
    assert done[0] == whole[:begin]


def test_a_tenant_is_open_in_one_engine_at_a_time(path: Path) -> None:
    with JsonlEngine(path.parent) as one, JsonlEngine(path.parent) as other:
        one.open("alice")
        for use in (other.open, other.drop):
            with pytest.raises(StoreBusy):
                use("alice")
        other.open("bob").append(BATCHES[0])
        one.open("alice").close()
        assert other.open("alice").head() == 0


def test_what_is_appended_to_a_file_that_was_removed_is_refused(path: Path) -> None:
    with JsonlEngine(path.parent) as engine:
        store = engine.open("alice")
        store.append(BATCHES[0])
        path.unlink()
        with pytest.raises(StoreUnavailable):
            store.append(BATCHES[1])


WRITER = """
import sys
from ebus import NewEvent, open_engine

store = open_engine(sys.argv[1]).open("alice")
while True:
    appended = store.append([NewEvent.of("Numbered", number) for number in range(3)])
    print(appended.last_position, flush=True)
"""


def test_what_was_acknowledged_is_there_after_the_process_was_killed(path: Path) -> None:
    acknowledged = 0
    for _ in range(3):
        program = [sys.executable, "-c", WRITER, f"jsonl:{path.parent}"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                acknowledged = int(writer.stdout.readline())
            writer.kill()
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        with JsonlEngine(path.parent) as engine:
            store = engine.open("alice")
            assert store.head() >= acknowledged
            assert store.head() % 3 == 0
            assert len(store.read(1).events) == store.head()
