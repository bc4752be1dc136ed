"""Reads: which events a page holds, where it is cut, and where it says to go on."""

from __future__ import annotations

import pytest

from ebus.core.aio import wire_reader
from ebus.core.errors import InvalidRange
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.store import Append, SupportsTrim, SupportsWireRead, TenantStore
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import (
    check_page,
    check_wire_page,
    event_sizes,
    parsed,
    plain,
    read_through,
    stored,
)
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite

HEAD = 10


def fill(store: TenantStore) -> None:
    """Append events up to `HEAD`, in appends and commits of several sizes."""
    events = numbered(HEAD)
    store.append(events[:1])
    store.append(events[1:5])
    store.commit([Append(events[5:7]), Append(events[7:8])])
    store.append(events[8:])


def check_read(
    store: TenantStore,
    sizes: dict[int, int],
    start: int,
    stop: int | None,
    *,
    limit: int | None = None,
    max_bytes: int | None = None,
    trimmed: int = 0,
) -> None:
    """Read a page as events and as bytes, and compare both with what lies in the range."""
    page = store.read(start, stop, limit=limit, max_bytes=max_bytes)
    expected = [
        event
        for event in stored(numbered(HEAD))
        if max(start, trimmed + 1) <= event.position and (stop is None or event.position <= stop)
    ]
    check_page(
        page,
        expected,
        sizes,
        limit or store.limits.max_read_events,
        max_bytes or store.limits.max_page_bytes,
    )
    if isinstance(store, SupportsWireRead):
        check_wire_page(store.read_wire(start, stop, limit=limit, max_bytes=max_bytes), page)


def check_every_range(place: Place, store: TenantStore, *, trimmed: int = 0) -> None:
    sizes = event_sizes(place.peek(ALICE))
    for start in [*range(HEAD + 3), MAX_POSITION]:
        for stop in [None, *range(HEAD + 3), MAX_POSITION]:
            for limit in [None, 1, 2, 3, HEAD]:
                check_read(store, sizes, start, stop, limit=limit, trimmed=trimmed)


class Reading(Suite):
    def test_every_range_and_limit_gives_the_right_page(
        self, place: Place, store: TenantStore
    ) -> None:
        fill(store)
        check_every_range(place, store)

    def test_every_range_and_limit_gives_the_right_page_of_small_blocks(self, place: Place) -> None:
        with place.open(limits=Limits(max_block_events=2, max_block_bytes=100)) as engine:
            store = engine.open(ALICE)
            fill(store)
            check_every_range(place, store)

    def test_every_range_and_limit_gives_the_right_page_of_what_trimming_left(
        self, place: Place, store: TenantStore
    ) -> None:
        fill(store)
        if not isinstance(store, SupportsTrim):
            pytest.skip("SupportsTrim is not among the powers of this engine")
        for through in (1, 3, HEAD - 1, HEAD):
            store.trim(through)
            check_every_range(place, store, trimmed=through)

    @pytest.mark.parametrize(
        "limits",
        [Limits(), Limits(max_block_events=3)],
        ids=["default blocks", "small blocks"],
    )
    def test_every_bound_on_bytes_cuts_the_page_in_the_right_place(
        self, place: Place, limits: Limits
    ) -> None:
        with place.open(limits=limits) as engine:
            store = engine.open(ALICE)
            fill(store)
            sizes = event_sizes(place.peek(ALICE))
            for max_bytes in range(1, sum(sizes.values()) + HEAD + 2):
                check_read(store, sizes, 1, None, max_bytes=max_bytes)
                check_read(store, sizes, 4, 9, max_bytes=max_bytes, limit=5)

    @pytest.mark.parametrize("bound", ["limit", "max_bytes"])
    def test_following_next_reads_every_event_exactly_once(
        self, store: TenantStore, bound: str
    ) -> None:
        events = numbered(300)
        store.append(events[:130])
        store.append(events[130:131])
        store.append(events[131:])
        for size in [1, 2, 7, 128, 299, 300, 301, 5000]:
            limit, max_bytes = (size, None) if bound == "limit" else (None, size)
            whole = read_through(store, limit=limit, max_bytes=max_bytes)
            assert whole == stored(events)
            part = read_through(store, 120, 140, limit=limit, max_bytes=max_bytes)
            assert part == stored(events)[119:140]

    def test_a_page_that_ends_with_the_last_event_names_no_next(self, store: TenantStore) -> None:
        fill(store)
        assert store.read(1, limit=HEAD).next is None
        assert store.read(3, 7, limit=5).next is None
        assert store.read(3, 7, limit=4).next == 7

    def test_start_0_means_1(self, store: TenantStore) -> None:
        fill(store)
        assert plain(store.read(0, 3).events) == stored(numbered(3))
        assert store.read(0, limit=2).next == 3

    def test_a_stop_below_the_start_reads_nothing(self, store: TenantStore) -> None:
        fill(store)
        for start, stop in [(5, 4), (5, 0), (1, 0), (0, 0), (HEAD, 1)]:
            page = store.read(start, stop)
            assert (page.events, page.next) == ([], None)

    def test_a_start_beyond_the_head_reads_nothing(self, store: TenantStore) -> None:
        fill(store)
        for start in (HEAD + 1, HEAD + 2, MAX_POSITION):
            page = store.read(start)
            assert (page.events, page.next) == ([], None)

    def test_reading_an_empty_tenant_reads_nothing(self, store: TenantStore) -> None:
        page = store.read(0)
        assert (page.events, page.next) == ([], None)

    def test_a_page_is_cut_at_the_limits_of_the_store_when_nothing_is_asked(
        self, place: Place
    ) -> None:
        with place.open(limits=Limits(max_read_events=4)) as engine:
            store = engine.open(ALICE)
            fill(store)
            page = store.read(2)
            assert (len(page.events), page.next) == (4, 6)
        with place.open(limits=Limits(max_page_bytes=1)) as engine:
            page = engine.open(ALICE).read(2)
            assert (len(page.events), page.next) == (1, 3)

    def test_an_event_larger_than_the_bound_on_bytes_makes_a_page_of_its_own(
        self, store: TenantStore
    ) -> None:
        large = new_event(b'"' + b"x" * 10_000 + b'"')
        store.append([new_event(), large, new_event()])
        page = store.read(2, max_bytes=100)
        assert (plain(page.events), page.next) == (stored([large], 2), 3)
        assert [event.position for event in store.read(1, max_bytes=100).events] == [1, 2]

    @pytest.mark.parametrize(
        ("start", "stop", "limit", "max_bytes"),
        [
            (-1, None, None, None),
            (MAX_POSITION + 1, None, None, None),
            (1, -1, None, None),
            (1, MAX_POSITION + 1, None, None),
            (1, None, 0, None),
            (1, None, -1, None),
            (1, None, Limits().max_read_events + 1, None),
            (1, None, None, 0),
            (1, None, None, -1),
        ],
    )
    def test_a_range_that_is_none_is_refused(
        self,
        store: TenantStore,
        start: int,
        stop: int | None,
        limit: int | None,
        max_bytes: int | None,
    ) -> None:
        fill(store)
        with pytest.raises(InvalidRange):
            store.read(start, stop, limit=limit, max_bytes=max_bytes)
        if isinstance(store, SupportsWireRead):
            with pytest.raises(InvalidRange):
                store.read_wire(start, stop, limit=limit, max_bytes=max_bytes)

    def test_a_wire_read_gives_json_that_any_parser_takes(self, store: TenantStore) -> None:
        fill(store)
        page = wire_reader(store)(1)
        assert parsed(page.chunks) == stored(numbered(HEAD))
        assert (page.count, page.first_position, page.next) == (HEAD, 1, None)

    def test_a_wire_read_of_nothing_has_no_chunks(self, store: TenantStore) -> None:
        fill(store)
        page = wire_reader(store)(HEAD + 1)
        assert (page.chunks, page.count, page.first_position, page.next) == ([], 0, 0, None)
