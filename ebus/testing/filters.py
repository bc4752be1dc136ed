"""Filters: which events are read when not all of them are wanted."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebus.core.aio import wire_reader
from ebus.core.errors import InvalidFilter
from ebus.core.event import NewEvent, utc_now
from ebus.core.filter import Filter
from ebus.core.limits import MAX_FILTER_TYPES, MAX_POSITION, Limits
from ebus.core.store import SupportsTrim, TenantStore
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import check_filtered, event_sizes, read_through, stored
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite

# Small, so that short logs meet every bound.
SMALL = Limits(max_read_events=6, max_page_bytes=500, max_block_events=3, max_block_bytes=250)

TYPES = ["A", "B", "größe"]
STREAMS = ["s", "s-1", "s-2", "größe"]

events = st.builds(
    lambda kind, stream, size: new_event(b'"%b"' % (b"x" * size), type=kind, stream=stream),
    st.sampled_from(TYPES),
    st.none() | st.sampled_from(STREAMS),
    st.sampled_from([0, 0, 60]),
)
versions = st.none() | st.integers(1, 6)
wanted_filters = st.none() | st.one_of(
    st.builds(
        Filter,
        types=st.lists(st.sampled_from([*TYPES, "None"]), max_size=3).map(tuple),
        stream=st.none() | st.sampled_from([*STREAMS, "none"]),
        stream_prefix=st.none() | st.sampled_from(["", "s", "s-", "gr", "x"]),
    ),
    st.builds(
        Filter,
        types=st.lists(st.sampled_from(TYPES), max_size=1).map(tuple),
        stream=st.sampled_from(STREAMS),
        from_version=versions,
        to_version=versions,
    ),
)
places = st.integers(0, 30) | st.just(MAX_POSITION)

BAD_FILTERS: dict[str, Any] = {
    "too many types": Filter(types=tuple(map(str, range(MAX_FILTER_TYPES + 1)))),
    "an empty type": Filter(types=("A", "")),
    "a type too long": Filter(types=("x" * 256,)),
    "a type with a line break": Filter(types=("a\n",)),
    "a type with a lone surrogate": Filter(types=("\ud800",)),
    "an empty stream": Filter(stream=""),
    "a stream too long": Filter(stream="x" * 256),
    "a stream with a NUL": Filter(stream="a\x00"),
    "a prefix with a NUL": Filter(stream_prefix="a\x00"),
    "a prefix with a lone surrogate": Filter(stream_prefix="\udc00"),
    "versions without a stream": Filter(from_version=1),
    "versions of a prefix": Filter(stream_prefix="a", to_version=1),
    "a negative version": Filter(stream="a", from_version=-1),
    "a version too large": Filter(stream="a", to_version=MAX_POSITION + 1),
    "no time": Filter(since="yesterday"),
    "a time without an offset": Filter(until="2024-01-01T00:00:00"),
    "a day there is not": Filter(until="2024-02-30T00:00:00Z"),
}


def moment() -> str:
    """A time after all that was appended, and not after what will be."""
    begun_ns = time.time_ns()
    while time.time_ns() <= begun_ns:
        pass
    return utc_now()


def recorded_between(
    store: TenantStore, since: str | None, until: str | None, **more: Any
) -> list[int]:
    """Positions read forwards and backwards, as events and as bytes: all the same."""
    wanted = Filter(since=since, until=until, **more)
    positions = [it.position for it in store.read(1, filter=wanted).events]
    backwards = [it.position for it in store.read(1, filter=wanted, backwards=True).events]
    assert backwards == positions[::-1]
    assert wire_reader(store)(1, filter=wanted).count == len(positions)
    return positions


class Filters(Suite):
    def test_any_filter_and_any_range_give_what_a_plain_model_says(self, place: Place) -> None:
        with place.open(limits=SMALL) as engine:
            store = engine.open(ALICE)
            log: list[NewEvent] = []

            @settings(deadline=None)
            @given(
                st.lists(events, max_size=3),
                wanted_filters,
                places,
                st.none() | places,
                st.none() | st.integers(1, SMALL.max_read_events),
                st.none() | st.integers(1, 900),
                st.booleans(),
            )
            def check(
                more: list[NewEvent],
                wanted: Filter | None,
                start: int,
                stop: int | None,
                limit: int | None,
                max_bytes: int | None,
                backwards: bool,
            ) -> None:
                if more and len(log) < 60:
                    store.append(more)
                    log.extend(more)
                sizes = event_sizes(place.peek(ALICE))
                # Any range, and the one that has everything.
                for first, last in [(start, stop), (0, None)]:
                    check_filtered(
                        store,
                        stored(log),
                        sizes,
                        wanted,
                        first,
                        last,
                        limit=limit,
                        max_bytes=max_bytes,
                        backwards=backwards,
                    )

            check()

    def test_backwards_a_page_begins_with_the_last_event(self, store: TenantStore) -> None:
        store.append(numbered(10))
        page = store.read(1, limit=3, backwards=True)
        assert [it.position for it in page.events] == [10, 9, 8]
        assert page.next == 7
        page = store.read(3, 5, backwards=True)
        assert ([it.position for it in page.events], page.next) == ([5, 4, 3], None)
        page = store.read(0, 1, limit=1, backwards=True)
        assert ([it.position for it in page.events], page.next) == ([1], None)

    def test_backwards_nothing_is_read_where_nothing_is(self, store: TenantStore) -> None:
        for start, stop in [(0, None), (1, 0)]:
            page = store.read(start, stop, backwards=True)
            assert (page.events, page.next) == ([], None)
        store.append(numbered(3))
        for start, stop in [(4, None), (3, 2), (1, 0), (MAX_POSITION, MAX_POSITION)]:
            page = store.read(start, stop, backwards=True)
            assert (page.events, page.next) == ([], None)

    def test_what_trimming_left_is_read_filtered_and_backwards(self, place: Place) -> None:
        with place.open(limits=SMALL) as engine:
            store = engine.open(ALICE)
            if not isinstance(store, SupportsTrim):
                pytest.skip("SupportsTrim is not among the powers of this engine")
            log = [
                new_event(type=TYPES[number % 2], stream=(None, *STREAMS)[number % 3])
                for number in range(12)
            ]
            for first in range(0, 12, 4):
                store.append(log[first : first + 4])
            for through in (1, 5, 11, 12):
                store.trim(through)
                sizes = event_sizes(place.peek(ALICE))
                for wanted in (
                    None,
                    Filter(types=("A",)),
                    Filter(stream="s"),
                    Filter(types=("Z",)),
                ):
                    for backwards in (False, True):
                        for limit in (None, 1):
                            check_filtered(
                                store,
                                stored(log)[through:],
                                sizes,
                                wanted,
                                limit=limit,
                                backwards=backwards,
                            )

    def test_a_filter_reads_what_lies_far_apart(self, store: TenantStore) -> None:
        batch = numbered(1_000)
        for position in (1, 500, 1_000):
            batch[position - 1] = new_event(type="Rare", stream="rare")
        store.append(batch)
        sizes = dict.fromkeys((1, 500, 1_000), 100)
        for wanted in (Filter(types=("Rare",)), Filter(stream="rare"), Filter(stream_prefix="ra")):
            for backwards in (False, True):
                check_filtered(store, stored(batch), sizes, wanted, limit=1, backwards=backwards)

    def test_events_are_read_by_when_they_were_recorded(self, place: Place) -> None:
        moments = []
        with place.open(limits=Limits(max_block_events=3)) as engine:
            store = engine.open(ALICE)
            for number in range(4):
                moments.append(moment())
                # Time stamps are the client's, and say nothing of when an event came.
                store.append([new_event(type=TYPES[it], stream="s") for it in (0, 1)])
                assert store.head() == 2 * number + 2
            moments.append(moment())
        with place.open() as engine:
            store = engine.open(ALICE)
            for first, since in enumerate(moments):
                for last, until in enumerate(moments):
                    expected = list(range(2 * first + 1, 2 * last + 1))
                    assert recorded_between(store, since, until) == expected
            assert recorded_between(store, moments[1], None) == [3, 4, 5, 6, 7, 8]
            assert recorded_between(store, None, moments[1]) == [1, 2]
            assert recorded_between(store, moments[1], moments[3], types=("B",)) == [4, 6]
            assert recorded_between(store, moments[3], None, stream="s", to_version=7) == [7]
            assert recorded_between(store, moments[3], None, stream="t") == []
            page = store.read(2, 5, filter=Filter(since=moments[1]))
            assert [it.position for it in page.events] == [3, 4, 5]

    def test_times_of_other_offsets_and_of_other_ages_are_understood(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(2))
        zone = timezone(timedelta(hours=-9, minutes=-30))
        hour = timedelta(hours=1)
        now = datetime.now(zone)
        before, after = (now - hour).isoformat(), (now + hour).isoformat()
        assert recorded_between(store, before, after) == [1, 2]
        assert recorded_between(store, after, before) == []
        first, last = "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999999-23:59"
        assert recorded_between(store, first, last) == [1, 2]
        assert recorded_between(store, last, None) == []
        assert recorded_between(store, None, first) == []

    @pytest.mark.parametrize("wanted", BAD_FILTERS.values(), ids=BAD_FILTERS)
    def test_a_bad_filter_is_refused(self, store: TenantStore, wanted: Filter) -> None:
        store.append(numbered(1))
        for backwards in (False, True):
            for read in (store.read, wire_reader(store)):
                with pytest.raises(InvalidFilter):
                    read(1, filter=wanted, backwards=backwards)

    def test_a_filter_of_as_many_types_as_there_may_be_is_fine(self, store: TenantStore) -> None:
        store.append([new_event(type=str(number)) for number in range(MAX_FILTER_TYPES + 1)])
        wanted = Filter(types=tuple(map(str, range(MAX_FILTER_TYPES))))
        found = read_through(store)[:MAX_FILTER_TYPES]
        assert len(found) == MAX_FILTER_TYPES
        sizes = dict.fromkeys(range(1, MAX_FILTER_TYPES + 2), 1)
        check_filtered(store, read_through(store), sizes, wanted)
