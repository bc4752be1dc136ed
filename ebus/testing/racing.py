"""Threads that get in each other's way: writers, readers, and what must hold between them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Barrier, Event, Lock
from typing import Any, TypeVar, overload

from ebus.core.errors import InvalidEvent
from ebus.core.event import NewEvent
from ebus.core.store import Append, Appended, SupportsWireRead, TenantStore
from ebus.testing.events import new_event
from ebus.testing.observation import StoredEvent, parsed, plain, stored

T = TypeVar("T")


def race(*works: Callable[[], T]) -> list[T]:
    """Do each work in a thread of its own, all at once, and give back what they returned.

    Raises what the first of them raised, once all have ended.
    """
    start = Barrier(len(works))

    def run(work: Callable[[], T]) -> T:
        start.wait()
        return work()

    with _frequent_switches(), ThreadPoolExecutor(len(works)) as threads:
        futures = [threads.submit(run, work) for work in works]
    return [future.result() for future in futures]


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let the interpreter change threads within an operation, not after thousands of them."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)


class Written(list[tuple[Appended, list[NewEvent]]]):
    """What one writer wrote and what it was told, append by append, in its order."""


Writer = Callable[[TenantStore, int], Written]
"""Appends to a store as the writer of that number."""

APPENDS = 15
"""How often each writer appends."""

SIZES = (1, 300, 2, 500, 3)
"""Events in a batch: a few, and so many that there is time to get in its way."""


def batch_of(writer: int, number: int, size: int) -> list[NewEvent]:
    """Events that say whose they are and which of their batch comes last."""
    return [
        new_event(
            b'{"writer":%d,"batch":%d,"index":%d,"last":%b}'
            % (writer, number, index, b"true" if index == size - 1 else b"false")
        )
        for index in range(size)
    ]


def write_singles(store: TenantStore, writer: int) -> Written:
    written = Written()
    for number in range(APPENDS):
        batch = batch_of(writer, number, 1)
        written.append((store.append(batch), batch))
    return written


def write_batches(store: TenantStore, writer: int) -> Written:
    """Append batches of all `SIZES`."""
    written = Written()
    for number in range(APPENDS):
        batch = batch_of(writer, number, SIZES[(writer + number) % len(SIZES)])
        written.append((store.append(batch), batch))
    return written


def write_commits(store: TenantStore, writer: int) -> Written:
    """Commit three batches at a time, and a refused one among them."""
    written = Written()
    for number in range(0, APPENDS, 3):
        batches = [batch_of(writer, number + more, SIZES[more]) for more in range(3)]
        refused = [*batch_of(writer, 99, 2), new_event(b"{")]
        answer = store.commit([Append(batches[0]), Append(refused), *map(Append, batches[1:])])
        assert isinstance(answer.pop(1), InvalidEvent)
        for result, batch in zip(answer, batches, strict=True):
            assert isinstance(result, Appended)
            written.append((result, batch))
    return written


class Interrupted(Sequence[NewEvent]):
    """A batch that calls `amid` when it has been gone through half way."""

    def __init__(self, events: list[NewEvent], amid: Callable[[], None]) -> None:
        self.events = events
        self.amid = amid

    @overload
    def __getitem__(self, index: int) -> NewEvent: ...

    @overload
    def __getitem__(self, index: slice) -> list[NewEvent]: ...

    def __getitem__(self, index: int | slice) -> NewEvent | list[NewEvent]:
        if index == len(self.events) // 2:
            self.amid()
        return self.events[index]

    def __len__(self) -> int:
        return len(self.events)


def append_interrupted(
    store: TenantStore, others: Sequence[TenantStore]
) -> tuple[list[Written], list[list[StoredEvent]]]:
    """Append a batch, and half way through it let others read and append.

    Gives back what all were told they had written, and what the others read. Whoever must
    wait for the batch to end is waited for only briefly, half way through it.
    """
    mine, theirs, logs = Written(), Written(), list[Future[list[StoredEvent]]]()
    appending = list[Future[None]]()

    def read(store: TenantStore) -> list[StoredEvent]:
        return plain(store.read(1).events)

    def append(store: TenantStore, number: int) -> None:
        batch = batch_of(2, number, 3)
        theirs.append((store.append(batch), batch))

    with ThreadPoolExecutor(2 * len(others)) as threads:

        def amid() -> None:
            begun: list[Future[Any]] = []
            for other in others:
                logs.append(threads.submit(read, other))
                appending.append(threads.submit(append, other, len(appending)))
                begun += [logs[-1], appending[-1]]
            wait(begun, timeout=0.1)

        batch = batch_of(1, 0, 10)
        mine.append((store.append(Interrupted(batch, amid)), batch))
    for done in appending:
        done.result()
    theirs.sort(key=lambda written: written[0].first_position)
    return [mine, theirs], [log.result() for log in logs]


def check_written(log: list[StoredEvent], writers: Sequence[Written]) -> None:
    """Compare a log that began empty with what its writers were told.

    Every event is where its writer was told, batches are contiguous and in their own order,
    each writer's appends are in its order, and nothing is left over.
    """
    assert [event.position for event in log] == list(range(1, len(log) + 1))
    expected: list[StoredEvent] = []
    for written in writers:
        firsts = [appended.first_position for appended, _ in written]
        assert firsts == sorted(firsts), "a later append of one writer has an earlier position"
        for appended, batch in written:
            assert appended.last_position - appended.first_position + 1 == len(batch)
            expected += stored(batch, appended.first_position)
    assert log == sorted(expected)


def watch(store: TenantStore, ended: Event) -> int:
    """Read what is new again and again until its writers have ended.

    Each time it must go on where the last time ended, and end with a whole batch. Gives back
    how many events were seen.
    """
    seen = 0
    ends = False
    while not ends:
        ends = ended.is_set()
        head = store.head()
        assert head >= seen, f"event {seen} was read, and then the head was {head}"
        seen = check_news(plain(store.read(seen + 1).events), seen)
        assert seen >= head, f"the head was {head}, and then nothing after {seen} could be read"
        if isinstance(store, SupportsWireRead):
            seen = check_news(parsed(store.read_wire(seen + 1).chunks), seen)
        count = store.count()
        assert count >= seen, f"event {seen} was read, and then the count was {count}"
    return seen


def check_news(events: list[StoredEvent], seen: int) -> int:
    """Whole batches of `batch_of` that go on after the position `seen`. Gives back the last."""
    positions = [event.position for event in events]
    assert positions == list(range(seen + 1, seen + 1 + len(events))), "a reader saw a gap"
    assert not events or b'"last":true' in events[-1].data, "a reader saw a part of a batch"
    return seen + len(events)


def race_watched(
    writers: Sequence[Callable[[], Written]], watched: Sequence[TenantStore]
) -> list[Written]:
    """Let writers race while each of the stores is watched, until the last writer has ended."""
    ended = Event()
    lock = Lock()
    writing = len(writers)

    def write(work: Callable[[], Written]) -> Written:
        nonlocal writing
        try:
            return work()
        finally:
            with lock:
                writing -= 1
                if not writing:
                    ended.set()

    results = race(
        *(lambda work=work: write(work) for work in writers),
        *(lambda store=store: watch(store, ended) for store in watched),
    )
    return [result for result in results if isinstance(result, Written)]
