"""Filters, backwards reads and pages come to the same as looking at every event."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebus import Event, Limits, NewEvent
from ebus.backends.sqlite import SqliteEngine, SqliteStore, index, search
from ebus.backends.sqlite.index import StoredIndex
from ebus.backends.sqlite.search import prefix_end
from ebus.core.errors import (
    InvalidExpectation,
    InvalidFilter,
    InvalidRange,
    MatchConflict,
    StoreClosed,
    StoreUnavailable,
)
from ebus.core.filter import Filter
from ebus.core.plan import plan_writes
from ebus.core.store import (
    Append,
    Checked,
    Expectation,
    NoneAfter,
    SaveCheckpoint,
    StreamInfo,
    Write,
)

TYPES = ("A", "B", "C", "Rare")
STREAMS = ("a", "ab", "a\U0010ffff", "a\U0010ffffb", "b", "ä", "\ud7ff", "\ue000")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteEngine(tmp_path) as engine:
        yield engine.open("alice")


def fill(store: SqliteStore, events: list[NewEvent]) -> None:
    for at in range(0, len(events), 700):
        store.append(events[at : at + 700])


def positions(
    store: SqliteStore, wanted: Filter | None, *, backwards: bool = False, limit: int | None = None
) -> list[int]:
    """What all pages hold, from the first to the last."""
    found: list[int] = []
    start, stop, pages = 1, None, 0
    while True:
        page = store.read(start, stop, limit=limit, filter=wanted, backwards=backwards)
        wire = store.read_wire(start, stop, limit=limit, filter=wanted, backwards=backwards)
        assert (wire.count, wire.next) == (len(page.events), page.next)
        assert wire.first_position == (page.events[0].position if page.events else 0)
        found += [event.position for event in page.events]
        pages += 1
        if page.next is None:
            return found
        if backwards:
            assert stop is None or page.next < stop
            stop = page.next
        else:
            assert page.next > start
            start = page.next


EVENTS = st.builds(
    lambda kind, stream, data: NewEvent.of(kind, data, stream=stream),
    st.sampled_from(TYPES),
    st.none() | st.sampled_from(STREAMS),
    st.integers(0, 10**9) | st.text(max_size=30),
)

STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(EVENTS, min_size=1, max_size=40)),
    st.tuples(st.just("plain"), st.integers(1, 40)),
    st.tuples(st.just("trim"), st.floats(0, 1)),
    st.tuples(st.just("other"), st.booleans()),
)

FILTERS = st.builds(
    lambda types, stream, prefix, versions: Filter(
        types=tuple(types),
        stream=stream,
        stream_prefix=prefix,
        from_version=versions[0] if stream is not None else None,
        to_version=versions[1] if stream is not None else None,
    ),
    st.lists(st.sampled_from([*TYPES, "None"]), max_size=3),
    st.none() | st.sampled_from([*STREAMS, "none"]),
    st.none() | st.sampled_from(["", "a", "a\U0010ffff", "\U0010ffff", "\ud7ff", "c"]),
    st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
)


@pytest.mark.parametrize("merged", [64, 2])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=12),
    filters=st.lists(FILTERS, min_size=1, max_size=6),
    limit=st.none() | st.integers(1, 7),
    after=st.floats(0, 1),
)
def test_it_comes_to_the_same_as_looking_at_every_event(
    merged: int,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[str, object]],
    filters: list[Filter],
    limit: int | None,
    after: float,
) -> None:
    """With segments of 8, blocks of 5 and pages of few looks, and two engines on one file."""
    for module in ("segments", "search", "store", "index"):
        monkeypatch.setattr(f"ebus.backends.sqlite.{module}.SEGMENT_EVENTS", 8)
    monkeypatch.setattr(search, "MAX_MERGED_STREAMS", merged)
    monkeypatch.setattr(search, "MAX_LOOKED_AT_EVENTS", 11)
    monkeypatch.setattr(search, "_FIRST_BATCH_ROWS", 2)
    monkeypatch.setattr(search, "_BATCH_ROWS", 3)
    monkeypatch.setattr(search, "_MAX_RUN", 2)
    limits = Limits(max_block_events=5)
    with (
        tempfile.TemporaryDirectory() as directory,
        SqliteEngine(directory, limits=limits) as one,
        SqliteEngine(directory, limits=limits) as other,
    ):
        store, another = one.open("alice"), other.open("alice")
        for step, what in steps:
            match step, what:
                case "append", list():
                    store.append(what)
                case "plain", int():
                    store.append([NewEvent.of(TYPES[what % 3], 1)] * what)
                case "trim", float():
                    store.trim(int(store.head() * what))
                case "other", _:
                    store, another = another, store
        events = store.read(1).events
        head = store.head()
        assert positions(store, None, backwards=True, limit=limit) == [
            event.position for event in reversed(events)
        ]
        for wanted in filters:
            matching = [e.position for e in events if wanted.matches(e, e.version)]
            assert positions(store, wanted, limit=limit) == matching
            assert positions(store, wanted, backwards=True, limit=limit) == matching[::-1]
        conditions = [
            Filter(types=it.types, stream=it.stream, stream_prefix=it.stream_prefix)
            for it in filters
        ]
        since = int(head * after)
        for together in [*([one] for one in conditions), conditions]:
            later = {
                e.position
                for e in events
                if e.position > since and any(it.matches(e, e.version) for it in together)
            }
            match = first_match(another, since, *together)
            assert (match in later) if later else match is None


def first_match(store: SqliteStore, after: int, *filters: Filter) -> int | None:
    """What refuses an append of which it is expected that nothing came after; None if nothing."""
    expect = Expectation(none_after=NoneAfter(after, filters))
    with store._writing() as connection:
        [result] = plan_writes(
            [Append([NewEvent.of("A", 1)], expect)],
            Checked([None], is_plain=False),
            head=store.head(),
            now="2024-01-01T00:00:00Z",
            index=StoredIndex(connection, store.head()),
            room=None,
        ).results
    return result.current if isinstance(result, MatchConflict) else None


def expecting(after: int, *filters: Filter) -> Expectation:
    return Expectation(none_after=NoneAfter(after, filters))


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(types=("B",)),
        Filter(types=("Rare", "B")),
        Filter(stream="s1"),
        Filter(stream="s1", stream_prefix="s"),
        Filter(stream_prefix="none"),
        Filter(stream="none", types=("A",)),
    ],
    ids=str,
)
def test_what_an_index_answers_may_be_as_far_back_as_it_likes(
    store: SqliteStore, wanted: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, [NewEvent.of("B", 1, stream="s1")])
    fill(store, [NewEvent.of("A", 1, stream=f"s{at % 9 + 2}") for at in range(1_300)])
    monkeypatch.setattr(index, "MAX_LOOKED_AT_EVENTS", 0)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_BYTES", 0)
    store.append([NewEvent.of("C", 1)], expect=expecting(1, *[wanted] * 50))


ONE_BY_ONE = {
    "a prefix": Filter(stream_prefix="t"),
    "a stream and types": Filter(stream="s1", types=("B",)),
    "a prefix and types": Filter(stream_prefix="s", types=("B",)),
    "a prefix of many streams and types": Filter(stream_prefix="", types=("B",)),
}


def fill_for_one_by_one(store: SqliteStore) -> int:
    """The position after which none of them matches, more than a segment before the head."""
    fill(store, [NewEvent.of("A", 1, stream=f"t{at}") for at in range(99)])
    fill(store, [NewEvent.of("B", 1, stream="s1")])
    fill(store, [NewEvent.of("A", 1, stream=f"s{at % 3}") for at in range(300)])
    fill(store, [NewEvent.of("C", 1)] * 300)
    return 100


@pytest.mark.parametrize("bound", ["MAX_LOOKED_AT_EVENTS", "MAX_LOOKED_AT_BYTES"])
@pytest.mark.parametrize("wanted", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_a_condition_that_would_look_at_too_much_is_refused(
    store: SqliteStore, wanted: Filter, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bound == "MAX_LOOKED_AT_BYTES" and not wanted.types:
        pytest.skip("it looks at no events")
    after = fill_for_one_by_one(store)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_EVENTS", 1_000)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_BYTES", 100_000)  # more than there are
    store.append([NewEvent.of("D", 1)], expect=expecting(after, wanted))
    head = store.head()
    monkeypatch.setattr(index, bound, 50)
    with pytest.raises(InvalidExpectation, match="too far back"):
        store.append([NewEvent.of("D", 1)], expect=expecting(after, wanted))
    assert store.head() == head
    store.append([NewEvent.of("D", 1)], expect=expecting(head, wanted))


def test_a_prefix_of_too_many_streams_is_looked_for_in_the_events(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, [NewEvent.of("A", 1, stream=f"t{at}") for at in range(900)])
    fill(store, [NewEvent.of("C", 1)] * 600)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_EVENTS", 700)
    store.append([NewEvent.of("D", 1)], expect=expecting(900, Filter(stream_prefix="t")))
    with pytest.raises(MatchConflict):
        store.append([NewEvent.of("D", 1)], expect=expecting(899, Filter(stream_prefix="t")))
    wanted = [Filter(stream_prefix="t"), Filter(stream_prefix="t8")]
    with pytest.raises(InvalidExpectation, match="too far back"):
        store.append([NewEvent.of("D", 1)], expect=expecting(900, *wanted))


@pytest.mark.parametrize("wanted", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_the_filters_of_a_condition_look_at_so_much_together(
    store: SqliteStore, wanted: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = fill_for_one_by_one(store)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_EVENTS", 1_000)
    store.append([NewEvent.of("D", 1)], expect=expecting(after, wanted))
    with pytest.raises(InvalidExpectation, match="too far back"):
        store.append([NewEvent.of("D", 1)], expect=expecting(after, *[wanted] * 11))


@pytest.mark.parametrize("after", [1, 200])
def test_filters_of_types_look_at_a_segment_together(
    store: SqliteStore, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, [NewEvent.of("A", 1)] * 700)
    looks = 0

    def decode(events: bytes) -> list[search.Seen]:
        nonlocal looks
        seen = search.decode_seen(events)
        looks += len(seen)
        return seen

    monkeypatch.setattr(index, "decode_seen", decode)
    filters = [Filter(types=(f"None{at}",)) for at in range(99)]
    store.append([NewEvent.of("B", 1)], expect=expecting(after, *filters))
    assert looks <= 512
    with pytest.raises(MatchConflict) as caught:
        store.append([NewEvent.of("B", 1)], expect=expecting(after, *filters, Filter()))
    assert caught.value.current == 701


@pytest.mark.parametrize("wanted", ONE_BY_ONE.values(), ids=ONE_BY_ONE)
def test_a_condition_on_what_came_lately_is_never_refused(
    store: SqliteStore, wanted: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_for_one_by_one(store)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_EVENTS", 0)
    monkeypatch.setattr(index, "MAX_LOOKED_AT_BYTES", 0)
    late = store.head() - 512
    store.append([NewEvent.of("D", 1)], expect=expecting(late, *[wanted] * 5))


def test_of_a_prefix_with_too_many_streams_a_match_is_still_told(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, [NewEvent.of("A", 1, stream=f"s{at:03}") for at in range(700)])
    monkeypatch.setattr(index, "MAX_LOOKED_AT_EVENTS", 10)
    with pytest.raises(MatchConflict) as caught:
        store.append([NewEvent.of("A", 1)], expect=expecting(5, Filter(stream_prefix="s")))
    assert caught.value.current == 11


def test_a_condition_refuses_what_came_meanwhile(store: SqliteStore) -> None:
    fill(store, [NewEvent.of("A", 1)] * 1_300)
    expect = Expectation(none_after=NoneAfter(3, (Filter(types=("B",)),)))
    store.append([NewEvent.of("B", 1)], expect=expect)
    with pytest.raises(MatchConflict) as caught:
        store.append([NewEvent.of("B", 1)], expect=expect)
    assert caught.value.current == 1_301
    assert store.head() == 1_301


@pytest.mark.parametrize("sizes", [[1] * 520, [511, 1, 1], [512, 1], [513], [1_000, 1_000, 30]])
def test_types_are_found_on_both_sides_of_a_segments_end(
    store: SqliteStore, sizes: list[int]
) -> None:
    total = 0
    for size in sizes:
        store.append([NewEvent.of(f"At{total + at + 1}", 1) for at in range(size)])
        total += size
    for position in {1, 2, 510, 511, 512, 513, 1_024, 1_025, 1_536, total} & set(range(total + 1)):
        for backwards in (False, True):
            wanted = Filter(types=(f"At{position}",))
            assert positions(store, wanted, backwards=backwards) == [position]
    rows = store._writer.execute("SELECT count(*) FROM type_segments").get
    assert rows == total // 512 * 512


def test_types_of_what_another_process_wrote_are_found(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from ebus import NewEvent\n"
        "from ebus.backends.sqlite import SqliteEngine\n"
        "with SqliteEngine(sys.argv[1]) as engine:\n"
        "    engine.open('alice').append([NewEvent.of('Theirs', 1, stream='s')] * 300)\n"
    )
    with SqliteEngine(tmp_path) as engine:
        store = engine.open("alice")
        for _ in range(2):
            store.append([NewEvent.of("Ours", 1, stream="s")])
            subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        store.append([NewEvent.of("Ours", 1, stream="s")] * 600)
        theirs = [*range(2, 302), *range(303, 603)]
        assert positions(store, Filter(types=("Theirs",))) == theirs
        ours = [1, 302, *range(603, 1_203)]
        assert positions(store, Filter(types=("Ours",)), limit=77) == ours
        assert store.stream_version("s") == 1_202
        assert positions(store, Filter(stream="s", from_version=1_200)) == [1_200, 1_201, 1_202]


def test_types_are_found_after_a_commit_that_was_rolled_back(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([NewEvent.of("A", 1)] * 512)
    with monkeypatch.context() as patch:
        patch.setattr("ebus.backends.sqlite.store.store_names", fail)
        with pytest.raises(StoreUnavailable):
            store.append([NewEvent.of("Lost", 1)] * 300)
    assert store.head() == 512
    for kind, count in (("B", 500), ("C", 12)):
        store.append([NewEvent.of(kind, 1)] * count)
    assert positions(store, Filter(types=("B",))) == list(range(513, 1_013))
    assert positions(store, Filter(types=("C",))) == list(range(1_013, 1_025))
    execute = store._writer.execute
    assert execute("SELECT type FROM type_segments WHERE segment = 1").fetchall() == [
        ("B",),
        ("C",),
    ]


def fail(*values: object) -> None:
    raise apsw.IOError("the disk")


def test_a_page_that_looked_at_much_is_cut_short(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([NewEvent.of("A", 1, stream=f"s{at}") for at in range(500)])
    monkeypatch.setattr(search, "MAX_LOOKED_AT_EVENTS", 100)
    wanted = Filter(stream_prefix="s", types=("B",))
    page = store.read(1, filter=wanted)
    assert (page.events, page.next) == ([], 101)
    page = store.read(1, filter=wanted, backwards=True)
    assert (page.events, page.next) == ([], 400)
    monkeypatch.setattr(search, "MAX_LOOKED_AT_EVENTS", 10**9)
    monkeypatch.setattr(search, "MAX_LOOKED_AT_BYTES", 1)
    assert store.read(1, filter=wanted).next == 129
    assert store.read(1, filter=wanted, backwards=True).next == 384
    assert positions(store, wanted) == []


def test_pages_backwards_end_at_their_bounds(store: SqliteStore) -> None:
    store.append([NewEvent.of("A", "x" * 100)] * 300)
    page = store.read_wire(10, 200, limit=5, backwards=True)
    assert (page.count, page.first_position, page.next) == (5, 200, 195)
    assert len(page.chunks) == 5
    size = len(page.chunks[0])
    page = store.read_wire(10, 200, max_bytes=size + 1, backwards=True)
    assert (page.count, page.next) == (2, 198)
    page = store.read_wire(199, 200, limit=2, backwards=True)
    assert (page.count, page.next) == (2, None)
    assert store.read(300, 200, backwards=True).events == []
    assert store.read(301, backwards=True).events == []
    assert len(store.read(1, 2**63 - 1, backwards=True).events) == 300


@pytest.mark.parametrize("stream", [None, "s"], ids=["plain", "named"])
def test_times_are_half_open(
    store: SqliteStore, stream: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0
    monkeypatch.setattr(time, "time_ns", lambda: seconds * 1_000_000_000)
    for seconds in (10, 20, 15, 30, 30):  # noqa: B007 - the clock
        store.append([NewEvent.of("A", 1, "2024-01-01T00:00:00Z", stream=stream)] * 2)

    def found(since: int | None, until: int | None) -> list[int]:
        wanted = Filter(
            since=None if since is None else f"1970-01-01T00:00:{since:02}Z",
            until=None if until is None else f"1970-01-01T00:00:{until:02}Z",
        )
        both = [positions(store, wanted), positions(store, wanted, backwards=True)[::-1]]
        assert both[0] == both[1]
        return both[0]

    assert found(None, 10) == []
    assert found(10, 20) == [1, 2]
    assert found(11, 20) == []
    assert found(20, 21) == [3, 4, 5, 6]  # the clock went back: it was recorded no earlier
    assert found(30, None) == [7, 8, 9, 10]
    assert found(31, None) == []
    assert found(20, 20) == found(21, 20) == []
    far = Filter(since="0001-01-01T00:00:00Z", until="9999-12-31T23:59:59Z")
    assert positions(store, far) == list(range(1, 11))
    store.trim(5)
    assert found(20, 21) == [6]
    assert found(None, 31) == [6, 7, 8, 9, 10]


def test_filters_that_are_none_are_refused(store: SqliteStore) -> None:
    with pytest.raises(InvalidFilter):
        store.read(1, filter=Filter(from_version=1))
    with pytest.raises(InvalidRange):
        store.streams(limit=0)


def test_streams_are_listed_in_the_order_of_code_points(store: SqliteStore) -> None:
    store.append([NewEvent.of("A", 1, stream=stream) for stream in STREAMS])
    ordered = sorted(STREAMS)
    assert [it.stream for it in store.streams()] == ordered
    for prefix in ("", "a", "a\U0010ffff", "\U0010ffff", "\ud7ff", "\ud800"):
        wanted = [name for name in ordered if name.startswith(prefix)]
        assert [it.stream for it in store.streams(prefix)] == wanted
        assert [it.stream for it in store.streams(prefix, limit=2)] == wanted[:2]
    for after in ("", "a", "a\U0010ffff", "\ud7ff", "\ud800", "\udfff", "zz", "\U0010ffff"):
        wanted = [name for name in ordered if name > after]
        assert [it.stream for it in store.streams(after=after)] == wanted


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", b""),
        ("a", "b"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", b""),
        ("x\ud7ff", "x\ue000"),
    ],
)
def test_the_end_of_a_prefix(prefix: str, end: str | bytes) -> None:
    assert prefix_end(prefix) == end


def steps_of(connection: apsw.Connection, do: Callable[[], object]) -> int:
    """How many steps SQLite takes for this."""
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    connection.set_progress_handler(step, 1)
    try:
        do()
    finally:
        connection.set_progress_handler(None)
    return steps


def test_streams_are_found_without_a_look_at_other_streams(store: SqliteStore) -> None:
    names = ["aaa", *(f"s{at:04}" for at in range(3_000)), "zzz"]
    fill(store, [NewEvent.of("A", 1, stream=name) for name in names])
    with store._reading() as reader:
        connection = reader._connection

        def read(prefix: str) -> int:
            return reader.read_wire(1, filter=Filter(stream_prefix=prefix)).count

        assert read("aaa") == read("zzz") == 1
        for do in (
            lambda: reader.streams("aaa", "", 10),
            lambda: reader.streams("zzz", "", 10),
            lambda: reader.streams("s", "s2990", 10),
            lambda: reader.streams("", "s2990", 10),
            lambda: read("aaa"),
            lambda: read("zzz"),
        ):
            assert steps_of(connection, do) < 1_000
    for prefix in ("aaa", "zzz"):
        look = partial(first_match, store, 1, Filter(stream_prefix=prefix))
        assert steps_of(store._writer, look) < 1_000


def test_a_trim_forgets_names_but_not_versions(store: SqliteStore) -> None:
    fill(store, [NewEvent.of("A", at, id=f"i{at}", stream=f"s{at % 3}") for at in range(1_200)])
    store.trim(1_100)
    execute = store._writer.execute
    assert execute("SELECT min(position), count(*) FROM ids").get == (1_101, 100)
    assert execute("SELECT min(position), count(*) FROM stream_events").get == (1_101, 100)
    assert execute("SELECT count(*) FROM type_segments").get == 0
    assert store.stream_version("s0") == 400
    store.trim(1_200)
    assert store.streams() == [StreamInfo(f"s{it}", 400) for it in range(3)]
    assert positions(store, Filter(stream="s0")) == []
    appended = store.append([NewEvent.of("A", 2, id="i1", stream="s0")])
    assert appended.events[0].version == 401


def test_what_is_refused_leaves_no_trace(store: SqliteStore) -> None:
    writes: list[Write] = [
        Append([NewEvent.of("A", 1, id="a", stream="s")]),
        Append([NewEvent.of("B", 1, id="b", stream="t")], Expectation(versions={"s": 7})),
        SaveCheckpoint("c", 5, expected=4),
        Append([NewEvent.of("A", 1, id="a", stream="s")]),
    ]
    results = store.commit(writes)
    assert [type(it).__name__ for it in results] == [
        "Appended",
        "VersionConflict",
        "CheckpointConflict",
        "Appended",
    ]
    assert (store.head(), store.checkpoints()) == (1, {})
    assert store.streams() == [StreamInfo("s", 1)]


def test_who_waits_is_told_of_commits_and_of_the_end(tmp_path: Path) -> None:
    with SqliteEngine(tmp_path) as engine, SqliteEngine(tmp_path) as other:
        store = engine.open("alice")
        for appends in (store, other.open("alice")):
            head = store.head()
            timer = threading.Timer(0.1, appends.append, [[NewEvent.of("A", 1)]])
            timer.start()
            begun = time.monotonic()
            assert store.wait(head + 1, 10.0) == head + 1
            assert time.monotonic() - begun < 5.0
            timer.join()
        assert store.wait(99, 0.05) == 2
        assert store.wait(1, 10.0) == 2
        timer = threading.Timer(0.1, store.close)
        timer.start()
        with pytest.raises(StoreClosed):
            store.wait(99, 10.0)
        timer.join()


def test_reading_backwards_ends_the_read_transaction(store: SqliteStore) -> None:
    store.append([NewEvent.of("A", 1, stream="s")] * 1_000)
    for wanted in (None, Filter(types=("A",)), Filter(stream="s"), Filter(stream_prefix="")):
        store.read(1, limit=1, filter=wanted, backwards=True)
        store.read(1, limit=1, filter=wanted)
    [reader] = store._idle_readers
    assert not reader._connection.in_transaction
    assert reader._connection.txn_state() == 0


def test_pages_follow_upon_each_other(store: SqliteStore) -> None:
    fill(store, [NewEvent.of(TYPES[at % 4], at, stream=f"s{at % 70}") for at in range(2_000)])
    events: list[Event] = store.read(1).events
    for wanted in (Filter(stream_prefix="s"), Filter(stream_prefix="s1"), Filter(types=("A", "B"))):
        found = positions(store, wanted, limit=33)
        assert found == [it.position for it in events if wanted.matches(it, it.version)]
        assert all(before < after for before, after in pairwise(found))
