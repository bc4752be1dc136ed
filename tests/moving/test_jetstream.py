"""A tenant goes from SQLite to JetStream and back, on a real server, and is the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebus.backends.jetstream import JetStreamEngine
from ebus.backends.jetstream.store import JetStreamStore
from ebus.backends.sqlite import SqliteEngine
from ebus.backends.sqlite.store import SqliteStore
from ebus.cli import main
from ebus.core.engine import open_engine
from ebus.core.event import NewEvent
from ebus.moving import CannotKeep, MoveRefused, TargetChanged, TargetDiffers, copy_log
from ebus.testing.events import HARD_DATA, HARD_TIMESTAMPS, HARD_TYPES, new_event
from tests.moving.logs import ODD, exported, fill, named, wires
from tests.nats import fixtures
from tests.nats.servers import NatsServer

nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server

_numbers = count(1)

EXOTIC = [
    *(new_event(data) for data in HARD_DATA.values()),
    *(new_event(type=name, id=name, stream=name) for name in HARD_TYPES.values()),
    *(new_event(timestamp=moment) for moment in HARD_TIMESTAMPS.values()),
    *(new_event(type=it, id=it, stream=it) for it in ("a.b", "*", ">", "=2A", "==", "-", " ")),
    *(new_event(type=it * 255, id=it * 255, stream=it * 255) for it in "x☃"),
    *ODD,
]


def plain(count: int) -> list[NewEvent]:
    return [new_event() for _ in range(count)]


@pytest.fixture
def address(nats_server: NatsServer) -> str:
    """A cluster with nothing in it."""
    return f"{nats_server.url}?prefix=move{next(_numbers)}"


@pytest.fixture
def nats(address: str) -> Iterator[JetStreamEngine]:
    with open_engine(address) as engine:
        assert isinstance(engine, JetStreamEngine)
        yield engine


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteEngine]:
    with SqliteEngine(tmp_path / "data") as engine:
        yield engine


@pytest.fixture
def alice(sqlite: SqliteEngine) -> SqliteStore:
    return sqlite.open("alice")


@pytest.fixture
def there(nats: JetStreamEngine) -> JetStreamStore:
    return nats.open("alice")


def test_a_tenant_comes_back_byte_for_byte(
    sqlite: SqliteEngine, alice: SqliteStore, there: JetStreamStore
) -> None:
    fill(alice, [*named(2_500), *EXOTIC])
    saved = {"mailer": 7, "every name / ☃": 9, "a.b.*.>": 0, "x" * 255: 2_600}
    for name, position in saved.items():
        alice.save_checkpoint(name, position)
    back = sqlite.open("back")
    moved, again = copy_log(alice, there), copy_log(there, back)
    file = exported(alice)
    assert exported(there) == exported(back) == file
    assert wires(there) == wires(back) == wires(alice)
    assert moved.digest == again.digest == sha256(file).hexdigest()
    assert (moved.appended, moved.checkpoints) == (alice.count(), len(saved))
    assert there.checkpoints() == back.checkpoints() == saved
    assert there.streams() == back.streams() == alice.streams()
    assert copy_log(alice, there).appended == 0


def test_a_trimmed_log_keeps_its_positions_and_versions(
    sqlite: SqliteEngine, alice: SqliteStore, there: JetStreamStore
) -> None:
    fill(alice, [new_event(stream="gone"), *named(2_000)])
    alice.trim(700)
    back = sqlite.open("back")
    copy_log(alice, there)
    copy_log(there, back)
    for store in (there, back):
        assert exported(store) == exported(alice)
        assert (store.head(), store.count()) == (2_001, 1_301)
        assert store.streams() == alice.streams()
    there.append([new_event(stream="gone")])
    assert there.stream_version("gone") == 2


def test_a_gap_behind_events_is_kept_too(alice: SqliteStore, there: JetStreamStore) -> None:
    fill(alice, plain(10))
    copy_log(alice, there)
    fill(alice, plain(1_500))
    alice.trim(1_200)
    copy_log(alice, there)
    assert (there.head(), there.count()) == (1_510, 10 + 310)
    assert wires(there)[10:] == wires(alice)
    assert copy_log(alice, there).appended == 0


def test_a_stream_of_which_the_middle_is_missing_is_refused(
    alice: SqliteStore, there: JetStreamStore
) -> None:
    fill(alice, named(10))
    copy_log(alice, there)
    fill(alice, named(90, first=11))
    alice.trim(50)
    with pytest.raises(
        CannotKeep, match=r"stream .* trimmed before they were copied; copy to a new"
    ):
        copy_log(alice, there)


def test_a_gap_that_was_cut_off_is_left_whole_by_the_next_run(
    alice: SqliteStore, there: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(alice, plain(10))
    copy_log(alice, there)
    fill(alice, plain(30))
    alice.trim(20)

    def fails(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ebus.backends.jetstream.trimming.purge", fails)
    with pytest.raises(KeyboardInterrupt):
        copy_log(alice, there)
    monkeypatch.undo()
    assert there.head() == 20
    copy_log(alice, there)
    assert (there.head(), there.count()) == (40, 30)


def test_a_gap_that_is_too_long_is_refused_with_a_way_out(
    alice: SqliteStore, there: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebus.backends.jetstream.trimming.MAX_FILLED", 100)
    fill(alice, named(10))
    copy_log(alice, there)
    fill(alice, named(200, first=11))
    alice.trim(150)
    with pytest.raises(CannotKeep, match=r"11 to 150 hold nothing.*copy to a new tenant"):
        copy_log(alice, there)
    assert there.head() == 10


def test_somebody_who_appends_to_the_target_ends_the_move(
    alice: SqliteStore, there: JetStreamStore, address: str
) -> None:
    fill(alice, named(3_000))
    with open_engine(address) as other_server:
        other = other_server.open("alice")
        seen: list[int] = []

        def meanwhile(events: int) -> None:
            if not seen:
                other.append([new_event(type="Stranger")])
            seen.append(events)

        with pytest.raises(TargetChanged, match="somebody else appends to the target"):
            copy_log(alice, there, progress=meanwhile)
    assert len(wires(there)) == there.head() == 1
    with pytest.raises(TargetDiffers, match="position 1: it has another event there"):
        copy_log(alice, there)
    assert there.read(1).events[0].type == "Stranger"


def test_an_id_that_is_there_already_is_found_before_anything_is_stored(
    alice: SqliteStore, there: JetStreamStore
) -> None:
    fill(alice, named(4))
    copy_log(alice, there, stop=2)
    there.append([new_event(id="id-5")])
    alice.append([new_event(id="id-5")])
    with pytest.raises(MoveRefused):
        copy_log(alice, there)
    assert there.head() == 3


def test_an_event_that_nats_would_not_take_is_named_before_anything_is_stored(
    alice: SqliteStore, nats_directory: Path
) -> None:
    fill(alice, [*named(1_500), new_event(b'"%b"' % (b"x" * 900_000)), *named(10, first=1_501)])
    small = NatsServer(nats_directory / "half", config="max_payload: 512KB")
    with small, open_engine(small.url) as engine:
        store = engine.open("alice")
        with pytest.raises(CannotKeep, match=r"position 1501 is of 900\d\d\d bytes .*max_payload"):
            copy_log(alice, store)
        assert store.head() == 0
        assert copy_log(alice, store, stop=1_500).appended == 1_500


def test_events_of_a_mebibyte_are_copied(
    sqlite: SqliteEngine, alice: SqliteStore, there: JetStreamStore
) -> None:
    for number in range(6):
        alice.append([new_event(b'"%b"' % (b"%d" % number * 1_048_000))])
    back = sqlite.open("back")
    assert copy_log(alice, there).digest == copy_log(there, back).digest
    assert wires(back) == wires(alice)


# As they are typed.


def ebus(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_all_tenants_are_copied_by_command_and_back(
    sqlite: SqliteEngine, address: str, tmp_path: Path
) -> None:
    for name in ("alice", "Bob", "a-b_c"):
        store = sqlite.open(name)
        fill(store, named(20))
        store.save_checkpoint("mailer", 5)
    there = ebus("copy", f"sqlite:{tmp_path}/data", address, "--all")
    assert there.exit_code == 0, there.output
    back = ebus("copy", address, f"sqlite:{tmp_path}/back", "--all")
    assert back.exit_code == 0, back.output
    assert re.findall("SHA.*", there.stdout) == re.findall("SHA.*", back.stdout)
    with SqliteEngine(tmp_path / "back") as other:
        assert other.tenants() == sqlite.tenants()
        for name in other.tenants():
            assert exported(other.open(name)) == exported(sqlite.open(name))
            assert other.open(name).checkpoints() == {"mailer": 5}


def test_a_file_comes_from_a_cluster_and_goes_there(
    there: JetStreamStore, nats: JetStreamEngine, address: str, tmp_path: Path
) -> None:
    fill(there, named(30))
    file = str(tmp_path / "alice.ndjson.zst")
    result = ebus("export", address, file)
    assert result.exit_code == 0, result.output
    result = ebus("import", file, address, "--tenant", "bob")
    assert result.exit_code == 0, result.output
    assert exported(nats.open("bob")) == exported(there)


@pytest.mark.parametrize(
    "place", ["nats://eve:top-secret@127.0.0.1:1?timeout_s=0.2", "nats://top-secret@:1:1"]
)
def test_a_cluster_that_is_not_there_is_named_without_secrets(place: str, tmp_path: Path) -> None:
    result = ebus("copy", f"sqlite:{tmp_path}", place, "--all")
    assert result.exit_code == 1
    for arguments in (["export", place, "-"], ["import", "-", place, "--tenant", "x"]):
        result = ebus(*arguments)
        assert result.exit_code == 1
        assert result.stderr
        assert "top-secret" not in result.output


def test_a_copy_that_is_killed_goes_on_where_it_stood(
    alice: SqliteStore, there: JetStreamStore, address: str, tmp_path: Path
) -> None:
    fill(alice, named(9_000))
    command = [sys.executable, "-m", "ebus", "copy", f"sqlite:{tmp_path}/data", address]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    there.wait(2_000, timeout_s=60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    head = there.head()
    assert 0 < head < 9_000
    assert head % 1_000 == 0
    result = ebus("copy", f"sqlite:{tmp_path}/data", address)
    assert f"9000 events, positions 1 to 9000, {9_000 - head} stored now" in result.stdout
    assert wires(there) == wires(alice)
