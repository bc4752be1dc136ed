"""Commits on the event loop: what they do is what a commit does, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebus import Limits, NewEvent
from ebus.backends.sqlite import SqliteEngine, SqliteStore
from ebus.backends.sqlite.segments import SEGMENT_EVENTS, OpenSegment
from ebus.core import consumers
from ebus.core.errors import EbusError
from ebus.core.filter import Filter
from ebus.core.store import (
    Append,
    ChangeSubscription,
    Expectation,
    NoneAfter,
    SaveCheckpoint,
    TenantStore,
    Write,
)

AT = "2024-01-01T00:00:00Z"
PLAIN = NewEvent.of("T", 1, AT)


def named(id: str | None = None, stream: str | None = None, data: int = 1) -> NewEvent:
    return NewEvent.of("T", data, AT, id=id, stream=stream, metadata={"k": "v"})


NEVER = Append([PLAIN], Expectation(none_after=NoneAfter(1, (Filter(types=("Never",)),))))
LEASE = consumers.lease(max_events=1, seconds=30, max_attempts=5, limits=Limits())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    with SqliteEngine(tmp_path, durability="normal") as engine:
        yield engine


@pytest.fixture
def store(engine: SqliteEngine) -> SqliteStore:
    return begun(engine, "alice")


def begun(engine: SqliteEngine, name: str) -> SqliteStore:
    """A store whose WAL has a header, which is synced."""
    store = engine.open(name)
    store.append([named("first", "s")])
    return store


def all_of(store: TenantStore) -> object:
    return store.read(1), store.checkpoints(), store.streams(), store.subscription("c")


@pytest.mark.parametrize(
    "writes",
    [
        [Append([PLAIN])],
        [Append([PLAIN] * 3), Append([]), Append([PLAIN])],
        [Append([named("a", "s"), named("first", "s"), named("b", "t")])],
        [Append([named("first", data=2)]), Append([named(stream="s")])],
        [
            Append([named(stream="s")], Expectation(versions={"s": 1})),
            Append([named(stream="s")], Expectation(versions={"s": 1})),
            Append([PLAIN], Expectation(position=2)),
        ],
        [SaveCheckpoint("c", 1), SaveCheckpoint("c", 2, expected=5), Append([PLAIN])],
        [ChangeSubscription("c", LEASE), ChangeSubscription("c", LEASE)],
        [Append([PLAIN] * 200), Append([named("a", "s")])],
    ],
)
def test_they_do_what_a_commit_does(
    engine: SqliteEngine, store: SqliteStore, writes: list[Write]
) -> None:
    other = begun(engine, "bob")
    quickly, slowly = store.commit_quickly(writes), other.commit(writes)
    assert quickly is not None
    assert [_comparable(it) for it in quickly] == [_comparable(it) for it in slowly]
    assert all_of(store) == all_of(other)


def _comparable(result: object) -> object:
    return (type(result), str(result)) if isinstance(result, EbusError) else result


@pytest.mark.parametrize("others", [[], [Append([PLAIN])], [SaveCheckpoint("c", 1)]])
def test_a_condition_is_left_to_a_thread_with_all_that_shares_its_commit(
    store: SqliteStore, others: list[Write]
) -> None:
    before = all_of(store)
    assert store.commit_quickly([*others, NEVER]) is None
    assert all_of(store) == before
    assert store.commit([*others, NEVER])
    assert store.head() > 1


@pytest.mark.parametrize("event", [PLAIN, named("a", "t")], ids=["plain", "named"])
def test_a_segment_whose_types_are_not_known_is_left_to_a_thread(
    store: SqliteStore, event: NewEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([PLAIN] * (SEGMENT_EVENTS - 2))
    before = all_of(store)
    with monkeypatch.context() as patch:
        patch.setattr(OpenSegment, "read", None)  # it would read half a gigabyte
        assert store.commit_quickly([Append([event])]) is None
    assert all_of(store) == before
    store.append([PLAIN])
    assert store.head() == SEGMENT_EVENTS
    store.append([PLAIN] * (SEGMENT_EVENTS - 1))
    assert store.commit_quickly([Append([event])]) is not None
    assert store.head() == 2 * SEGMENT_EVENTS
    assert store.read(1, filter=Filter(types=("T",))).events == store.read(1).events


def test_nothing_is_done_while_somebody_else_writes(store: SqliteStore, tmp_path: Path) -> None:
    with store._writing():
        assert store.commit_quickly([Append([PLAIN])]) is None
    with SqliteEngine(tmp_path) as other, other.open("alice")._writing() as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert store.commit_quickly([Append([PLAIN])]) is None
        assert store.commit_quickly([Append([named("a")])]) is None
        connection.execute("ROLLBACK")
    assert store.head() == 1
    assert store.commit_quickly([Append([PLAIN])]) is not None


def test_nothing_is_done_where_a_commit_is_synced(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path) as engine:
        store = begun(engine, "alice")
        assert store.commit_quickly([Append([PLAIN])]) is None
        assert store.head() == 1
