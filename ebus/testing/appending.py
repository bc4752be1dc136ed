"""Appends and commits: which positions they take, and what they answer."""

from __future__ import annotations

import pytest

from ebus.core.engine import Engine
from ebus.core.errors import InvalidBatch, InvalidEvent
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, TenantStore
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import NEW_TENANT, observe, parsed, read_through, stored, unchanged
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite


class Appending(Suite):
    def test_an_engine_and_its_stores_fit_the_protocols(self, engine: Engine) -> None:
        assert isinstance(engine, Engine)
        assert isinstance(engine.open(ALICE), TenantStore)

    def test_a_store_knows_the_limits_it_was_opened_with(self, place: Place) -> None:
        limits = Limits(max_batch_events=7)
        with place.open(limits=limits) as engine:
            assert engine.open(ALICE).limits == limits

    def test_a_new_tenant_is_empty(self, place: Place, store: TenantStore) -> None:
        assert observe(place, ALICE, store) == NEW_TENANT

    def test_positions_count_from_1(self, store: TenantStore) -> None:
        appended = [store.append([event]) for event in numbered(3)]
        assert appended == [Appended(1, 1), Appended(2, 2), Appended(3, 3)]
        assert read_through(store) == stored(numbered(3))

    def test_a_batch_takes_contiguous_positions_in_its_own_order(self, store: TenantStore) -> None:
        store.append(numbered(1))
        assert store.append(numbered(5, first=2)) == Appended(2, 6)
        assert read_through(store) == stored(numbered(6))

    def test_the_largest_batch_is_stored_whole(self, store: TenantStore) -> None:
        batch = numbered(store.limits.max_batch_events)
        assert store.append(batch) == Appended(1, len(batch))
        assert read_through(store) == stored(batch)

    def test_equal_events_are_stored_as_often_as_they_are_appended(
        self, store: TenantStore
    ) -> None:
        store.append([new_event()] * 3)
        store.append([new_event()])
        assert read_through(store) == stored([new_event()] * 4)

    def test_a_batch_may_be_any_sequence(self, store: TenantStore) -> None:
        assert store.append(tuple(numbered(2))) == Appended(1, 2)

    def test_a_batch_may_be_changed_by_its_owner_afterwards(self, store: TenantStore) -> None:
        batch = numbered(2)
        store.append(batch)
        batch.clear()
        assert read_through(store) == stored(numbered(2))

    def test_head_and_count_follow_every_append(self, store: TenantStore) -> None:
        for size, head in [(1, 1), (4, 5), (200, 205), (1, 206)]:
            store.append(numbered(size))
            assert (store.head(), store.count()) == (head, head)

    def test_what_is_appended_is_stored_when_append_returns(
        self, place: Place, store: TenantStore
    ) -> None:
        for number in range(1, 5):
            store.append(numbered(1, first=number))
            assert parsed(place.peek(ALICE).events) == stored(numbered(number))

    def test_events_without_a_time_stamp_get_a_valid_one_when_they_are_appended(
        self, place: Place, store: TenantStore
    ) -> None:
        unstamped = NewEvent("Tested", new_event(b"1").data)
        store.append([unstamped, new_event(b"2"), unstamped])
        events = read_through(store)
        assert events[1] == stored([new_event(b"2")], 2)[0]
        # A time stamp is valid when it can be appended.
        restamped = [new_event(event.data, timestamp=event.timestamp) for event in events]
        store.append(restamped)
        assert read_through(store) == stored(restamped * 2)
        assert parsed(place.peek(ALICE).events) == stored(restamped * 2)

    def test_values_are_appended_as_their_json(self, store: TenantStore) -> None:
        value = {"id": 7, "lines": ["a", None, 1.5], "größe": True}
        store.append([NewEvent.of("Tested", value, "2024-01-01T00:00:00+02:00")])
        [event] = store.read(1).events
        assert event.value() == value

    def test_a_commit_stores_its_appends_in_order(self, store: TenantStore) -> None:
        events = numbered(7)
        appends = [Append(events[:1]), Append(events[1:4]), Append(events[4:6]), Append(events[6:])]
        answer = store.commit(appends)
        assert answer == [Appended(1, 1), Appended(2, 4), Appended(5, 6), Appended(7, 7)]
        assert read_through(store) == stored(events)

    def test_a_commit_of_many_appends_is_stored_whole(
        self, place: Place, store: TenantStore
    ) -> None:
        events = numbered(600)
        answer = store.commit([Append(events[first : first + 2]) for first in range(0, 600, 2)])
        assert answer == [Appended(first, first + 1) for first in range(1, 600, 2)]
        assert read_through(store) == stored(events)
        assert parsed(place.peek(ALICE).events) == stored(events)

    def test_a_commit_of_nothing_answers_nothing(self, place: Place, store: TenantStore) -> None:
        store.append(numbered(1))
        with unchanged(place, ALICE, store):
            assert store.commit([]) == []

    def test_a_commit_refuses_one_append_and_stores_its_neighbours(
        self, store: TenantStore
    ) -> None:
        good = numbered(6)
        bad = new_event(b"{")
        answer = store.commit(
            [
                Append([bad]),
                Append(good[:2]),
                Append([]),
                Append([*good, bad]),
                Append(good[2:3]),
                Append(good[3:]),
                Append([bad, *good]),
            ]
        )
        assert [type(result) for result in answer] == [
            InvalidEvent,
            Appended,
            InvalidBatch,
            InvalidEvent,
            Appended,
            Appended,
            InvalidEvent,
        ]
        assert [result for result in answer if isinstance(result, Appended)] == [
            Appended(1, 2),
            Appended(3, 3),
            Appended(4, 6),
        ]
        assert read_through(store) == stored(good)
        assert store.append(numbered(1)) == Appended(7, 7)

    def test_a_commit_of_refused_appends_alone_changes_nothing(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append(numbered(2))
        with unchanged(place, ALICE, store):
            first, second = store.commit([Append([]), Append([new_event(b"{")])])
        assert isinstance(first, InvalidBatch)
        assert isinstance(second, InvalidEvent)
        assert store.append(numbered(1)) == Appended(3, 3)

    @pytest.mark.parametrize("durability", ["full", "normal"])
    def test_a_tenant_opened_with_a_durability_keeps_its_events(
        self, place: Place, durability: str
    ) -> None:
        with place.open() as engine:
            store = engine.open(ALICE, durability="full" if durability == "full" else "normal")
            store.append(numbered(3))
            store.save_checkpoint("mailer", 2)
        with place.open() as engine:
            store = engine.open(ALICE)
            assert read_through(store) == stored(numbered(3))
            assert store.checkpoint("mailer") == 2
