"""Identity: an event that is appended once more is where it was."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from msgspec import Raw, structs

from ebus.core.engine import Engine
from ebus.core.errors import IdConflict, InvalidEvent, PositionConflict
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, Expectation, Placed, SupportsTrim, TenantStore
from ebus.testing.events import HARD_TYPES, TIMESTAMP, new_event, numbered
from ebus.testing.observation import parsed, read_through, stored, unchanged
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import ALICE, Suite


def named(*ids: str) -> list[NewEvent]:
    """An event for each id; the same for the same id."""
    return [new_event(b'"%b"' % it.encode(), id=it) for it in ids]


def at(position: int, version: int | None = None, *, again: bool = False) -> Placed:
    return Placed(position, version, TIMESTAMP, again)


OTHER_CONTENT: dict[str, dict[str, Any]] = {
    "type": {"type": "Other"},
    "data": {"data": Raw(b'{"a":2}')},
    "white space within the data": {"data": Raw(b'{"a": 1}')},
    "stream": {"stream": "other"},
    "no stream": {"stream": None},
    "metadata": {"metadata": {"k": "other"}},
    "more metadata": {"metadata": {"k": "v", "l": "w"}},
    "no metadata": {"metadata": None},
    "time stamp": {"timestamp": "2024-01-01T00:00:01Z"},
    "the same time written otherwise": {"timestamp": "2024-01-01T00:00:00+00:00"},
}


class Identity(Suite):
    def test_an_event_that_is_appended_again_is_where_it_was(
        self, place: Place, store: TenantStore
    ) -> None:
        event = new_event(b'{"a":1}', id="a", stream="s", metadata={"k": "v"})
        store.append(numbered(1))
        assert store.append([event]) == Appended(2, 2, (at(2, 1),))
        store.append(numbered(1))
        with unchanged(place, ALICE, store):
            for _ in range(2):
                assert store.append([event]) == Appended(2, 2, (at(2, 1, again=True),))

    def test_of_a_batch_only_what_is_new_is_stored(self, place: Place, store: TenantStore) -> None:
        store.append(named("a", "b"))
        appended = store.append(named("c", "a", "d", "b"))
        assert appended == Appended(1, 4, (at(3), at(1, again=True), at(4), at(2, again=True)))
        assert appended.duplicates == 2
        assert read_through(store) == stored(named("a", "b", "c", "d"))
        assert parsed(place.peek(ALICE).events) == stored(named("a", "b", "c", "d"))

    def test_events_without_ids_among_those_with_are_always_stored(
        self, store: TenantStore
    ) -> None:
        batch = [*named("a"), new_event(), *named("b")]
        store.append(batch)
        again = store.append(batch)
        assert again == Appended(1, 4, (at(1, again=True), at(4), at(3, again=True)))
        assert store.head() == 4

    def test_an_event_twice_in_one_batch_is_stored_once(self, store: TenantStore) -> None:
        appended = store.append(named("a", "b", "a", "a"))
        assert appended == Appended(1, 2, (at(1), at(2), at(1, again=True), at(1, again=True)))
        assert read_through(store) == stored(named("a", "b"))

    def test_an_event_twice_in_one_commit_is_stored_once(self, store: TenantStore) -> None:
        batches = [numbered(1), named("a"), named("a"), named("b", "a"), numbered(1, first=2)]
        assert store.commit([Append(batch) for batch in batches]) == [
            Appended(1, 1),
            Appended(2, 2, (at(2),)),
            Appended(2, 2, (at(2, again=True),)),
            Appended(2, 3, (at(3), at(2, again=True))),
            Appended(4, 4),
        ]
        expected = [*numbered(1), *named("a", "b"), *numbered(1, first=2)]
        assert read_through(store) == stored(expected)

    @pytest.mark.parametrize("change", OTHER_CONTENT.values(), ids=OTHER_CONTENT)
    def test_other_content_under_an_id_is_refused_with_its_whole_batch(
        self, place: Place, store: TenantStore, change: dict[str, Any]
    ) -> None:
        event = new_event(b'{"a":1}', id="a", stream="s", metadata={"k": "v"})
        other = structs.replace(event, **change)
        store.append([*numbered(1), event])
        with unchanged(place, ALICE, store), pytest.raises(IdConflict) as refusal:
            store.append([*named("b", "c"), other])
        assert (refusal.value.current, refusal.value.index) == (2, 2)
        assert store.append(named("b")) == Appended(3, 3, (at(3),))

    def test_other_content_under_an_id_of_the_same_batch_is_refused(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append(numbered(1))
        with unchanged(place, ALICE, store), pytest.raises(IdConflict) as refusal:
            store.append([*named("a"), new_event(id="a")])
        assert refusal.value.index == 1

    def test_other_content_under_an_id_harms_no_neighbour_in_a_commit(
        self, store: TenantStore
    ) -> None:
        first, second, third = store.commit(
            [
                Append(named("a")),
                Append([*named("b"), new_event(id="a")]),
                Append(named("b", "c")),
            ]
        )
        assert first == Appended(1, 1, (at(1),))
        assert isinstance(second, IdConflict)
        assert (second.current, second.index) == (1, 1)
        assert third == Appended(2, 3, (at(2), at(3)))
        assert read_through(store) == stored(named("a", "b", "c"))

    def test_white_space_around_the_data_and_empty_metadata_make_no_difference(
        self, store: TenantStore
    ) -> None:
        store.append([new_event(b"1", id="a"), new_event(b"2", id="b", metadata={})])
        again = store.append([new_event(b" 1\n", id="a", metadata={}), new_event(b"2", id="b")])
        assert again.duplicates == 2

    def test_the_same_metadata_may_be_written_in_many_ways(self, store: TenantStore) -> None:
        ways: list[dict[str, str] | Raw] = [
            {"k": "v", "l": "w"},
            {"l": "w", "k": "v"},
            Raw(b'{"k":"v","l":"w"}'),
            Raw(b' {"l":\n"\\u0077", "k" : "v"}'),
        ]
        for name, first in zip("abcd", ways, strict=True):
            events = [new_event(id=name, metadata=way) for way in (first, *ways)]
            assert store.append(events).duplicates == len(ways)
            assert all(store.append([event]).duplicates for event in events)
            with pytest.raises(IdConflict):
                store.append([new_event(id=name, metadata=Raw(b'{"k":"v"}'))])

    def test_a_time_stamp_that_is_left_out_makes_no_difference(self, store: TenantStore) -> None:
        unstamped = NewEvent("Tested", Raw(b"1"), id="clock")
        [placed] = store.append([unstamped]).events
        assert placed.timestamp == store.read(1).events[0].timestamp
        again = Placed(1, None, placed.timestamp, is_duplicate=True)
        for event in (unstamped, structs.replace(unstamped, timestamp=placed.timestamp)):
            assert store.append([event]) == Appended(1, 1, (again,))
        with pytest.raises(IdConflict):
            store.append([structs.replace(unstamped, timestamp=TIMESTAMP)])
        store.append([new_event(b"2", id="stamped")])
        [placed] = store.append([NewEvent("Tested", Raw(b"2"), id="stamped")]).events
        assert placed == at(2, again=True)

    def test_an_append_is_known_again_when_what_it_expected_no_longer_holds(
        self, place: Place, store: TenantStore
    ) -> None:
        empty = Expectation(position=0, versions={"s": 0})
        batch = [new_event(id="a", stream="s"), new_event(id="b")]
        store.append(batch, expect=empty)
        with unchanged(place, ALICE, store):
            assert store.append(batch, expect=empty).duplicates == 2
            with pytest.raises(PositionConflict):
                store.append([*batch, new_event(id="c")], expect=empty)

    def test_ids_differ_by_every_character(self, store: TenantStore) -> None:
        ids = ["a", "A", "a ", "á", "a\u0301", "aa", "1", "01", *HARD_TYPES.values()]
        assert store.append([new_event(id=it) for it in ids]).duplicates == 0
        assert store.append([new_event(id=it) for it in ids]).duplicates == len(ids)

    def test_an_id_of_a_refused_append_is_free(self, store: TenantStore) -> None:
        with pytest.raises(InvalidEvent):
            store.append([*named("a"), new_event(b"{")])
        with pytest.raises(PositionConflict):
            store.append(named("a"), expect=Expectation(position=7))
        assert store.append([new_event(id="a")]) == Appended(1, 1, (at(1),))

    def test_ids_of_trimmed_events_can_be_used_again(self, place: Place) -> None:
        with place.open(limits=Limits(max_block_events=2)) as engine:
            store = engine.open(ALICE)
            if not isinstance(store, SupportsTrim):
                pytest.skip("SupportsTrim is not among the powers of this engine")
            for event in named("a", "b", "c"):
                store.append([event])
            store.trim(1)
            again = [at(4), at(2, again=True), at(3, again=True)]
            assert store.append(named("a", "b", "c")) == Appended(2, 4, tuple(again))
            store.trim(4)
            assert store.append([new_event(id="b")]) == Appended(5, 5, (at(5),))
            assert store.append(named("a")) == Appended(6, 6, (at(6),))

    def test_ids_are_found_in_small_blocks_and_after_reopening(self, place: Place) -> None:
        ids = [f"id-{number}" for number in range(12)]
        for _ in range(2):
            with place.open(limits=Limits(max_block_events=4)) as engine:
                store = engine.open(ALICE)
                store.append(named(*ids[:1]))
                store.append(named(*ids[:7]))
                store.commit([Append(named(*ids[5:9])), Append(named(*ids[9:]))])
                for position, it in enumerate(ids, 1):
                    assert store.append(named(it)).first_position == position
                assert read_through(store) == stored(named(*ids))

    def test_ids_are_one_tenants_own(self, engine: Engine, store: TenantStore) -> None:
        store.append([*numbered(2), *named("a")])
        other = engine.open(f"{ALICE}-2")
        assert other.append([new_event(id="a")]) == Appended(1, 1, (at(1),))

    @pytest.mark.parametrize("engines", [1, 2], ids=["one engine", "two engines"])
    def test_threads_that_race_with_the_same_events_store_them_once(
        self, place: Place, engines: int
    ) -> None:
        ids = [f"id-{number}" for number in range(12)]

        def write(store: TenantStore, size: int) -> dict[str, int]:
            found: dict[str, int] = {}
            for first in range(0, len(ids), size):
                batch = ids[first : first + size]
                placed = store.append(named(*batch)).events
                found |= {it: one.position for it, one in zip(batch, placed, strict=True)}
            return found

        with self.open_stores(place, engines) as stores:
            answers = race(*(partial(write, stores[size % engines], size) for size in (1, 2, 3, 4)))
            events = read_through(stores[0])
        assert len(events) == len(ids)
        expected = {event.id: event.position for event in events}
        assert answers == [expected] * 4

    def test_a_second_engine_knows_the_ids_of_the_first(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            first.append(named("a"))
            assert second.append(named("b", "a")) == Appended(1, 2, (at(2), at(1, again=True)))
            assert first.append(named("b")) == Appended(2, 2, (at(2, again=True),))
            with pytest.raises(IdConflict):
                first.append([new_event(id="b")])
