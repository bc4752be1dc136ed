"""Refusals: what is refused is refused whole, and harms nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from ebus.core.engine import Engine
from ebus.core.errors import (
    EventTooLarge,
    InvalidBatch,
    InvalidEvent,
    InvalidRange,
    InvalidTenantName,
)
from ebus.core.limits import MAX_POSITION, Limits
from ebus.core.store import Append, Appended, SupportsTrim, TenantStore
from ebus.testing.bad_events import BAD_EVENTS, NOT_EVENTS, BadEvent
from ebus.testing.events import event_of_bytes, new_event, numbered
from ebus.testing.observation import parsed, read_through, stored, unchanged
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite

bad_events = pytest.mark.parametrize("bad", BAD_EVENTS, ids=[bad.why for bad in BAD_EVENTS])

BAD_TENANT_NAMES: dict[str, Any] = {
    "empty": "",
    "101 characters": "a" * 101,
    "a parent": "../x",
    "a slash": "a/b",
    "a backslash": "a\\b",
    "absolute": "/a",
    "a point": ".",
    "two points": "..",
    "a point inside": "a.b",
    "hidden": ".a",
    "a newline at the end": "a\n",
    "a newline inside": "a\nb",
    "a space": "a b",
    "a space at the end": "a ",
    "NUL": "a\x00",
    "NUL inside": "a\x00b",
    "beyond ASCII": "größe",
    "fullwidth": "\uff41",
    "Arabic digits": "١٢",
    "an emoji": "😀",
    "a lone surrogate": "\ud800",
    "a percent escape": "a%2Fb",
    "a colon": "a:b",
    "a question mark": "a?mode=memory",
    "a tilde": "~a",
    "None": None,
    "a number": 7,
    "bytes": b"a",
}


class Refusal(Suite):
    @bad_events
    def test_a_bad_event_is_refused_with_its_whole_batch_and_leaves_no_trace(
        self, place: Place, store: TenantStore, bad: BadEvent
    ) -> None:
        store.append(numbered(2))
        with unchanged(place, ALICE, store):
            for index, batch in [(0, [bad.event]), (2, [*numbered(2), bad.event, *numbered(2)])]:
                with pytest.raises(InvalidEvent) as refusal:
                    store.append(batch)
                assert (refusal.value.index, refusal.value.field) == (index, bad.field)
        assert store.append(numbered(1)) == Appended(3, 3)

    @bad_events
    def test_a_bad_event_harms_no_neighbour_in_a_commit(
        self, place: Place, store: TenantStore, bad: BadEvent
    ) -> None:
        good = numbered(5)
        answer = store.commit(
            [Append(good[:2]), Append([*numbered(1), bad.event]), Append(good[2:])]
        )
        assert [answer[0], answer[2]] == [Appended(1, 2), Appended(3, 5)]
        refusal = answer[1]
        assert isinstance(refusal, InvalidEvent)
        assert (refusal.index, refusal.field) == (1, bad.field)
        assert read_through(store) == stored(good)
        assert parsed(place.peek(ALICE).events) == stored(good)

    @pytest.mark.parametrize("thing", NOT_EVENTS.values(), ids=NOT_EVENTS)
    def test_what_is_no_event_is_refused(
        self, place: Place, store: TenantStore, thing: Any
    ) -> None:
        store.append(numbered(2))
        with unchanged(place, ALICE, store), pytest.raises(InvalidEvent) as refusal:
            store.append([*numbered(1), thing])
        assert refusal.value.index == 1

    def test_what_is_no_batch_harms_no_neighbour(self, store: TenantStore) -> None:
        nothing: Any = None
        answer = store.commit([Append(numbered(1)), Append(nothing), Append(numbered(1))])
        assert [type(result) for result in answer] == [Appended, InvalidBatch, Appended]

    def test_an_empty_batch_is_refused(self, place: Place, store: TenantStore) -> None:
        store.append(numbered(2))
        with unchanged(place, ALICE, store), pytest.raises(InvalidBatch):
            store.append([])
        assert store.append(numbered(1)) == Appended(3, 3)

    @pytest.mark.parametrize("most", [1, 3, 1_000])
    def test_a_batch_of_one_event_too_many_is_refused_whole(self, place: Place, most: int) -> None:
        with place.open(limits=Limits(max_batch_events=most)) as engine:
            store = engine.open(ALICE)
            store.append(numbered(most))
            with unchanged(place, ALICE, store), pytest.raises(InvalidBatch):
                store.append(numbered(most + 1))
            assert store.append(numbered(1)) == Appended(most + 1, most + 1)

    @pytest.mark.parametrize("most", [200, Limits().max_event_bytes])
    def test_an_event_of_one_byte_too_many_is_refused(self, place: Place, most: int) -> None:
        with place.open(limits=Limits(max_event_bytes=most)) as engine:
            store = engine.open(ALICE)
            store.append([event_of_bytes(most)])
            too_large = event_of_bytes(most + 1)
            with unchanged(place, ALICE, store), pytest.raises(EventTooLarge) as refusal:
                store.append([*numbered(2), too_large])
            assert refusal.value.index == 2
            first, second = store.commit([Append([too_large]), Append(numbered(1))])
            assert isinstance(first, EventTooLarge)
            assert second == Appended(2, 2)

    @pytest.mark.parametrize("most", [40, Limits().max_metadata_bytes])
    def test_metadata_of_one_byte_too_many_is_refused(self, place: Place, most: int) -> None:
        filling = "x" * (most - len('{"größe":""}'.encode()))
        with place.open(limits=Limits(max_metadata_bytes=most)) as engine:
            store = engine.open(ALICE)
            full, too_much = {"größe": filling}, {"größe": filling + "x"}
            store.append([new_event(metadata=full)])
            store.append([new_event(metadata=Raw(msgspec.json.encode(full)))])
            for metadata in (too_much, Raw(msgspec.json.encode(too_much))):
                too_large = new_event(metadata=metadata)
                with unchanged(place, ALICE, store), pytest.raises(EventTooLarge) as refusal:
                    store.append([*numbered(2), too_large])
                assert refusal.value.index == 2
                head = store.head()
                first, second = store.commit([Append([too_large]), Append(numbered(1))])
                assert isinstance(first, EventTooLarge)
                assert second == Appended(head + 1, head + 1)

    def test_data_that_nests_deeper_than_the_limit_is_refused(self, place: Place) -> None:
        with place.open(limits=Limits(max_json_depth=3)) as engine:
            store = engine.open(ALICE)
            store.append([new_event(b"[[[1],[2]]]")])
            with unchanged(place, ALICE, store), pytest.raises(InvalidEvent):
                store.append([new_event(b'[[{"a":[1]}]]')])

    @pytest.mark.parametrize("name", BAD_TENANT_NAMES.values(), ids=BAD_TENANT_NAMES)
    def test_a_bad_tenant_name_is_refused(self, engine: Engine, tmp_path: Path, name: Any) -> None:
        engine.open("a").append(numbered(1))
        before = sorted(tmp_path.rglob("*"))
        for refused in (engine.open, engine.drop):
            with pytest.raises(InvalidTenantName):
                refused(name)
        assert engine.tenants() == ["a"]
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_length_of_a_tenant_name_can_be_limited(self, place: Place) -> None:
        with place.open(limits=Limits(max_tenant_name_chars=5)) as engine:
            engine.open("abcde")
            with pytest.raises(InvalidTenantName):
                engine.open("abcdef")
            assert engine.tenants() == ["abcde"]

    @pytest.mark.parametrize("through", [-1, 4, MAX_POSITION, MAX_POSITION + 1])
    def test_trimming_beyond_the_log_is_refused(
        self, place: Place, store: TenantStore, through: int
    ) -> None:
        if not isinstance(store, SupportsTrim):
            pytest.skip("SupportsTrim is not among the powers of this engine")
        store.append(numbered(3))
        with unchanged(place, ALICE, store), pytest.raises(InvalidRange):
            store.trim(through)
