"""Reading a log: pages of events, forwards and backwards, all of them or by a filter.

A filter is turned into subjects, of which the servers keep an index. What a subject cannot say
(versions, prefixes, more than a few types) is looked at here, in a bounded number of events.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from operator import attrgetter

from ebus.backends.jetstream.messages import Message, seen_in
from ebus.backends.jetstream.naming import Names
from ebus.backends.jetstream.stream import Stream
from ebus.core.filter import Filter
from ebus.core.limits import KIB, MAX_LOOKED_AT_BYTES, MAX_LOOKED_AT_EVENTS
from ebus.core.store import ReadBounds

_FIRST_PAGE = 64
_PAGE_MESSAGES = 1_000
_PAGE_BYTES = 512 * KIB
"""Of what is read to be looked at. Small, where several subjects are read side by side."""

_FIRST_WINDOW = 64
_MAX_WINDOW = 65_536
"""Positions that are read at once, to be given backwards."""

_sequence = attrgetter("sequence")


class Found(list[tuple[int, bytes]]):
    """Events with their positions, as wire JSON, in the order in which they were asked for."""

    next: int | None = None
    """Where to go on, where a bound has cut the page short."""


def read_forwards(log: Stream, names: Names, bounds: ReadBounds, stored: int) -> Found:
    """Every event within the bounds. One more is read than fits, so that `next` is one that is.

    `stored` is a position up to which events are known to be there.
    """
    found = Found()
    size = 0
    many = min(bounds.limit, bounds.stop - bounds.start + 1) + 1
    stored = min(stored, bounds.stop)
    pages = log.read(
        names.events, bounds.start, many=many, max_bytes=bounds.max_bytes, stored=stored
    )
    for page in pages:
        for message in page:
            if message.sequence > bounds.stop:
                return found
            if len(found) == bounds.limit or size >= bounds.max_bytes:
                found.next = message.sequence
                return found
            wire = message.wire
            found.append((message.sequence, wire))
            size += len(wire)
        if page and page[-1].sequence >= bounds.stop:
            break
    return found


def search(
    log: Stream,
    names: Names,
    bounds: ReadBounds,
    wanted: Filter | None,
    *,
    backwards: bool,
    head: int,
) -> Found:
    """The events that are wanted, as many as fit into the page and can be looked at for it."""
    found = Found()
    size = looked_at = looked_at_bytes = 0
    stop = min(bounds.stop, head)
    if bounds.start > stop:
        return found
    subjects = names.matching(wanted)
    if backwards:
        messages = _backwards(log, subjects, bounds.start, stop, _window(bounds, wanted))
    else:
        messages = _forwards(log, subjects, bounds.start, stop)
    for message in messages:
        if (
            len(found) == bounds.limit
            or size >= bounds.max_bytes
            or looked_at >= MAX_LOOKED_AT_EVENTS
            or looked_at_bytes >= MAX_LOOKED_AT_BYTES
        ):
            found.next = message.sequence
            return found
        if wanted is not None and wanted.looks_at_events:
            looked_at += 1
            looked_at_bytes += len(message.payload)
            seen = seen_in(message)
            if not wanted.matches(seen, seen.version):
                continue
        wire = message.wire
        found.append((message.sequence, wire))
        size += len(wire)
    return found


def _window(bounds: ReadBounds, wanted: Filter | None) -> int:
    """How many positions to read first: all that are needed, where each is an event."""
    return min(bounds.limit + 1, _PAGE_MESSAGES) if wanted is None else _FIRST_WINDOW


def _forwards(log: Stream, subjects: list[str], start: int, stop: int) -> Iterator[Message]:
    sources = [_of_subject(log, subject, start, stop) for subject in subjects]
    return sources[0] if len(sources) == 1 else heapq.merge(*sources, key=_sequence)


def _of_subject(log: Stream, subject: str, start: int, stop: int) -> Iterator[Message]:
    many = _FIRST_PAGE
    following = start
    while following <= stop:
        count = 0
        for page in log.read(subject, following, many=many, max_bytes=_PAGE_BYTES):
            if not page:
                return
            for message in page:
                if message.sequence > stop:
                    return
                yield message
            count += len(page)
            following = page[-1].sequence + 1
            if following > stop:
                return
            if count >= many < _PAGE_MESSAGES:
                break  # go on with larger pages
        many = min(many * 4, _PAGE_MESSAGES)


def _backwards(
    log: Stream, subjects: list[str], start: int, stop: int, window: int
) -> Iterator[Message]:
    """The last ones first: read in windows of positions, which grow while little is found."""
    last = stop
    while last >= start:
        first = max(start, last - window + 1)
        held: list[Message] = []
        held_bytes = 0
        for message in _forwards(log, subjects, first, last):
            held.append(message)
            held_bytes += len(message.payload)
            if held_bytes > MAX_LOOKED_AT_BYTES and window > 1:
                break
        else:
            yield from reversed(held)
            last = first - 1
            window = min(window * 4, _MAX_WINDOW)
            continue
        window = max(1, window // 4)  # too much to hold: a smaller one


def first_recorded(log: Stream, names: Names, at_ns: int, first: int, head: int) -> int:
    """The first position that was recorded then or later; the one after the head if none was."""
    least, most = first, head + 1
    while least < most:
        middle = (least + most) // 2
        message = log.next(names.events, middle)
        if message is None or message.sequence > head or message.recorded_ns >= at_ns:
            most = middle
        else:
            least = message.sequence + 1
    return least
