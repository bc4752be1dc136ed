"""Streams: versions that count within each, and which streams there are."""

from __future__ import annotations

from functools import partial

import pytest

from ebus.core.engine import Engine
from ebus.core.errors import IdConflict, InvalidEvent, InvalidRange
from ebus.core.event import NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, Placed, StreamInfo, SupportsTrim, TenantStore
from ebus.testing.events import HARD_TYPES, TIMESTAMP, new_event, numbered
from ebus.testing.observation import check_filtered, event_sizes, parsed, read_through, stored
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import ALICE, Suite


def of(*streams: str | None) -> list[NewEvent]:
    """An event of each stream, with its place among them."""
    return [new_event(b"%d" % number, stream=it) for number, it in enumerate(streams)]


def versions(appended: Appended) -> list[int | None]:
    return [placed.version for placed in appended.events]


MIXED = of("a", None, "b", "a", "a", None, "b", "a")
NAMES = ["b", "a", "Z", "é", "😀", "\uff5e", "10", "9", "aa", "a%", "a_b", "a/1", "a/10", "a/2"]


class Streams(Suite):
    def test_versions_count_from_1_in_each_stream(self, place: Place, store: TenantStore) -> None:
        assert versions(store.append(of("a", None, "b", "a"))) == [1, None, 1, 2]
        assert store.append(of("b")).events == (Placed(5, 2, TIMESTAMP, is_duplicate=False),)
        assert store.append(of(None)) == Appended(6, 6)
        first, second = store.commit([Append(of("a", "c")), Append(of("c", "a"))])
        assert isinstance(first, Appended)
        assert isinstance(second, Appended)
        assert [versions(first), versions(second)] == [[3, 1], [2, 4]]
        assert [store.stream_version(it) for it in ("a", "b", "c", "d")] == [4, 2, 2, 0]
        expected = [(it.stream, it.version) for it in read_through(store)]
        assert expected == [
            ("a", 1),
            (None, None),
            ("b", 1),
            ("a", 2),
            ("b", 2),
            (None, None),
            ("a", 3),
            ("c", 1),
            ("c", 2),
            ("a", 4),
        ]
        assert parsed(place.peek(ALICE).events) == read_through(store)

    def test_what_is_refused_or_was_there_before_takes_no_version(self, store: TenantStore) -> None:
        event = new_event(id="x", stream="s")
        store.append([event])
        with pytest.raises(InvalidEvent):
            store.append([*of("s", "t"), new_event(b"{", stream="s")])
        with pytest.raises(IdConflict):
            store.append([*of("s", "t"), new_event(b"1", id="x", stream="s")])
        assert store.append([event]).duplicates == 1
        assert versions(store.append([*of("s"), event, *of("s", "t")])) == [2, 1, 3, 1]

    def test_streams_differ_by_every_character(self, store: TenantStore) -> None:
        names = ["a", "A", "a ", "á", "a\u0301", "aa", *HARD_TYPES.values()]
        assert versions(store.append(of(*names))) == [1] * len(names)
        assert versions(store.append(of(*names))) == [2] * len(names)
        for name in names:
            page = store.read(1, filter=Filter(stream=name))
            assert [(it.stream, it.version) for it in page.events] == [(name, 1), (name, 2)]
        assert store.streams() == [StreamInfo(name, 2) for name in sorted(names)]

    @pytest.mark.parametrize(
        "limits",
        [Limits(), Limits(max_block_events=2, max_block_bytes=100)],
        ids=["default blocks", "small blocks"],
    )
    @pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
    def test_a_stream_is_read_by_version(
        self, place: Place, limits: Limits, backwards: bool
    ) -> None:
        with place.open(limits=limits) as engine:
            store = engine.open(ALICE)
            for first in range(0, len(MIXED), 3):
                store.append(MIXED[first : first + 3])
            sizes = event_sizes(place.peek(ALICE))
            for stream in ("a", "b", "c"):
                for least in (None, 1, 2, 4, 5):
                    for most in (None, 1, 3, 4, 9):
                        wanted = Filter(stream=stream, from_version=least, to_version=most)
                        for limit in (None, 1, 2):
                            check_filtered(
                                store,
                                stored(MIXED),
                                sizes,
                                wanted,
                                limit=limit,
                                backwards=backwards,
                            )

    def test_the_last_events_of_a_stream_come_first_backwards(self, store: TenantStore) -> None:
        store.append(MIXED)
        page = store.read(0, filter=Filter(stream="a"), limit=2, backwards=True)
        assert [(it.position, it.version) for it in page.events] == [(8, 4), (5, 3)]

    def test_streams_are_listed_in_the_order_of_their_names(self, store: TenantStore) -> None:
        assert store.streams() == []
        store.append([*of(*NAMES), *of("a"), *numbered(1)])
        everything = [StreamInfo(name, 1 + (name == "a")) for name in sorted(NAMES)]
        assert store.streams() == everything
        for limit in (1, 2, 5, len(NAMES), len(NAMES) + 1):
            listed: list[StreamInfo] = []
            while page := store.streams(after=listed[-1].stream if listed else "", limit=limit):
                assert len(page) <= limit
                listed += page
            assert listed == everything

    @pytest.mark.parametrize(
        "prefix", ["a", "a/", "a/1", "a%", "a_", "é", "😀", "\uff5e", "x", "A"]
    )
    def test_streams_are_listed_by_the_beginning_of_their_names(
        self, store: TenantStore, prefix: str
    ) -> None:
        store.append(of(*NAMES))
        expected = [name for name in sorted(NAMES) if name.startswith(prefix)]
        assert [info.stream for info in store.streams(prefix)] == expected
        assert [info.stream for info in store.streams(prefix, limit=2)] == expected[:2]
        for after in ["a", "a/", "a/1", "é", "zzz"]:
            behind = [name for name in expected if name > after]
            assert [info.stream for info in store.streams(prefix, after=after)] == behind

    def test_the_last_characters_of_all_are_no_end_of_a_prefix(self, store: TenantStore) -> None:
        names = ["\U0010ffff", "\U0010ffff\U0010ffff", "\uffff", "\uffffz", "\ud7ff", "\ue000"]
        store.append(of(*names))
        for prefix in ("\U0010ffff", "\uffff", "\ud7ff"):
            expected = sorted(name for name in names if name.startswith(prefix))
            assert [info.stream for info in store.streams(prefix)] == expected
            page = store.read(1, filter=Filter(stream_prefix=prefix))
            assert sorted(it.stream or "" for it in page.events) == expected

    @pytest.mark.parametrize("limit", [0, -1, Limits().max_read_events + 1])
    def test_a_limit_that_is_none_is_refused(self, store: TenantStore, limit: int) -> None:
        with pytest.raises(InvalidRange):
            store.streams(limit=limit)

    def test_versions_go_on_after_trimming(self, place: Place) -> None:
        with place.open(limits=Limits(max_block_events=2)) as engine:
            store = engine.open(ALICE)
            if not isinstance(store, SupportsTrim):
                pytest.skip("SupportsTrim is not among the powers of this engine")
            store.append(MIXED)
            store.trim(3)
            sizes = event_sizes(place.peek(ALICE))
            for stream in ("a", "b"):
                check_filtered(store, stored(MIXED)[3:], sizes, Filter(stream=stream))
            store.trim(len(MIXED))
            assert store.read(1, filter=Filter(stream="a")).events == []
            assert store.streams() == [StreamInfo("a", 4), StreamInfo("b", 2)]
        with place.open() as engine:
            store = engine.open(ALICE)
            assert store.stream_version("a") == 4
            assert versions(store.append(of("a", "b", "c"))) == [5, 3, 1]

    def test_versions_go_on_after_reopening(self, place: Place) -> None:
        for number in range(3):
            with place.open() as engine:
                store = engine.open(ALICE)
                assert store.stream_version("a") == 2 * number
                assert versions(store.append(of("a", "a"))) == [2 * number + 1, 2 * number + 2]

    def test_a_dropped_tenant_has_no_streams(self, engine: Engine) -> None:
        engine.open(ALICE).append(of("a"))
        engine.drop(ALICE)
        store = engine.open(ALICE)
        assert (store.streams(), store.stream_version("a")) == ([], 0)
        assert versions(store.append(of("a"))) == [1]

    def test_streams_are_one_tenants_own(self, engine: Engine, store: TenantStore) -> None:
        store.append(of("a", "a"))
        other = engine.open(f"{ALICE}-2")
        assert (other.streams(), other.stream_version("a")) == ([], 0)
        assert versions(other.append(of("a"))) == [1]

    @pytest.mark.parametrize("engines", [1, 2], ids=["one engine", "two engines"])
    def test_racing_threads_give_each_version_once_and_in_order(
        self, place: Place, engines: int
    ) -> None:
        def write(store: TenantStore) -> None:
            for _ in range(4):
                store.append(of("a", "b", "a"))
                store.commit([Append(of("b")), Append(of(None, "a"))])

        with self.open_stores(place, engines) as stores:
            race(*(partial(write, stores[number % engines]) for number in range(4)))
            for store in stores:
                events = read_through(store)
                for stream, count in (("a", 48), ("b", 32)):
                    given = [it.version for it in events if it.stream == stream]
                    assert given == list(range(1, count + 1))
                    assert store.stream_version(stream) == count
