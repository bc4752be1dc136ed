"""The WAL of a tenant's file: written back beside the appends, and bounded by that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from ebus import Append, NewEvent
from ebus.backends.sqlite import SqliteEngine, SqliteStore, write_back
from ebus.backends.sqlite.connection import connect_for_checkpoints
from ebus.backends.sqlite.reader import Reader
from ebus.backends.sqlite.resting import MAX_RESTING_WAL_BYTES
from ebus.core.engine import Durability
from ebus.core.errors import StoreClosed, StoreForeign, StoreUnavailable
from ebus.core.event import event_bytes
from ebus.core.limits import Limits
from ebus.core.store import SupportsQuickReads

KIB = 1024
CHECKPOINT_BYTES = 64 * KIB
LIMITS = Limits(wal_checkpoint_bytes=CHECKPOINT_BYTES)
EVENT = NewEvent.of("T", "x" * 2_000, "2024-01-01T00:00:00Z")


@pytest.fixture(params=["full", "normal"])
def durability(request: pytest.FixtureRequest) -> Durability:
    durability: Durability = request.param
    return durability


def wal_bytes(directory: Path) -> int:
    return (directory / "alice.db-wal").stat().st_size


def append_until(store: SqliteStore, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        store.append([EVENT] * 4)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.0001)


class Checkpoints(ThreadPoolExecutor):
    """The threads that write a WAL back. While `gate` is shut they wait, with nothing done."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked = self.ended = 0
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked += 1
        return super().submit(self._run, fn)

    def _run(self, write_back: Callable[[], None]) -> None:
        self.gate.wait(60)
        self.threads.add(threading.get_ident())
        write_back()
        self.ended += 1

    def all_ended(self) -> bool:
        return self.ended == self.asked


@pytest.fixture
def checkpoints() -> Checkpoints:
    return Checkpoints()


@pytest.fixture
def engine(
    tmp_path: Path, durability: Durability, checkpoints: Checkpoints
) -> Iterator[SqliteEngine]:
    with SqliteEngine(tmp_path, durability=durability, limits=LIMITS) as engine:
        engine._checkpoints = checkpoints
        yield engine


@pytest.fixture
def alice(engine: SqliteEngine) -> SqliteStore:
    return engine.open("alice")


def times_begun(directory: Path) -> int:
    """How often the WAL was begun anew (sqlite.org/fileformat2.html, "WAL header")."""
    with (directory / "alice.db-wal").open("rb") as wal:
        return int.from_bytes(wal.read(16)[12:], "big")


@contextmanager
def a_reader_of_another_process(directory: Path) -> Iterator[None]:
    """A read transaction that is not over before the block is."""
    reader = apsw.Connection(str(directory / "alice.db"))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM blocks").fetchall()
    yield
    reader.close()


# Bounded


def test_the_wal_stays_bounded_under_constant_appends(alice: SqliteStore, tmp_path: Path) -> None:
    sizes = []
    for _ in range(2_000):
        alice.append([EVENT] * 4)
        sizes.append(wal_bytes(tmp_path))
    assert max(sizes) < 8_000 * event_bytes(EVENT) // 4


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set while the disk follows. Cleared, writing a WAL back begins and does not get on."""
    follows = threading.Event()
    follows.set()

    def connect_slowly(path: Path) -> apsw.Connection:
        assert follows.wait(60)
        return connect_for_checkpoints(path)

    monkeypatch.setattr(write_back, "connect_for_checkpoints", connect_slowly)
    return follows


def test_an_append_waits_for_a_disk_that_is_far_behind(
    checkpoints: Checkpoints, slow_disk: threading.Event, alice: SqliteStore, tmp_path: Path
) -> None:
    slow_disk.clear()
    far_behind = write_back.FAR_BEHIND_STEPS * CHECKPOINT_BYTES
    append_until(alice, lambda: wal_bytes(tmp_path) >= far_behind + 16 * KIB)
    size = wal_bytes(tmp_path)
    assert alice.commit_quickly([Append([EVENT])]) is None
    began_s = time.monotonic()
    appending = threading.Thread(target=alice.append, args=([EVENT],))
    appending.start()
    appending.join(write_back.MAX_WAIT_S / 4)
    assert wal_bytes(tmp_path) == size or time.monotonic() - began_s > write_back.MAX_WAIT_S
    slow_disk.set()
    appending.join(60)
    wait_until(checkpoints.all_ended)
    assert alice.head() > 0
    append_until(alice, lambda: times_begun(tmp_path) > 0)


def test_nobody_waits_for_ever_for_a_disk_that_does_not_follow(
    slow_disk: threading.Event,
    alice: SqliteStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_back, "MAX_WAIT_S", 0.001)
    slow_disk.clear()
    far_behind = write_back.FAR_BEHIND_STEPS * CHECKPOINT_BYTES
    append_until(alice, lambda: wal_bytes(tmp_path) > 2 * far_behind)
    slow_disk.set()


def test_nobody_waits_for_the_disk_of_another_tenant(
    checkpoints: Checkpoints,
    alice: SqliteStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_back, "MAX_WAIT_S", 3_600)
    checkpoints.gate.clear()  # the thread is busy with others
    far_behind = write_back.FAR_BEHIND_STEPS * CHECKPOINT_BYTES
    try:
        append_until(alice, lambda: wal_bytes(tmp_path) > 2 * far_behind)
    finally:
        checkpoints.gate.set()


def test_after_every_checkpoint_the_wal_is_begun_anew(
    checkpoints: Checkpoints, alice: SqliteStore, tmp_path: Path
) -> None:
    sizes = []
    for _ in range(300):
        alice.append([EVENT])
        sizes.append(wal_bytes(tmp_path))
        wait_until(checkpoints.all_ended)
    assert max(sizes) < 2 * CHECKPOINT_BYTES
    assert times_begun(tmp_path) in (checkpoints.ended, checkpoints.ended - 1)


def test_a_checkpoint_happens_beside_the_thread_that_appends(
    checkpoints: Checkpoints, alice: SqliteStore
) -> None:
    append_until(alice, lambda: checkpoints.ended >= 3)
    assert threading.get_ident() not in checkpoints.threads


def test_no_append_writes_back_itself_while_a_checkpoint_takes_long(
    checkpoints: Checkpoints, alice: SqliteStore, tmp_path: Path
) -> None:
    checkpoints.gate.clear()
    append_until(alice, lambda: checkpoints.asked == 1)
    begun = times_begun(tmp_path)
    for _ in range(60):  # it is not far behind by then
        alice.append([EVENT] * 4)
    assert (checkpoints.asked, checkpoints.ended) == (1, 0)
    assert times_begun(tmp_path) == begun
    checkpoints.gate.set()


def test_a_small_wal_is_left_alone(checkpoints: Checkpoints, alice: SqliteStore) -> None:
    for _ in range(5):
        alice.append([EVENT])
    assert checkpoints.asked == 0


def test_what_was_appended_during_checkpoints_is_all_there(
    checkpoints: Checkpoints, engine: SqliteEngine, alice: SqliteStore
) -> None:
    append_until(alice, lambda: checkpoints.ended >= 5)
    head = alice.head()
    alice.close()
    alice = engine.open("alice")
    positions: list[int] = []
    start: int | None = 1
    while start is not None:
        page = alice.read(start)
        positions += [event.position for event in page.events]
        start = page.next
    assert positions == list(range(1, head + 1))


# When it cannot be written back


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Checkpoints cannot even open the file, until this is undone."""

    def fail(path: Path) -> apsw.Connection:
        raise StoreUnavailable(f"{path}: the disk is gone")

    monkeypatch.setattr(write_back, "connect_for_checkpoints", fail)
    return monkeypatch


def test_a_checkpoint_that_fails_is_logged_and_appends_go_on(
    checkpoints: Checkpoints,
    alice: SqliteStore,
    failing: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append_until(alice, lambda: checkpoints.ended == 1)
    alice.append([EVENT])
    assert caplog.records  # two, where a machine was so slow that the next was due
    for record in caplog.records:
        assert (record.name, record.levelname) == ("ebus.sqlite", "WARNING")
        assert "alice.db: the disk is gone" in record.getMessage()


def test_after_one_that_failed_the_next_checkpoint_is_tried_a_while_later(
    checkpoints: Checkpoints, alice: SqliteStore, tmp_path: Path, failing: pytest.MonkeyPatch
) -> None:
    append_until(alice, lambda: checkpoints.ended == 1)
    wait_until(checkpoints.all_ended)
    alice.append([EVENT])
    assert checkpoints.all_ended()
    failing.undo()
    begun = times_begun(tmp_path)
    append_until(alice, lambda: times_begun(tmp_path) > begun)


def test_a_reader_of_another_process_stops_the_wal_only_while_it_reads(
    checkpoints: Checkpoints,
    alice: SqliteStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    alice.append([EVENT])
    with a_reader_of_another_process(tmp_path):
        begun = times_begun(tmp_path)
        append_until(alice, lambda: checkpoints.ended >= 3)
        assert times_begun(tmp_path) == begun
        assert wal_bytes(tmp_path) > 2 * CHECKPOINT_BYTES
    append_until(alice, lambda: times_begun(tmp_path) > begun)
    assert caplog.text == ""  # there is nothing to tell of: later will do


def test_a_wal_that_grew_under_a_long_read_gives_its_space_back(
    alice: SqliteStore, tmp_path: Path
) -> None:
    alice._writer.pragma("journal_size_limit", 8 * CHECKPOINT_BYTES)
    with a_reader_of_another_process(tmp_path):
        append_until(alice, lambda: wal_bytes(tmp_path) > 32 * CHECKPOINT_BYTES)
    append_until(alice, lambda: wal_bytes(tmp_path) <= 8 * CHECKPOINT_BYTES)


def test_closing_waits_for_a_checkpoint_and_leaves_no_wal(
    checkpoints: Checkpoints, engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    checkpoints.gate.clear()
    append_until(alice, lambda: checkpoints.asked == 1)
    closing = threading.Thread(target=alice.close)
    closing.start()
    checkpoints.gate.set()
    closing.join(60)
    wait_until(checkpoints.all_ended)
    assert [file.name for file in tmp_path.iterdir()] == ["alice.db"]


def test_a_checkpoint_whose_turn_comes_after_the_store_was_closed_does_nothing(
    checkpoints: Checkpoints, alice: SqliteStore, tmp_path: Path
) -> None:
    checkpoints.gate.clear()
    append_until(alice, lambda: checkpoints.asked == 1)
    alice.close()
    before = (tmp_path / "alice.db").read_bytes()
    checkpoints.gate.set()
    wait_until(checkpoints.all_ended)
    assert [file.name for file in tmp_path.iterdir()] == ["alice.db"]
    assert (tmp_path / "alice.db").read_bytes() == before


# Put away


def files_in(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def test_a_tenant_that_is_put_away_keeps_its_wal_and_goes_on_with_it(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    for position in range(1, 5):  # too few for a checkpoint
        store = engine.open("alice")
        assert store.append([EVENT]).first_position == position
        size = (tmp_path / "alice.db").stat().st_size
        store.put_away()
        assert "alice.db-wal" in files_in(tmp_path)
    assert times_begun(tmp_path) == 0
    assert (tmp_path / "alice.db").stat().st_size == size  # all of it is in the WAL
    assert engine.open("alice").count() == 4


def test_a_store_that_was_put_away_is_closed(alice: SqliteStore) -> None:
    alice.append([EVENT])
    alice.put_away()
    with pytest.raises(StoreClosed):
        alice.append([EVENT])
    with pytest.raises(StoreClosed):
        alice.head()
    alice.put_away()
    alice.close()


@pytest.mark.parametrize("opens_again", [False, True])
def test_a_stop_leaves_one_file_of_each_tenant_that_was_put_away(
    engine: SqliteEngine, tmp_path: Path, opens_again: bool
) -> None:
    names = [f"tenant-{number}" for number in range(20)]
    for name in names:
        store = engine.open(name)
        store.append([EVENT])
        store.put_away()
        if opens_again:
            engine.open(name)
    engine.close()
    assert files_in(tmp_path) == {f"{name}.db" for name in names}
    with SqliteEngine(tmp_path) as again:
        assert [again.open(name).count() for name in names] == [1] * 20


def test_a_store_that_is_closed_for_good_after_it_was_put_away_leaves_one_file(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    alice.append([EVENT])
    alice.put_away()
    engine.open("alice").close()
    assert files_in(tmp_path) == {"alice.db"}


def test_the_wal_that_is_left_is_bounded(
    tmp_path: Path, durability: Durability, checkpoints: Checkpoints
) -> None:
    with SqliteEngine(tmp_path, durability=durability) as engine:
        for _ in range(400):
            alice = engine.open("alice")
            alice.append([EVENT])
            alice.put_away()
            wal = tmp_path / "alice.db-wal"
            assert not wal.exists() or wal.stat().st_size <= MAX_RESTING_WAL_BYTES
        assert engine.open("alice").count() == 400


def test_dropping_a_tenant_that_was_put_away_leaves_nothing(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    alice.append([EVENT])
    alice.put_away()
    engine.drop("alice")
    assert files_in(tmp_path) == set()
    assert engine.open("alice").append([EVENT]).first_position == 1


def test_a_tenant_that_was_put_away_is_listed_and_ready(
    engine: SqliteEngine, alice: SqliteStore
) -> None:
    alice.append([EVENT])
    alice.put_away()
    assert engine.tenants() == ["alice"]
    assert engine.inspect("alice") == "ready"


def test_what_another_process_did_to_a_tenant_that_was_put_away_is_seen(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    alice.append([EVENT])
    alice.put_away()
    with SqliteEngine(tmp_path) as other:
        assert other.open("alice").append([EVENT] * 3).first_position == 2
    assert engine.open("alice").append([EVENT]).first_position == 5


def test_a_file_that_takes_the_place_of_one_that_was_put_away_is_not_given_its_wal(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SqliteEngine(tmp_path / "other") as other:
        other.open("alice").commit([Append([EVENT]) for _ in range(700)])
    alice.append([EVENT] * 3)
    alice.put_away()
    (tmp_path / "other" / "alice.db").rename(tmp_path / "alice.db")
    foreign = (tmp_path / "alice.db").read_bytes()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is not the file that was there before"):
            engine.open("alice")
    engine.close()
    assert "remove the WAL before the next start" in caplog.text
    assert (tmp_path / "alice.db").read_bytes() == foreign
    (tmp_path / "alice.db-wal").unlink()
    with SqliteEngine(tmp_path) as again:
        assert again.open("alice").head() == 700


def test_a_tenant_that_is_put_away_while_another_process_has_it_open_loses_nothing(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    with SqliteEngine(tmp_path) as other:
        theirs = other.open("alice")
        alice.append([EVENT])
        alice.put_away()
        assert theirs.append([EVENT]).first_position == 2
        assert engine.open("alice").append([EVENT]).first_position == 3
        engine.open("alice").put_away()
        engine.close()  # they have it still: they write the WAL back when they are done
        assert theirs.append([EVENT]).first_position == 4
    assert files_in(tmp_path) == {"alice.db"}


def test_a_stop_does_not_wait_for_a_process_that_holds_a_tenant_that_was_put_away(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    alice.append([EVENT])
    alice.put_away()
    holder = apsw.Connection(str(tmp_path / "alice.db"))
    holder.pragma("locking_mode", "exclusive")
    holder.execute("BEGIN EXCLUSIVE")
    engine.close()
    holder.close()
    with SqliteEngine(tmp_path) as again:
        assert again.open("alice").count() == 1


def test_a_file_that_took_the_place_of_one_that_was_put_away_is_looked_at(
    engine: SqliteEngine, alice: SqliteStore, tmp_path: Path
) -> None:
    alice.append([EVENT])
    alice.put_away()
    for file in tmp_path.iterdir():
        file.unlink()
    stranger = apsw.Connection(str(tmp_path / "alice.db"))
    stranger.execute("CREATE TABLE theirs (a)")
    stranger.close()
    before = (tmp_path / "alice.db").read_bytes()
    with pytest.raises(StoreForeign):
        engine.open("alice")
    engine.close()
    assert (tmp_path / "alice.db").read_bytes() == before


KILLED = """
import sys
from ebus.backends.sqlite import SqliteEngine
from tests.backends.test_sqlite_wal import EVENT

engine = SqliteEngine(sys.argv[1], durability=sys.argv[2])
turn = 0
while True:
    turn += 1
    for number in range(5):
        store = engine.open(f"tenant-{number}")
        print(number, store.append([EVENT]).last_position, flush=True)
        store.put_away()
"""


def test_a_kill_loses_nothing_of_tenants_that_were_put_away(
    tmp_path: Path, durability: Durability
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), durability], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = dict.fromkeys(range(5), 0)
    for line, _ in zip(process.stdout, range(500), strict=False):
        number, position = map(int, line.split())
        acknowledged[number] = position
    os.kill(process.pid, signal.SIGKILL)
    for line in process.stdout:
        if line.endswith("\n"):
            number, position = map(int, line.split())
            acknowledged[number] = position
    process.stdout.close()
    process.wait(60)
    assert min(acknowledged.values()) >= 100
    with SqliteEngine(tmp_path) as engine:
        for number, position in acknowledged.items():
            assert engine.open(f"tenant-{number}").head() in (position, position + 1)


# Quick reads


def test_quick_reads_see_all_that_was_committed_before(alice: SqliteStore) -> None:
    assert isinstance(alice, SupportsQuickReads)
    quick = alice.quick_reads()
    for position in range(1, 101):
        alice.append([EVENT])
        alice.save_checkpoint("s", position)
        assert quick.head() == position
        assert quick.checkpoint("s") == position
        assert quick.read_wire(1) == alice.read_wire(1)


def test_quick_reads_see_what_another_process_committed(alice: SqliteStore, tmp_path: Path) -> None:
    quick = alice.quick_reads()
    with SqliteEngine(tmp_path) as other:
        other.open("alice").append([EVENT])
    assert quick.head() == 1


def test_quick_reads_go_on_while_another_process_writes(alice: SqliteStore, tmp_path: Path) -> None:
    alice.append([EVENT])
    quick = alice.quick_reads()
    holder = apsw.Connection(str(tmp_path / "alice.db"))
    holder.execute("BEGIN EXCLUSIVE")
    assert quick.head() == 1
    holder.close()


def test_quick_reads_do_not_wait_for_a_database_that_is_held(
    alice: SqliteStore, tmp_path: Path
) -> None:
    alice.close()
    holder = apsw.Connection(str(tmp_path / "alice.db"))
    holder.pragma("locking_mode", "exclusive")
    holder.execute("BEGIN EXCLUSIVE")
    forever = Limits(busy_timeout_ms=10**9)
    with pytest.raises(apsw.BusyError):
        Reader(tmp_path / "alice.db", forever, busy_timeout_ms=0).head()
    holder.close()


def test_quick_reads_end_with_their_store(alice: SqliteStore) -> None:
    quick = alice.quick_reads()
    alice.close()
    for read in (quick.head, lambda: quick.checkpoint("s"), lambda: quick.read_wire(1)):
        with pytest.raises(StoreClosed):
            read()
    with pytest.raises(StoreClosed):
        alice.quick_reads()
    quick.close()


def test_quick_reads_hold_up_no_checkpoint(alice: SqliteStore, tmp_path: Path) -> None:
    alice.append([EVENT] * 100)
    quick = alice.quick_reads()
    begun = times_begun(tmp_path)
    append_until(alice, lambda: quick.head() > 0 and times_begun(tmp_path) > begun)
