"""What is exported and imported, or copied, is the same: byte for byte."""

from __future__ import annotations

import json
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebus.backends.memory import MemoryEngine
from ebus.backends.sqlite import SqliteEngine
from ebus.client import Client
from ebus.core.limits import Limits
from ebus.moving import FileOutput, Input, copy_log, export_log, import_log
from ebus.testing.events import HARD_DATA, HARD_TIMESTAMPS, HARD_TYPES, Sent, new_event, sent_events
from tests.client.conftest import FreshTenant, Servers, servers, tenant
from tests.moving.logs import ODD, exported, fill, memory_store, named, wires

__all__ = ["servers", "tenant"]


def with_ids(sent: list[Sent]) -> list[Sent]:
    return [one._replace(id=f"{at}") if at % 2 else one for at, one in enumerate(sent)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(sent_events(), min_size=1, max_size=8).map(with_ids), is_zstd=st.booleans())
def test_any_events_come_back_byte_for_byte(sent: list[Sent], is_zstd: bool) -> None:
    source, target = memory_store(), memory_store()
    source.append([one.new_event() for one in sent])
    file = exported(source, is_zstd=is_zstd)
    import_log(Input(BytesIO(file)), target)
    assert wires(target) == wires(source)
    assert exported(target, is_zstd=is_zstd) == file


def test_hard_events_come_back_byte_for_byte(tmp_path: Path) -> None:
    events = [
        *(new_event(data) for data in HARD_DATA.values()),
        *(new_event(type=name, id=name, stream=name) for name in HARD_TYPES.values()),
        *(new_event(timestamp=moment) for moment in HARD_TIMESTAMPS.values()),
        *ODD,
    ]
    with SqliteEngine(tmp_path) as engine:
        alice, bob = engine.open("alice"), engine.open("bob")
        fill(alice, events)
        file = exported(alice)
        moved = import_log(Input(BytesIO(file)), bob)
        assert wires(bob) == wires(alice)
        assert exported(bob) == file
    assert moved.digest == sha256(file).hexdigest()
    assert (moved.events, moved.appended) == (len(events), len(events))


def test_every_line_is_an_event_as_any_parser_reads_it() -> None:
    store = memory_store()
    fill(store, ODD)
    lines = exported(store).splitlines()
    assert len(lines) == len(ODD)
    for line, wire in zip(lines, wires(store), strict=True):
        event = json.loads(line)
        event.pop("data_text", None)
        event.pop("metadata_text", None)
        assert event == json.loads(wire)


def test_a_copy_through_memory_and_back_is_the_same(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path) as engine, MemoryEngine() as memory:
        alice, between, back = engine.open("alice"), memory.open("x"), engine.open("back")
        fill(alice, [*named(2_500), ODD[0], ODD[2], ODD[3], ODD[4]])
        alice.save_checkpoint("mailer", 7)
        alice.save_checkpoint("every name / ☃", 9)
        there, here = copy_log(alice, between), copy_log(between, back)
        assert there.digest == here.digest == sha256(exported(alice)).hexdigest()
        assert wires(back) == wires(alice)
        assert back.checkpoints() == alice.checkpoints() == {"every name / ☃": 9, "mailer": 7}
        assert back.streams() == alice.streams()


def test_a_copy_to_a_server_and_back_is_the_same(tenant: FreshTenant, tmp_path: Path) -> None:
    with (
        SqliteEngine(tmp_path) as engine,
        Client(tenant.url, tenant.key, assign_ids=False) as server,
    ):
        alice, back = engine.open("alice"), engine.open("back")
        fill(alice, [*named(2_500), *ODD])
        alice.save_checkpoint("mailer", 7)
        copy_log(alice, server)
        moved = copy_log(server, back)
        assert wires(back) == wires(server) == wires(alice)
        assert (moved.events, moved.checkpoints) == (2_505, 1)
        assert back.checkpoints() == {"mailer": 7}


def test_a_server_that_takes_little_at_a_time_is_a_target_too(
    servers: Servers, tmp_path: Path
) -> None:
    limits = Limits(max_batch_events=10, max_read_events=7, max_page_bytes=500)
    tenant = servers.fresh_tenant(limits)
    with Client(tenant.url, tenant.key, assign_ids=False, limits=limits) as server:
        source = memory_store()
        fill(source, named(95))
        copy_log(source, server)
        assert wires(server) == wires(source)


def test_ranges_are_moved_piece_by_piece() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(30))
    file = BytesIO(exported(source))
    for start, stop in ((1, 10), (11, 11), (8, 20), (21, 99)):
        moved = copy_log(source, target, start=start, stop=stop)
        assert (moved.first_position, moved.last_position) == (start, min(stop, 30))
    assert wires(target) == wires(source)
    by_file = memory_store()
    for first, last in ((1, 10), (5, 20), (21, None)):
        file.seek(0)
        import_log(Input(file), by_file, start=first, stop=last)
    assert wires(by_file) == wires(source)


def test_checkpoints_are_lines_of_their_own_behind_the_events() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(3))
    source.save_checkpoint("mailer", 2)
    file = exported(source, checkpoints=True)
    assert file.splitlines()[3:] == [b'{"checkpoint":"mailer","position":2}']
    import_log(Input(BytesIO(file)), target)
    assert target.checkpoints() == {"mailer": 2}


def test_a_checkpoint_never_goes_back() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(9))
    source.save_checkpoint("behind", 3)
    source.save_checkpoint("ahead", 9)
    copy_log(source, target)
    target.save_checkpoint("behind", 5)
    source.save_checkpoint("behind", 4)
    assert copy_log(source, target).ahead == ["behind"]
    assert target.checkpoints() == {"ahead": 9, "behind": 5}


def test_what_is_parked_is_told_and_not_copied() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(2))
    source.save_checkpoint("mailer", 0)
    lease = source.lease("mailer", max_events=1, max_attempts=1)
    assert lease is not None
    source.release("mailer", lease.id)
    assert copy_log(source, target).parked == ["mailer"]
    assert target.checkpoint("mailer") == source.checkpoint("mailer")


def test_a_log_that_was_trimmed_keeps_its_positions_and_versions(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path) as engine:
        alice, bob, carol = (engine.open(name) for name in ("alice", "bob", "carol"))
        fill(alice, [new_event(stream="gone"), *named(2_000)])
        alice.trim(700)
        file = exported(alice)
        assert file.startswith(b'{"gap":{"first_position":1,"last_position":700}}\n')
        copy_log(alice, bob)
        import_log(Input(BytesIO(file)), carol)
        for store in (bob, carol):
            assert wires(store) == wires(alice)
            assert (store.head(), store.count()) == (2_001, 1_301)
            assert exported(store) == file
        assert bob.streams() == alice.streams()


def test_a_target_that_has_kept_more_is_gone_on_with() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(20))
    copy_log(source, target)
    source.trim(10)
    fill(source, named(5, first=21))
    assert copy_log(source, target).appended == 5
    assert (target.count(), target.head()) == (25, 25)


def test_a_source_that_grows_is_copied_as_it_was_at_the_start() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(10))
    grown = []

    def grow(events: int) -> None:
        grown.append(events)
        source.append(named(1, first=100 + len(grown)))

    assert copy_log(source, target, progress=grow).last_position == 10
    assert copy_log(source, target).last_position == 11
    assert wires(target) == wires(source)


def test_a_log_without_events_is_copied_and_exported() -> None:
    source = memory_store()
    assert copy_log(source, memory_store()).first_position == 0
    assert exported(source) == b""


@pytest.mark.parametrize("is_zstd", [False, True])
def test_the_digest_is_that_of_the_file(is_zstd: bool, tmp_path: Path) -> None:
    source = memory_store()
    fill(source, named(3_000))
    path = tmp_path / ("a.zst" if is_zstd else "a")
    with FileOutput(path) as output:
        moved = export_log(source, output)
    with path.open("rb") as file:
        assert sha256(Input(file).read(-1)).hexdigest() == moved.digest
    assert path.stat().st_mode & 0o777 == 0o600
    assert [it.name for it in tmp_path.iterdir()] == [path.name]
