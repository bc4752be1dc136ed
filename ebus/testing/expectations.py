"""Expectations: an append that is stored only if the log is as its writer believes."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest

from ebus.core.errors import (
    Conflict,
    InvalidExpectation,
    InvalidFilter,
    InvalidInput,
    MatchConflict,
    PositionConflict,
    VersionConflict,
)
from ebus.core.event import NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.store import (
    Append,
    Appended,
    Expectation,
    NoneAfter,
    SupportsTrim,
    TenantStore,
)
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import read_through, unchanged
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import ALICE, Suite


def none_after(position: int, *filters: Filter) -> Expectation:
    return Expectation(none_after=NoneAfter(position, filters))


LOG = [
    new_event(type="A", stream="s-1"),
    new_event(type="B", stream="s-1"),
    new_event(type="A"),
    new_event(type="C", stream="t"),
    new_event(type="B", stream="größe"),
    new_event(type="A", stream="s-2"),
]


class Condition(NamedTuple):
    filters: tuple[Filter, ...]
    last: int
    """Where in `LOG` the last event is that matches; 0 for none."""


CONDITIONS: dict[str, Condition] = {
    "everything": Condition((Filter(),), 6),
    "a type": Condition((Filter(types=("B",)),), 5),
    "one of two types": Condition((Filter(types=("C", "B")),), 5),
    "a type there is not": Condition((Filter(types=("D",)),), 0),
    "a stream": Condition((Filter(stream="s-1"),), 2),
    "a stream there is not": Condition((Filter(stream="s"),), 0),
    "a stream beyond ASCII": Condition((Filter(stream="größe"),), 5),
    "a prefix": Condition((Filter(stream_prefix="s-"),), 6),
    "any stream": Condition((Filter(stream_prefix=""),), 6),
    "a type of a stream": Condition((Filter(types=("A",), stream="s-1"),), 1),
    "a type of a prefix": Condition((Filter(types=("B",), stream_prefix="s"),), 2),
    "a type of a stream it is not in": Condition((Filter(types=("C",), stream="s-1"),), 0),
    "the first of two": Condition((Filter(types=("C",)), Filter(stream="none")), 4),
    "the second of two": Condition((Filter(types=("D",)), Filter(stream="t")), 4),
}

BAD_EXPECTATIONS: dict[str, Any] = {
    "a negative position": Expectation(position=-1),
    "a position too large": Expectation(position=MAX_POSITION + 1),
    "a position that is true": Expectation(position=True),
    "a stream without a name": Expectation(versions={"": 0}),
    "a stream with a line break": Expectation(versions={"a\n": 0}),
    "a negative version": Expectation(versions={"a": -1}),
    "too many versions": Expectation(versions={str(number): 0 for number in range(1_001)}),
    "a condition without filters": none_after(0),
    "a condition of too many filters": none_after(0, *[Filter()] * 101),
    "a condition after a negative position": none_after(-1, Filter()),
    "a condition on versions": none_after(0, Filter(stream="a", from_version=1)),
    "a condition on times": none_after(0, Filter(since="2024-01-01T00:00:00Z")),
    "a condition on no type": none_after(0, Filter(types=("",))),
}


class Expectations(Suite):
    def test_an_expectation_of_nothing_is_always_so(self, store: TenantStore) -> None:
        for position in (1, 2):
            assert store.append(numbered(1), expect=Expectation()) == Appended(position, position)

    def test_an_append_is_stored_only_at_the_position_that_is_expected(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append(numbered(3), expect=Expectation(position=0))
        for position in (0, 2, 4, MAX_POSITION):
            with unchanged(place, ALICE, store), pytest.raises(PositionConflict) as refusal:
                store.append(numbered(1), expect=Expectation(position=position))
            assert refusal.value.current == 3
        assert store.append(numbered(1), expect=Expectation(position=3)) == Appended(4, 4)

    def test_an_append_is_stored_only_if_every_stream_is_at_the_version_that_is_expected(
        self, place: Place, store: TenantStore
    ) -> None:
        store.append([new_event(stream=it) for it in ("a", "b", "a")])
        event = new_event(stream="a")
        for versions, current in [
            ({"a": 1}, 2),
            ({"a": 3}, 2),
            ({"a": 0}, 2),
            ({"a": 2, "b": 0}, 1),
            ({"c": 1}, 0),
            ({"c": 0, "b": 1, "a": 4}, 2),
        ]:
            with unchanged(place, ALICE, store), pytest.raises(VersionConflict) as refusal:
                store.append([event], expect=Expectation(versions=versions))
            assert refusal.value.current == current
        right = Expectation(versions={"a": 2, "b": 1, "c": 0}, position=3)
        [placed] = store.append([event], expect=right).events
        assert (placed.position, placed.version) == (4, 3)

    @pytest.mark.parametrize(
        "limits", [Limits(), Limits(max_block_events=2)], ids=["default blocks", "small blocks"]
    )
    @pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
    def test_an_append_is_stored_only_if_nothing_came_that_matches(
        self, place: Place, condition: Condition, limits: Limits
    ) -> None:
        with place.open(limits=limits) as engine:
            store = engine.open(ALICE)
            store.append(LOG[:1])
            store.append(LOG[1:5])
            store.append(LOG[5:])
            for position in range(condition.last):
                with pytest.raises(MatchConflict) as refusal:
                    store.append(numbered(1), expect=none_after(position, *condition.filters))
                current = refusal.value.current
                assert current is None or position < current <= condition.last
            assert store.head() == len(LOG)
            for position in range(condition.last, len(LOG) + 1):
                # At most one of them is stored: it may match itself.
                try:
                    store.append(
                        [new_event(type="Z")], expect=none_after(position, *condition.filters)
                    )
                except MatchConflict:
                    assert store.head() > len(LOG)
            assert store.head() > len(LOG)

    def test_what_came_in_a_stream_is_expected_beside_a_position_and_a_version(
        self, store: TenantStore
    ) -> None:
        store.append(LOG)
        condition = NoneAfter(4, (Filter(types=("C",)),))
        all_three = Expectation(position=6, versions={"s-1": 2}, none_after=condition)
        store.append([new_event(type="C")], expect=all_three)
        with pytest.raises(Conflict):
            store.append(numbered(1), expect=all_three)

    def test_each_append_of_a_commit_sees_what_those_before_it_do(self, store: TenantStore) -> None:
        event = new_event(type="A", stream="s")
        answers = store.commit(
            [
                Append([event], Expectation(position=0, versions={"s": 0})),
                Append([event], Expectation(position=0)),
                Append([event], Expectation(versions={"s": 0})),
                Append([event], none_after(0, Filter(types=("A",)))),
                Append([event], none_after(0, Filter(stream_prefix="s"))),
                Append([event, event], Expectation(position=1, versions={"s": 1})),
                Append([event], none_after(2, Filter(stream="s"))),
                Append([event], none_after(3, Filter(stream="s"))),
                Append([event], Expectation(position=4, versions={"s": 4})),
            ]
        )
        assert [type(answer) for answer in answers] == [
            Appended,
            PositionConflict,
            VersionConflict,
            MatchConflict,
            MatchConflict,
            Appended,
            MatchConflict,
            Appended,
            Appended,
        ]
        conflicts = [it.current for it in answers if isinstance(it, Conflict)]
        assert conflicts == [1, 1, 1, 1, 3]
        assert [it.version for it in read_through(store)] == [1, 2, 3, 4, 5]

    def test_a_refused_neighbour_is_as_good_as_never_sent(self, store: TenantStore) -> None:
        event = new_event(stream="s")
        answers = store.commit(
            [
                Append([event, new_event(b"{")]),
                Append([event], Expectation(position=5)),
                Append([event], Expectation(position=0, versions={"s": 0})),
            ]
        )
        assert [isinstance(it, Appended) for it in answers] == [False, False, True]

    def test_a_condition_knows_the_positions_of_what_shares_its_commit(
        self, store: TenantStore
    ) -> None:
        store.append(numbered(2))
        filters = Filter(types=("None",)), Filter(types=("Mine",))
        mine = Append([new_event(type="Mine")] * 3)
        answers = store.commit(
            [
                mine,
                Append(numbered(1), none_after(4, *filters)),
                Append(numbered(1), none_after(5, *filters)),
                Append(numbered(1), none_after(2, *filters)),
            ]
        )
        assert answers[0] == Appended(3, 5)
        assert isinstance(answers[1], MatchConflict)
        assert answers[1].current == 5
        assert answers[2] == Appended(6, 6)
        assert isinstance(answers[3], MatchConflict)

    @pytest.mark.parametrize("expect", BAD_EXPECTATIONS.values(), ids=BAD_EXPECTATIONS)
    def test_a_bad_expectation_is_refused_and_harms_no_neighbour(
        self, place: Place, store: TenantStore, expect: Expectation
    ) -> None:
        store.append(numbered(1))
        with unchanged(place, ALICE, store):
            with pytest.raises((InvalidExpectation, InvalidFilter)):
                store.append(numbered(1), expect=expect)
        answers = store.commit(
            [Append(numbered(1)), Append(numbered(1), expect), Append(numbered(1))]
        )
        assert [answers[0], answers[2]] == [Appended(2, 2), Appended(3, 3)]
        assert isinstance(answers[1], InvalidInput)

    def test_trimming_changes_no_version_and_no_position(self, store: TenantStore) -> None:
        if not isinstance(store, SupportsTrim):
            pytest.skip("SupportsTrim is not among the powers of this engine")
        store.append(LOG)
        store.trim(len(LOG))
        expect = Expectation(position=len(LOG), versions={"s-1": 2, "none": 0})
        assert store.append(numbered(1), expect=expect).first_position == len(LOG) + 1

    def test_what_was_expected_holds_after_reopening(self, place: Place) -> None:
        with place.open() as engine:
            engine.open(ALICE).append(LOG)
        with place.open() as engine:
            store = engine.open(ALICE)
            with pytest.raises(MatchConflict):
                store.append(numbered(1), expect=none_after(4, Filter(stream_prefix="s-")))
            store.append(numbered(1), expect=Expectation(position=6, versions={"s-1": 2}))

    @pytest.mark.parametrize("engines", [1, 2], ids=["one engine", "two engines"])
    def test_of_racing_appends_that_expect_the_same_exactly_one_is_stored(
        self, place: Place, engines: int
    ) -> None:
        def append(store: TenantStore, events: list[NewEvent], expect: Expectation) -> bool:
            try:
                store.append(events, expect=expect)
            except Conflict:
                return False
            return True

        with self.open_stores(place, engines) as stores:
            for turn in range(6):
                expect = [
                    Expectation(position=2 * turn),
                    Expectation(versions={"s": turn}),
                    none_after(2 * turn, Filter(types=("A",))),
                ][turn % 3]
                events = [new_event(type="A", stream="s"), new_event()]
                won = race(
                    *(partial(append, stores[it % engines], events, expect) for it in range(4))
                )
                assert sorted(won) == [False, False, False, True]
                assert stores[-1].head() == 2 * turn + 2

    def test_threads_that_try_again_lose_no_change(self, store: TenantStore) -> None:
        def count_up() -> None:
            done = 0
            while done < 5:
                version = store.stream_version("counter")
                number = new_event(b"%d" % (version + 1), stream="counter")
                try:
                    store.append([number], expect=Expectation(versions={"counter": version}))
                except VersionConflict as refusal:
                    assert refusal.current is not None
                    assert refusal.current > version
                else:
                    done += 1

        race(*[count_up] * 4)
        assert [it.data for it in read_through(store)] == [b"%d" % it for it in range(1, 21)]
