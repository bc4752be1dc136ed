"""Threads that get in each other's way: writers, readers, and what must hold between them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event, Lock
from typing import TypeVar

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
    """Append batches of 1 to 5 events."""
    written = Written()
    for number in range(APPENDS):
        batch = batch_of(writer, number, 1 + (writer + number) % 5)
        written.append((store.append(batch), batch))
    return written


def write_commits(store: TenantStore, writer: int) -> Written:
    """Commit three batches at a time, and a refused one among them."""
    written = Written()
    for number in range(0, APPENDS, 3):
        batches = [batch_of(writer, number + more, 1 + more) for more in range(3)]
        refused = [*batch_of(writer, 99, 2), new_event(b"{")]
        answer = store.commit([Append(batches[0]), Append(refused), *map(Append, batches[1:])])
        assert isinstance(answer.pop(1), InvalidEvent)
        for result, batch in zip(answer, batches, strict=True):
            assert isinstance(result, Appended)
            written.append((result, batch))
    return written


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
    """Read the log from the start until its writers have ended: always a gapless prefix.

    Gives back how many events were seen in the end.
    """
    seen = 0
    ends = False
    while not ends:
        ends = ended.is_set()
        head = store.head()
        events = plain(store.read(1).events)
        check_prefix(events)
        assert len(events) >= head >= seen, (
            f"{seen} events were seen, then a head of {head}, and then {len(events)} events"
        )
        seen = len(events)
        if isinstance(store, SupportsWireRead):
            wire = parsed(store.read_wire(1).chunks)
            check_prefix(wire)
            assert wire[:seen] == events
            seen = len(wire)
        assert store.count() >= seen
    return seen


def check_prefix(events: list[StoredEvent]) -> None:
    """Events from position 1 on, whole batches of `batch_of`."""
    positions = [event.position for event in events]
    assert positions == list(range(1, len(events) + 1)), "a reader saw a gap"
    assert not events or b'"last":true' in events[-1].data, "a reader saw a part of a batch"


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
