"""What can be seen of a tenant, as plain values that compare and print well."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Never

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ebus.core.aio import wire_reader
from ebus.core.consumers import Subscription
from ebus.core.event import Event, NewEvent, metadata_of
from ebus.core.filter import Filter
from ebus.core.limits import MAX_POSITION
from ebus.core.store import Page, StreamInfo, SupportsWireRead, TenantStore, WirePage
from ebus.testing.place import NOTHING_STORED, Peeked, Place


class StoredEvent(NamedTuple):
    """An event with its position, its data as bytes."""

    position: int
    type: str
    data: bytes
    timestamp: str
    id: str | None = None
    stream: str | None = None
    version: int | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class Observation:
    """Everything that a store and a peek say about one tenant."""

    events: list[StoredEvent]
    head: int
    count: int
    checkpoints: list[tuple[str, int]]
    peeked: Peeked
    streams: list[StreamInfo] = field(default_factory=list)
    subscriptions: list[Subscription | None] = field(default_factory=list)
    """One for each checkpoint."""


NEW_TENANT = Observation([], 0, 0, [], NOTHING_STORED)


def stored(events: Iterable[NewEvent], first_position: int = 1) -> list[StoredEvent]:
    """What these events are to be read back as. They must have time stamps.

    They are the first of their streams.
    """
    expected = []
    versions = Counter[str]()
    for position, event in enumerate(events, first_position):
        assert isinstance(event.timestamp, str)
        version = None
        if event.stream is not None:
            versions[event.stream] += 1
            version = versions[event.stream]
        expected.append(
            StoredEvent(
                position,
                event.type,
                bytes(event.data),
                event.timestamp,
                event.id,
                event.stream,
                version,
                metadata_of(event),
            )
        )
    return expected


def plain(events: Iterable[Event]) -> list[StoredEvent]:
    """What has been read."""
    return [
        StoredEvent(
            event.position,
            event.type,
            bytes(event.data),
            event.timestamp,
            event.id,
            event.stream,
            event.version,
            event.metadata,
        )
        for event in events
    ]


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    type: str
    data: Raw
    timestamp: str
    # What an event has not got is left out: null is refused.
    id: str | UnsetType = UNSET
    stream: str | UnsetType = UNSET
    version: int | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


_decode_array = msgspec.json.Decoder(list[_Wire]).decode


def parsed(objects: Sequence[bytes]) -> list[StoredEvent]:
    """JSON objects as they go over the wire; several may be joined by commas."""
    array = b"[" + b",".join(objects) + b"]"
    check_json(array)
    return [
        StoredEvent(
            wire.position,
            wire.type,
            bytes(wire.data),
            wire.timestamp,
            None if wire.id is UNSET else wire.id,
            None if wire.stream is UNSET else wire.stream,
            None if wire.version is UNSET else wire.version,
            None if wire.metadata is UNSET else wire.metadata,
        )
        for wire in _decode_array(array)
    ]


def check_json(text: bytes) -> None:
    """Ask a second parser whether this is one JSON document in UTF-8."""
    json.loads(text.decode(), parse_int=str, parse_float=str, parse_constant=_no_constant)


def _no_constant(name: str) -> Never:
    raise AssertionError(f"{name} is not JSON")


def read_through(
    store: TenantStore,
    start: int = 1,
    stop: int | None = None,
    *,
    limit: int | None = None,
    max_bytes: int | None = None,
) -> list[StoredEvent]:
    """Every event from `start` to `stop`, page by page, following `next`."""
    events: list[StoredEvent] = []
    following: int | None = start
    while following is not None:
        page = store.read(following, stop, limit=limit, max_bytes=max_bytes)
        events += plain(page.events)
        assert page.next is None or page.next > following, (
            f"a page from {following} names {page.next} as the next: reading would never end"
        )
        following = page.next
    return events


def observe(place: Place, name: str, store: TenantStore) -> Observation:
    """Look at a tenant from every side."""
    checkpoints = list(store.checkpoints().items())
    return Observation(
        events=read_through(store),
        head=store.head(),
        count=store.count(),
        checkpoints=checkpoints,
        peeked=place.peek(name),
        streams=store.streams(),
        subscriptions=[store.subscription(checkpoint) for checkpoint, _ in checkpoints],
    )


@contextmanager
def unchanged(place: Place, name: str, store: TenantStore) -> Iterator[None]:
    """Fail when what happens within changes anything that can be seen of the tenant."""
    before = observe(place, name, store)
    yield
    after = observe(place, name, store)
    assert after == before, f"tenant {name!r} changed"


def check_page(
    page: Page, expected: list[StoredEvent], sizes: dict[int, int], limit: int, max_bytes: int
) -> None:
    """Compare a page with all that lies in the range that was asked for.

    `sizes` has the bytes of each event's JSON by position. Whether the commas between
    events count towards `max_bytes` is left to the engine.
    """
    events = plain(page.events)
    count = len(events)
    assert events == expected[:count], "a page is the beginning of the range"
    assert events or not expected, "a page holds at least one event when there is one"
    assert count <= limit, f"a page of at most {limit} events has {count}"
    rest = expected[count:]
    assert page.next == (rest[0].position if rest else None), (
        f"a page that ends at {events[-1].position if events else None} "
        f"of {[event.position for event in expected]} names the next"
    )
    bytes_but_last = sum(sizes[event.position] for event in events[:-1])
    assert bytes_but_last <= max_bytes, (
        f"a page of at most {max_bytes} bytes goes on after {bytes_but_last}"
    )
    if rest and count < limit:
        size = sum(sizes[event.position] for event in events)
        assert size + count >= max_bytes, (
            f"a page of {size} bytes is cut before it has {limit} events or {max_bytes} bytes"
        )


def check_wire_page(wire: WirePage, page: Page) -> None:
    """Compare a page as bytes with the same page as events."""
    events = plain(page.events)
    assert all(wire.chunks), "an empty chunk would put a comma too many between its neighbours"
    assert parsed(wire.chunks) == events
    assert wire.count == len(events)
    assert wire.first_position == (events[0].position if events else 0)
    assert wire.next == page.next


def matches(event: StoredEvent, wanted: Filter) -> bool:
    """Whether an event is one of those that a filter without times means, in plain words."""
    return all(
        [
            not wanted.types or event.type in wanted.types,
            wanted.stream is None or event.stream == wanted.stream,
            wanted.stream_prefix is None
            or (event.stream is not None and event.stream.startswith(wanted.stream_prefix)),
            wanted.from_version is None or (event.version or 0) >= wanted.from_version,
            wanted.to_version is None or (event.version or 0) <= wanted.to_version,
        ]
    )


def check_filtered(
    store: TenantStore,
    log: Iterable[StoredEvent],
    sizes: dict[int, int],
    wanted: Filter | None,
    start: int = 0,
    stop: int | None = None,
    *,
    limit: int | None = None,
    max_bytes: int | None = None,
    backwards: bool = False,
) -> None:
    """Read a range page by page, as events and as bytes, and compare it with the whole log.

    A page may be cut short early, even before it holds anything, as long as it leads on.
    """
    last = MAX_POSITION if stop is None else stop
    expected = [
        event
        for event in log
        if start <= event.position <= last and (wanted is None or matches(event, wanted))
    ]
    if backwards:
        expected.reverse()

    def read(start: int, stop: int | None) -> tuple[list[StoredEvent], int | None]:
        page = store.read(
            start, stop, limit=limit, max_bytes=max_bytes, filter=wanted, backwards=backwards
        )
        return plain(page.events), page.next

    read_wire = wire_reader(store)

    def read_bytes(start: int, stop: int | None) -> tuple[list[StoredEvent], int | None]:
        page = read_wire(
            start, stop, limit=limit, max_bytes=max_bytes, filter=wanted, backwards=backwards
        )
        events = parsed(page.chunks)
        assert page.count == len(events)
        assert page.first_position == (events[0].position if events else 0)
        return events, page.next

    for read_page in (read, read_bytes):
        seen = 0
        following: tuple[int, int | None] | None = (start, stop)
        while following is not None:
            events, onward = read_page(*following)
            assert events == expected[seen : seen + len(events)], "events are left out, or others"
            assert len(events) <= (limit or store.limits.max_read_events)
            bytes_but_last = sum(sizes[event.position] for event in events[:-1])
            assert bytes_but_last <= (max_bytes or store.limits.max_page_bytes)
            seen += len(events)
            if onward is None:
                break
            if backwards:
                assert onward < (MAX_POSITION if following[1] is None else following[1])
                assert not events or onward < events[-1].position
                assert onward >= start
                following = (start, onward)
            else:
                assert onward > following[0], "reading would never end"
                assert not events or onward > events[-1].position
                assert onward <= last
                following = (onward, stop)
        assert seen == len(expected), "the range was said to be read to its end"


def event_sizes(peeked: Peeked) -> dict[int, int]:
    """The bytes of each event's JSON, by position."""
    events = parsed(peeked.events)
    return {event.position: len(json) for event, json in zip(events, peeked.events, strict=True)}


def check_place(place: Place) -> None:
    """Compare, for every tenant of a place, what an engine says with what is stored."""
    with place.open() as engine:
        for name in engine.tenants():
            check_tenant(engine.open(name), place.peek(name))


def check_tenant(store: TenantStore, peeked: Peeked) -> None:
    """Compare what a store says with itself and with what is stored."""
    events = read_through(store)
    assert parsed(peeked.events) == events, "what is stored is not what is read"
    head, count = store.head(), store.count()
    positions = [event.position for event in events]
    assert positions == list(range(head - count + 1, head + 1)), (
        f"positions do not run up to the head {head} without a gap, or are not {count}"
    )
    checkpoints = dict(store.checkpoints())
    assert checkpoints == peeked.checkpoints, "what is stored is not what is read"
    assert list(checkpoints) == sorted(checkpoints), "checkpoints are out of order"
    for name, position in checkpoints.items():
        assert store.checkpoint(name) == position
    if isinstance(store, SupportsWireRead):
        check_wire_page(store.read_wire(1), store.read(1))
    last_versions = {event.stream: event.version for event in events if event.stream is not None}
    listed = {info.stream: info.version for info in store.streams()}
    assert list(listed) == sorted(listed), "streams are out of order"
    assert last_versions.items() <= listed.items(), "streams have other versions than their events"
    ids = [event.id for event in events if event.id is not None]
    assert len(ids) == len(set(ids)), "an id is stored twice"
