"""What cannot be moved as it is: refused with its line, and gone on with once it is mended."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, cast

import pytest

from ebus.backends.memory import MemoryEngine
from ebus.core.errors import InvalidRange, StoreFull, StoreUnavailable
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.store import Appended, Expectation, TenantStore
from ebus.moving import (
    BrokenFile,
    BrokenLine,
    CannotKeep,
    Input,
    MoveRefused,
    StreamOutput,
    TargetChanged,
    TargetDiffers,
    copy_log,
    export_log,
    import_log,
    placing,
    reading,
)
from ebus.testing.events import new_event
from tests.moving.logs import exported, fill, memory_store, named, wires

EVENTS = 30
BATCH = 10


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of few events is read in several parts."""
    monkeypatch.setattr(reading, "PAGE_BYTES", 1_000)
    monkeypatch.setattr(placing, "FIRST_PAUSE_S", 0.001)


def lines_of(count: int = EVENTS) -> list[bytes]:
    source = memory_store()
    fill(source, named(count))
    return exported(source).splitlines(keepends=True)


def take(lines: Sequence[bytes], store: TenantStore) -> None:
    import_log(Input(BytesIO(b"".join(lines))), store)


def without(lines: list[bytes], *numbers: int) -> list[bytes]:
    return [line for number, line in enumerate(lines, 1) if number not in numbers]


def put(lines: list[bytes], number: int, line: bytes) -> list[bytes]:
    return [*lines[: number - 1], line, *lines[number:]]


def changed(lines: list[bytes], number: int, old: bytes, new: bytes) -> list[bytes]:
    assert old in lines[number - 1]
    return put(lines, number, lines[number - 1].replace(old, new))


BROKEN: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int, str]] = {
    "a gap": (lambda it: without(it, 25), 25, "position 25 is missing before 26"),
    "a wide gap": (lambda it: without(it, 24, 25), 24, "positions 24 to 25 are missing"),
    "a duplicate": (
        lambda it: [*it[:25], it[24], *it[25:]],
        26,
        "position 25 comes again, where 26 is next",
    ),
    "half a line": (lambda it: put(it, 25, it[24][:30] + b"\n"), 25, "truncated"),
    "a cut off end": (lambda it: [*it[:24], it[24][:30]], 25, "truncated"),
    "no JSON": (lambda it: put(it, 25, b"position: 25\n"), 25, "malformed"),
    "an empty line": (lambda it: put(it, 25, b"\n"), 25, "it is empty"),
    "two events on a line": (
        lambda it: put(it, 25, it[24].strip() + it[24]),
        25,
        "trailing",
    ),
    "no position": (lambda it: changed(it, 25, b'"position":25,', b""), 25, "position"),
    "an unknown member": (lambda it: changed(it, 25, b'"stream"', b'"straem"'), 25, "straem"),
    "no UTF-8": (lambda it: changed(it, 25, b'"Tested"', b'"\xff"'), 25, "UTF-8"),
    "no UTF-8 in data": (lambda it: changed(it, 25, b'"number":', b'"\xff":'), 25, "UTF-8"),
    "a time that is none": (
        lambda it: changed(it, 25, b"2024-01-01", b"2024-02-31"),
        25,
        "timestamp: must be",
    ),
    "a version too many": (
        lambda it: changed(it, 25, b'"version":3', b'"version":4'),
        25,
        "version",
    ),
    "a stream without a version": (
        lambda it: changed(it, 25, b',"version":3', b""),
        25,
        "go together",
    ),
    "an id that was there": (
        lambda it: changed(it, 25, b'"id":"id-25"', b'"id":"id-3"'),
        25,
        "the event at position 3 has the same id",
    ),
    "an id twice": (
        lambda it: changed(it, 25, b'"id":"id-25"', b'"id":"id-27"'),
        27,
        "same id",
    ),
    "a gap that goes back": (
        lambda it: put(it, 25, b'{"gap":{"first_position":25,"last_position":24}}\n'),
        25,
        "ends before it begins",
    ),
    "another text than its data": (
        lambda it: changed(it, 25, b'"timestamp"', b'"data_text":"7\\n","timestamp"'),
        25,
        "say different things",
    ),
    "a text that is no data": (
        lambda it: put(
            it,
            25,
            b'{"position":25,"type":"T","data":"a b","timestamp":"2024-01-01T00:00:00Z",'
            b'"data_text":"\\"a\\nb\\""}\n',
        ),
        25,
        "malformed",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_is_named_and_its_batch_not_stored(kind: str) -> None:
    spoil, number, problem = BROKEN[kind]
    lines = lines_of()
    target = memory_store()
    with pytest.raises(BrokenLine, match=re.escape(problem)) as broken:
        take(spoil(lines), target)
    assert broken.value.line == number
    assert f"line {number}: " in str(broken.value)
    assert 0 < target.head() < 25
    assert wires(target) == [line.strip() for line in lines[: target.head()]]
    take(lines, target)  # it is mended
    assert wires(target) == [line.strip() for line in lines]


def test_an_empty_file_is_refused() -> None:
    for lines in ([], [b""]):
        with pytest.raises(BrokenFile, match="nothing in it"):
            take(lines, memory_store())


def test_a_file_with_other_ends_of_lines_is_taken() -> None:
    target = memory_store()
    take([line.strip() + b"\r\n" for line in lines_of()], target)
    assert wires(target) == [line.strip() for line in lines_of()]


def test_a_file_without_a_last_line_break_is_taken() -> None:
    target = memory_store()
    take([*lines_of(3)[:2], lines_of(3)[2].strip()], target)
    assert target.head() == 3


def test_a_line_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 5_000)
    with pytest.raises(BrokenLine, match="more than 5000 bytes"):
        take([*lines_of(3), b"x" * 9_000], memory_store())


def test_a_zstd_file_that_is_cut_off_says_so_and_resumes_once_it_is_whole() -> None:
    source, target = memory_store(), memory_store()
    fill(source, [new_event(b'"%d%s"' % (at, bytes(range(97, 122)) * 40)) for at in range(3_000)])
    whole = exported(source, is_zstd=True)
    with pytest.raises(BrokenFile, match="cut off"):
        import_log(Input(BytesIO(whole[:-5])), target)
    import_log(Input(BytesIO(whole)), target)
    assert wires(target) == wires(source)


def test_a_zstd_file_that_is_damaged_says_so() -> None:
    source = memory_store()
    fill(source, named(500))
    whole = bytearray(exported(source, is_zstd=True))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises((BrokenFile, BrokenLine)):
        import_log(Input(BytesIO(whole)), memory_store())
    with pytest.raises(BrokenFile, match="not zstd"):
        Input(BytesIO(b"{}"), name="a.zst")


def test_a_target_that_differs_is_refused_before_anything_is_stored() -> None:
    target = memory_store()
    fill(target, [*named(19), new_event(b'"another"')])
    before = wires(target)
    with pytest.raises(TargetDiffers, match=r"position 20 \(line 20\): it has another event"):
        take(lines_of(), target)
    source = memory_store()
    fill(source, named(EVENTS))
    with pytest.raises(TargetDiffers, match="position 20: it has another event"):
        copy_log(source, target)
    assert wires(target) == before


def test_a_target_that_lacks_what_comes_before_is_refused() -> None:
    source = memory_store()
    fill(source, named(EVENTS))
    with pytest.raises(TargetDiffers, match=r"at position 0, .* begins at 20"):
        copy_log(source, memory_store(), start=20)


def test_a_target_that_was_trimmed_differs() -> None:
    source, target = memory_store(), memory_store()
    fill(source, named(EVENTS))
    copy_log(source, target)
    target.trim(4)
    with pytest.raises(TargetDiffers, match="position 1: it has"):
        copy_log(source, target)
    assert copy_log(source, target, start=5).events == EVENTS - 4


class Meddled:
    """A store to which something happens with each append."""

    def __init__(self, store: TenantStore, meddle: Callable[[TenantStore, int], None]) -> None:
        self._store = store
        self._meddle = meddle
        self._appends = 0
        self.is_lost = False

    def append(self, events: Sequence[NewEvent], *, expect: Expectation | None = None) -> Appended:
        self._appends += 1
        self._meddle(self._store, self._appends)
        appended = self._store.append(events, expect=expect)
        if self.is_lost:
            self.is_lost = False
            raise StoreUnavailable("the answer is lost")
        return appended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def as_store(self) -> TenantStore:
        return cast("TenantStore", self)


SMALL = Limits(max_batch_events=BATCH)


def small_store() -> TenantStore:
    return MemoryEngine(limits=SMALL).open("alice")


def test_a_target_to_which_others_append_meanwhile_is_refused() -> None:
    def meddle(store: TenantStore, append: int) -> None:
        if append == 2:
            store.append([new_event(type="Other")])

    source, target = memory_store(), small_store()
    fill(source, named(EVENTS))
    with pytest.raises(TargetChanged, match=r"at position \d+, not at \d+ any more"):
        copy_log(source, Meddled(target, meddle).as_store)
    assert target.read(target.head()).events[0].type == "Other"
    assert 1 < target.head() < EVENTS


def test_an_append_that_fails_for_a_moment_is_done_once() -> None:
    def fail_twice(store: TenantStore, append: int) -> None:
        if append in (2, 3):
            raise StoreUnavailable("for a moment")

    source, target = memory_store(), small_store()
    fill(source, named(EVENTS))
    copy_log(source, Meddled(target, fail_twice).as_store)
    assert wires(target) == wires(source)


def test_an_append_whose_answer_is_lost_is_done_once() -> None:
    source, target = memory_store(), small_store()
    fill(source, named(EVENTS))
    meddled = Meddled(target, lambda store, append: None)
    meddled.is_lost = True
    copy_log(source, meddled.as_store)
    assert wires(target) == wires(source)


def test_a_full_target_is_told_at_once_and_gone_on_with() -> None:
    def fill_up(store: TenantStore, append: int) -> None:
        if append == 2:
            raise StoreFull("the disk is full")

    source, target = memory_store(), small_store()
    fill(source, named(EVENTS))
    with pytest.raises(StoreFull):
        copy_log(source, Meddled(target, fill_up).as_store)
    assert 0 < target.head() < EVENTS
    copy_log(source, target)
    assert wires(target) == wires(source)


def test_a_target_that_gives_back_something_else_is_no_copy() -> None:
    source, target = memory_store(), small_store()
    fill(source, named(EVENTS))

    def spoil(store: TenantStore, append: int) -> None:
        if append == 3:
            log = store._log  # type: ignore[attr-defined]
            log.events[5] = log.events[5].replace(b'"number":5', b'"number":6')

    with pytest.raises(TargetDiffers, match="read back"):
        copy_log(source, Meddled(target, spoil).as_store)


class Plain(Meddled):
    """A store without the powers that are optional, as one of another author's may be."""

    def __init__(self, store: TenantStore) -> None:
        super().__init__(store, lambda store, append: None)

    def __getattr__(self, name: str) -> Any:
        if name in ("positions_of", "leave_gap"):
            raise AttributeError(name)
        return super().__getattr__(name)


def test_an_id_that_is_there_is_noticed_without_a_lookup_too() -> None:
    source = memory_store()
    fill(source, [new_event(id=f"{number}") for number in range(EVENTS)])
    lines = changed(exported(source).splitlines(keepends=True), 25, b'"id":"24"', b'"id":"2"')
    with pytest.raises(BrokenLine, match="was there already") as broken:
        take(lines, Plain(memory_store()).as_store)
    assert broken.value.line == 25


def test_a_trimmed_log_is_refused_where_positions_cannot_be_left_out() -> None:
    source, target = memory_store(), Plain(memory_store()).as_store
    fill(source, named(EVENTS))
    source.trim(7)
    with pytest.raises(CannotKeep, match="positions 1 to 7 hold nothing"):
        copy_log(source, target)
    assert target.head() == 0


def test_an_event_beyond_the_targets_limits_is_refused() -> None:
    source, target = memory_store(), MemoryEngine(limits=Limits(max_event_bytes=300)).open("a")
    fill(source, [*named(5), new_event(b'"%b"' % (b"x" * 400))])
    with pytest.raises(MoveRefused, match=r"at position 6: has .* bytes, at most 300"):
        copy_log(source, target)
    with pytest.raises(BrokenLine, match=r"line 6: has .* bytes, at most 300"):
        take(exported(source).splitlines(keepends=True), target)


def test_ranges_that_are_none_are_refused() -> None:
    store = memory_store()
    for start, stop in ((0, None), (2**63, None), (5, 4)):
        with pytest.raises(InvalidRange):
            copy_log(store, store, start=start, stop=stop)
        with pytest.raises(InvalidRange):
            import_log(Input(BytesIO(b"")), store, start=start, stop=stop)
        with pytest.raises(InvalidRange):
            export_log(store, StreamOutput(BytesIO()), start=start, stop=stop)
