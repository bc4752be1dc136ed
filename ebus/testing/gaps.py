"""Gaps that are left on purpose, and ids that are looked up: what a move to here needs."""

from __future__ import annotations

import pytest

from ebus.core.errors import InvalidExpectation, InvalidRange, PositionConflict
from ebus.core.filter import Filter
from ebus.core.store import SupportsGaps, SupportsIdLookup, SupportsTrim, TenantStore
from ebus.testing.events import new_event, numbered
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite


def with_gaps(store: TenantStore) -> SupportsGaps:
    if not isinstance(store, SupportsGaps):
        pytest.skip("SupportsGaps is not among the powers of this engine")
    return store


class Gaps(Suite):
    @pytest.mark.parametrize("before", [0, 3, 600])
    @pytest.mark.parametrize("through", [700, 2_000])
    def test_positions_that_are_left_out_hold_nothing(
        self, store: TenantStore, before: int, through: int
    ) -> None:
        if before:
            store.append(numbered(before))
        with_gaps(store).leave_gap(through, expected=before)
        assert (store.head(), store.count()) == (through, before)
        assert store.append([new_event(type="Later")]).first_position == through + 1
        assert [event.position for event in store.read(before or 1).events] == [
            *([before] if before else []),
            through + 1,
        ]
        found = store.read(1, filter=Filter(types=("Later",)))
        assert [event.position for event in found.events] == [through + 1]
        if isinstance(store, SupportsTrim):
            store.trim(through)  # what is checked after each test has its gap at the beginning

    def test_a_stream_goes_on_from_the_version_that_it_is_given(
        self, place: Place, store: TenantStore
    ) -> None:
        with_gaps(store).leave_gap(9, versions={"a": 7, "c": 2}, expected=0)
        store.append([new_event(stream=name) for name in "abc"])
        assert [event.version for event in store.read(10).events] == [8, 1, 3]
        with_gaps(store).leave_gap(12, versions={"d": 3}, expected=12)
        assert (store.head(), store.stream_version("d")) == (12, 3)
        store.append([new_event(stream="a")])
        last = store.read(1, filter=Filter(stream="a", from_version=2))
        assert [(event.position, event.version) for event in last.events] == [(10, 8), (13, 9)]

    def test_a_stream_that_has_events_keeps_its_version(
        self, place: Place, store: TenantStore
    ) -> None:
        """In between, a stream's versions have no gaps."""
        store.append([new_event(stream="a")])
        with pytest.raises(InvalidExpectation):
            with_gaps(store).leave_gap(1, versions={"b": 3, "a": 3}, expected=1)
        assert (store.stream_version("a"), store.stream_version("b")) == (1, 0)

    def test_a_gap_is_still_there_after_reopening(self, place: Place) -> None:
        with place.open() as engine:
            store = engine.open(ALICE)
            with_gaps(store).leave_gap(5, versions={"a": 4}, expected=0)
        with place.open() as engine:
            store = engine.open(ALICE)
            assert (store.head(), store.count(), store.stream_version("a")) == (5, 0, 4)

    def test_a_gap_is_refused_where_the_log_has_gone_on(self, store: TenantStore) -> None:
        store.append(numbered(2))
        with pytest.raises(PositionConflict) as conflict:
            with_gaps(store).leave_gap(9, versions={"a": 4}, expected=1)
        assert conflict.value.current == 2
        with pytest.raises(InvalidRange):
            with_gaps(store).leave_gap(1, versions={"a": 4}, expected=2)
        assert (store.head(), store.stream_version("a")) == (2, 0)

    def test_ids_are_found_where_their_events_are(self, store: TenantStore) -> None:
        if not isinstance(store, SupportsIdLookup):
            pytest.skip("SupportsIdLookup is not among the powers of this engine")
        ids = ["é", "x", 'quo"te', "😀"]
        store.append([new_event(id=name) for name in ids])
        wanted = ["x", "nobody", "\ud800", "😀", "x"]
        assert store.positions_of(wanted) == {"x": 2, "😀": 4}
        assert store.positions_of([]) == {}
