"""What is the JetStream engine's own: several writers, ids beyond any window, large commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ebus.backends.jetstream import ids, writing
from ebus.backends.jetstream.naming import Names, name_of, token_of
from ebus.core.errors import InvalidBatch, QuotaExceeded, VersionConflict
from ebus.core.event import NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, Expectation, Quota
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import read_through, stored
from tests import in_memory
from tests.backends.jetstream_place import JetStreamPlace, Peeking
from tests.nats import fixtures
from tests.nats.servers import NatsServer

tmp_path_factory = in_memory.tmp_path_factory
nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server


@pytest.fixture(scope="module")
def peeking(nats_server: NatsServer) -> Iterator[Peeking]:
    peeking = Peeking(nats_server.url)
    yield peeking
    peeking.close()


@pytest.fixture
def place(nats_server: NatsServer, peeking: Peeking) -> JetStreamPlace:
    return JetStreamPlace(nats_server.url, peeking)


def with_ids(first: int, count: int) -> list[NewEvent]:
    return [new_event(b"%d" % it, id=f"id-{it}") for it in range(first, first + count)]


@pytest.mark.parametrize(
    "name", ["a", "größe", "a.b.c", "*", ">", "= 3D", "$JS", "x" * 255, "é" * 255]
)
def test_a_name_is_one_token_and_comes_back(name: str) -> None:
    token = token_of(name)
    assert token.isascii()
    assert not set(token) & set(".*> \t")
    assert len(token) <= 255
    assert name_of(token) in ({name} if len(name.encode()) < 240 else {name, None})


def test_subjects_of_a_filter_have_every_event_that_it_wants() -> None:
    names = Names("p", "t")
    assert names.matching(None) == ["p.t.*.*"]
    assert names.matching(Filter(stream="s", types=("A", "B"))) == ["p.t.ss.A", "p.t.ss.B"]
    assert names.matching(Filter(stream_prefix="s", types=("A",))) == ["p.t.*.A"]
    assert names.matching(Filter(types=tuple("ABCDEFGHI"))) == ["p.t.*.*"]


def test_a_commit_of_more_than_the_server_takes_at_once_is_stored_in_order(
    place: JetStreamPlace,
) -> None:
    batches = [numbered(700, first=1 + 700 * it) for it in range(3)]
    with place.open() as engine:
        store = engine.open("alice")
        results = store.commit([Append(batch) for batch in batches])
        assert results == [Appended(1, 700), Appended(701, 1_400), Appended(1_401, 2_100)]
        assert read_through(store) == stored([event for batch in batches for event in batch])


def test_a_batch_of_more_than_the_server_takes_is_refused(place: JetStreamPlace) -> None:
    with place.open(limits=Limits(max_batch_events=5_000)) as engine:
        store = engine.open("alice")
        with pytest.raises(InvalidBatch, match="1000"):
            store.append(numbered(1_001))
        assert store.head() == 0


def test_what_another_engine_has_stored_is_no_conflict_that_is_not_there_any_more(
    place: JetStreamPlace,
) -> None:
    """A refusal without a write is given on what the leader says, not on what was known."""
    with place.open() as first, place.open() as second:
        mine, theirs = first.open("alice"), second.open("alice")
        mine.append([new_event(stream="s")])
        theirs.append([new_event(stream="s")])
        appended = mine.append([new_event(stream="s")], expect=Expectation(versions={"s": 2}))
        assert appended.events[0].version == 3
        with pytest.raises(VersionConflict) as conflict:
            theirs.append([new_event(stream="s")], expect=Expectation(versions={"s": 2}))
        assert conflict.value.current == 3


@pytest.mark.parametrize("most", [2_000, 2])
def test_versions_and_ids_are_right_however_much_others_have_stored(
    place: JetStreamPlace, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(writing, "MAX_CATCH_UP", most)
    with place.open() as first, place.open() as second:
        mine, theirs = first.open("alice"), second.open("alice")
        mine.append([new_event(b"1", id="a", stream="s")])
        for number in range(2, 12):
            theirs.append([new_event(b"%d" % number, id=f"b-{number}", stream="s")])
        again = mine.append([new_event(b"7", id="b-7", stream="s"), new_event(id="c", stream="s")])
        assert [(it.position, it.version, it.is_duplicate) for it in again.events] == [
            (7, 7, True),
            (12, 12, False),
        ]


@pytest.mark.parametrize("is_opened_anew", [False, True])
def test_ids_are_known_from_the_bucket_and_from_behind_it(
    place: JetStreamPlace, monkeypatch: pytest.MonkeyPatch, is_opened_anew: bool
) -> None:
    monkeypatch.setattr(ids, "INDEX_EVERY", 10)
    with place.open() as engine:
        store = engine.open("alice")
        for first in range(1, 100, 7):
            store.append(with_ids(first, 7))
        wait_for(lambda: indexed(place) > 50)
        if is_opened_anew:
            store.close()
            store = engine.open("alice")
        assert store.positions_of([f"id-{it}" for it in range(1, 110)]) == {
            f"id-{it}": it for it in range(1, 106)
        }
        again = store.append(with_ids(1, 110))
        assert (again.duplicates, again.last_position) == (105, 110)


def test_ids_of_events_without_any_cost_no_keys(
    place: JetStreamPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "INDEX_EVERY", 10)
    with place.open() as engine:
        store = engine.open("alice")
        for _ in range(5):
            store.append(numbered(10))
        wait_for(lambda: indexed(place) > 0)
        assert place.peeking.subjects(f"KV_{place.prefix}-alice") == [
            f"$KV.{place.prefix}-alice.indexed"
        ]


def test_an_id_that_an_engine_with_an_older_mark_stored_is_found(
    place: JetStreamPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that are in no bucket yet are read from the log by whoever opens it."""
    with place.open() as first:
        first.open("alice").append(with_ids(1, 50))
        assert indexed(place) == 0
        with place.open() as second:
            assert second.open("alice").positions_of(["id-7", "id-99"]) == {"id-7": 7}


def test_an_id_that_another_engine_has_trimmed_can_be_used_again(place: JetStreamPlace) -> None:
    with place.open() as first, place.open() as second:
        mine, theirs = first.open("alice"), second.open("alice")
        mine.append(with_ids(1, 3))
        theirs.trim(3)
        assert mine.append(with_ids(2, 1)).first_position == 4


def test_what_another_engine_has_trimmed_takes_no_room_any_more(place: JetStreamPlace) -> None:
    with place.open() as first, place.open() as second:
        mine, theirs = first.open("alice"), second.open("alice")
        mine.set_quota(Quota(max_events=3))
        mine.append(numbered(3))
        theirs.trim(2)
        assert mine.append(numbered(2)).last_position == 5
        with pytest.raises(QuotaExceeded):
            mine.append(numbered(1))


def test_ids_that_another_engine_has_stored_are_found(place: JetStreamPlace) -> None:
    with place.open() as first, place.open() as second:
        mine, theirs = first.open("alice"), second.open("alice")
        mine.append(with_ids(1, 1))
        theirs.append(with_ids(2, 1))
        assert mine.positions_of(["id-1", "id-2"]) == {"id-1": 1, "id-2": 2}
        theirs.trim(1)
        assert mine.positions_of(["id-1", "id-2"]) == {"id-2": 2}


def test_a_stream_with_a_name_too_long_for_a_subject_is_listed(place: JetStreamPlace) -> None:
    long = "é" * 255
    with place.open() as engine:
        store = engine.open("alice")
        store.append([new_event(stream=long), new_event(stream="s", type="é" * 255)])
        assert [(it.stream, it.version) for it in store.streams()] == [("s", 1), (long, 1)]
        assert [it.position for it in store.read(1, filter=Filter(stream=long)).events] == [1]
        assert [it.position for it in store.read(1, filter=Filter(types=("é" * 255,))).events] == [
            2
        ]


def indexed(place: JetStreamPlace) -> int:
    found = place.peeking.last(f"KV_{place.prefix}-alice", f"$KV.{place.prefix}-alice.indexed")
    return 0 if found is None else int(found)


def wait_for(holds: Callable[[], bool]) -> None:
    while not holds():
        pass
