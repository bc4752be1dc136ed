"""Fidelity: what is read is what was sent, to the digit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from ebus.core.event import NewEvent
from ebus.core.store import SupportsWireRead, TenantStore
from ebus.testing.events import (
    HARD_DATA,
    HARD_TIMESTAMPS,
    HARD_TYPES,
    Sent,
    event_of_bytes,
    new_event,
    numbered,
    sent_events,
)
from ebus.testing.observation import parsed, plain, read_through, stored
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite


def check_kept(place: Place, event: NewEvent) -> None:
    """Append an event between two others and look at it from every side."""
    batch = [new_event(b"1"), event, new_event(b"2")]
    with place.open() as engine:
        store = engine.open(ALICE)
        store.append(batch)
        assert plain(store.read(1).events) == stored(batch)
        assert plain(store.read(2, 2).events) == stored([event], 2)
        assert parsed(place.peek(ALICE).events) == stored(batch)
        if isinstance(store, SupportsWireRead):
            assert parsed(store.read_wire(1).chunks) == stored(batch)
            assert parsed(store.read_wire(2, 2).chunks) == stored([event], 2)
    with place.open() as engine:
        assert read_through(engine.open(ALICE)) == stored(batch)


class Fidelity(Suite):
    @pytest.mark.parametrize("data", HARD_DATA.values(), ids=HARD_DATA)
    def test_data_comes_back_as_it_was_sent(self, place: Place, data: bytes) -> None:
        check_kept(place, new_event(data))

    @pytest.mark.parametrize("type", HARD_TYPES.values(), ids=HARD_TYPES)
    def test_a_type_comes_back_as_it_was_sent(self, place: Place, type: str) -> None:
        check_kept(place, new_event(type=type))

    @pytest.mark.parametrize("timestamp", HARD_TIMESTAMPS.values(), ids=HARD_TIMESTAMPS)
    def test_a_time_stamp_comes_back_as_it_was_written(self, place: Place, timestamp: str) -> None:
        check_kept(place, new_event(timestamp=timestamp))

    @pytest.mark.parametrize("text", HARD_TYPES.values(), ids=HARD_TYPES)
    def test_an_id_a_stream_and_metadata_come_back_as_they_were_sent(
        self, place: Place, text: str
    ) -> None:
        check_kept(place, new_event(id=text, stream=text, metadata={text: text, "": ""}))

    def test_metadata_may_hold_any_characters_or_nothing(self, place: Place) -> None:
        check_kept(place, new_event(metadata={"a\n\x00": '"\\\x7f\x85', "b": ""}))

    @pytest.mark.parametrize("json", [b' {"a":\n"\\u00e9" , "b":""}', b"{}", b" null "])
    def test_metadata_may_be_json_already(self, place: Place, json: bytes) -> None:
        check_kept(place, new_event(metadata=Raw(json)))

    def test_an_event_with_all_its_members_is_kept_among_plain_ones(
        self, place: Place, store: TenantStore
    ) -> None:
        batch = numbered(3)
        batch += [new_event(id="a", stream="s", metadata={"k": "v"}), new_event(stream="s")]
        batch += [new_event(metadata={}), *numbered(6), new_event(id="b")]
        store.append(batch)
        assert read_through(store, limit=2) == stored(batch)
        assert parsed(place.peek(ALICE).events) == stored(batch)

    def test_white_space_around_a_document_may_go_and_nothing_else(
        self, store: TenantStore
    ) -> None:
        store.append([new_event(b' \t\r\n{ "a" : 1 } \n')])
        [event] = plain(store.read(1).events)
        assert event.data.strip(b" \t\r\n") == b'{ "a" : 1 }'

    def test_hard_data_of_one_batch_stays_in_its_own_event(
        self, place: Place, store: TenantStore
    ) -> None:
        batch = [new_event(data) for data in HARD_DATA.values()]
        store.append(batch)
        assert read_through(store, limit=3) == stored(batch)
        assert parsed(place.peek(ALICE).events) == stored(batch)

    def test_an_event_of_the_largest_size_is_kept(self, store: TenantStore) -> None:
        event = event_of_bytes(store.limits.max_event_bytes)
        store.append([*numbered(1), event, *numbered(1)])
        assert plain(store.read(2, 2).events) == stored([event], 2)

    def test_any_batch_comes_back_as_it_was_sent(self, place: Place, store: TenantStore) -> None:
        log: list[NewEvent] = []

        @settings(deadline=None)
        @given(st.lists(sent_events(), min_size=1, max_size=6))
        def check(sent: list[Sent]) -> None:
            batch = [event.new_event() for event in sent]
            log.extend(batch)
            appended = store.append(batch)
            first, last = appended.first_position, appended.last_position
            assert (first, last) == (len(log) - len(batch) + 1, len(log))
            expected = stored(log)[first - 1 :]
            assert plain(store.read(first, last).events) == expected
            assert parsed(place.peek(ALICE).events[first - 1 :]) == expected
            if isinstance(store, SupportsWireRead):
                assert parsed(store.read_wire(first, last).chunks) == expected

        check()
