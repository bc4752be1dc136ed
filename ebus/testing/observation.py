"""What can be seen of a tenant, as plain values that compare and print well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Never

import msgspec
from msgspec import Raw

from ebus.core.event import Event, NewEvent
from ebus.core.store import Page, SupportsWireRead, TenantStore, WirePage
from ebus.testing.place import NOTHING_STORED, Peeked, Place


class StoredEvent(NamedTuple):
    """An event with its position, its data as bytes."""

    position: int
    type: str
    data: bytes
    timestamp: str


@dataclass(frozen=True)
class Observation:
    """Everything that a store and a peek say about one tenant."""

    events: list[StoredEvent]
    head: int
    count: int
    checkpoints: list[tuple[str, int]]
    peeked: Peeked


NEW_TENANT = Observation([], 0, 0, [], NOTHING_STORED)


def stored(events: Iterable[NewEvent], first_position: int = 1) -> list[StoredEvent]:
    """What these events are to be read back as. They must have time stamps."""
    expected = []
    for position, event in enumerate(events, first_position):
        assert isinstance(event.timestamp, str)
        expected.append(StoredEvent(position, event.type, bytes(event.data), event.timestamp))
    return expected


def plain(events: Iterable[Event]) -> list[StoredEvent]:
    """What has been read."""
    return [
        StoredEvent(event.position, event.type, bytes(event.data), event.timestamp)
        for event in events
    ]


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    type: str
    data: Raw
    timestamp: str


_decode_array = msgspec.json.Decoder(list[_Wire]).decode


def parsed(objects: Sequence[bytes]) -> list[StoredEvent]:
    """JSON objects as they go over the wire; several may be joined by commas."""
    array = b"[" + b",".join(objects) + b"]"
    check_json(array)
    return [
        StoredEvent(wire.position, wire.type, bytes(wire.data), wire.timestamp)
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
    return Observation(
        events=read_through(store),
        head=store.head(),
        count=store.count(),
        checkpoints=list(store.checkpoints().items()),
        peeked=place.peek(name),
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
