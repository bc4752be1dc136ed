"""The events of a store, and those of a file, in batches and in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from ebus.core.aio import wire_reader
from ebus.core.errors import StoreDamaged
from ebus.core.limits import MIB
from ebus.core.store import SupportsWireRead, TenantStore
from ebus.moving.errors import BrokenFile, BrokenLine
from ebus.moving.lines import (
    Batch,
    EventLine,
    Gap,
    Saved,
    decode_line,
    decode_lines,
    decode_page,
)

PAGE_EVENTS = 4_000
PAGE_BYTES = 1 * MIB
"""What is read at a time."""

MAX_LINE_BYTES = 64 * MIB
"""A longer line is no event."""


class Readable(Protocol):
    """A file that is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes: ...


def keeps_metadata(store: TenantStore) -> bool:
    """Whether metadata is read as it was written, not only with the same entries."""
    return isinstance(store, SupportsWireRead)


def stored_batches(
    store: TenantStore, start: int, stop: int, *, keeps_metadata: bool
) -> Iterator[Batch | Gap]:
    """What lies at these positions, both inclusive; `stop` is at or below the head.

    Raises `StoreDamaged` when what is stored is no event.
    """
    read = wire_reader(store)
    limit = min(PAGE_EVENTS, store.limits.max_read_events)
    max_bytes = min(PAGE_BYTES, store.limits.max_page_bytes)
    expected = at = start
    while at <= stop:
        page = read(at, stop, limit=limit, max_bytes=max_bytes)
        try:
            events = decode_page(b"[%b]" % b",".join(page.chunks), keeps_metadata=keeps_metadata)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"the events from position {at} on cannot be read: {error}"
            raise StoreDamaged(problem) from None
        for batch in _contiguous(events):
            if batch.first_position > expected:
                yield Gap(expected, batch.first_position - 1)
            yield batch
            expected = batch.last_position + 1
        if page.next is None:
            break
        at = page.next
    if expected <= stop:
        yield Gap(expected, stop)


def _contiguous(events: list[EventLine]) -> Iterator[Batch]:
    begin = 0
    while begin < len(events):
        first = events[begin].position
        if events[-1].position - first == len(events) - 1 - begin:
            end = len(events)
        else:
            end = begin + 1
            while end < len(events) and events[end].position == first + end - begin:
                end += 1
        yield Batch.of(events[begin:end] if end - begin < len(events) else events)
        begin = end


def file_batches(file: Readable, *, keeps_metadata: bool) -> Iterator[Batch | Gap | Saved]:
    """What the lines of a file hold.

    Positions are without a hole, but for gaps that are said. Raises `BrokenLine` for the first
    line that cannot be; what is read together with it is not given. Raises `BrokenFile` for an
    empty file.
    """
    reading = FileReading(keeps_metadata=keeps_metadata)
    rest = b""
    while True:
        block = file.read(PAGE_BYTES)
        if not block:
            break
        whole, found, begun = block.rpartition(b"\n")
        if not found:
            rest += block
            if len(rest) > MAX_LINE_BYTES:
                problem = f"it has more than {MAX_LINE_BYTES} bytes"
                raise BrokenLine(problem, line=reading.number)
            continue
        yield from reading.take(rest + whole + b"\n")
        rest = begun
    if rest:
        yield from reading.take(rest)
    if reading.number == 1:
        raise BrokenFile("there is nothing in it, not one line")


class FileReading:
    """Where in a file a reader is."""

    def __init__(self, *, keeps_metadata: bool) -> None:
        self.number = 1
        """Of the next line."""
        self._keeps_metadata = keeps_metadata
        self._expected: int | None = None

    def take(self, text: bytes) -> list[Batch | Gap | Saved]:
        """What these whole lines hold."""
        events = decode_lines(text, keeps_metadata=self._keeps_metadata)
        if events is not None:
            self._check_all(events)
            batch = Batch.of(events, self.number)
            self.number += len(events)
            return [batch]
        pieces: list[Batch | Gap | Saved] = []
        pending: list[EventLine] = []
        first_line = self.number
        for line in text.removesuffix(b"\n").split(b"\n"):
            try:
                piece = decode_line(line, keeps_metadata=self._keeps_metadata)
            except (ValueError, msgspec.DecodeError) as error:
                raise BrokenLine(str(error), line=self.number) from None
            if isinstance(piece, EventLine):
                self._check(piece.position, piece)
                first_line = first_line if pending else self.number
                pending.append(piece)
            else:
                if isinstance(piece, Gap):
                    self._check(piece.first_position)
                    self._expected = piece.last_position + 1
                if pending:
                    pieces.append(Batch.of(pending, first_line))
                    pending = []
                pieces.append(piece)
            self.number += 1
        if pending:
            pieces.append(Batch.of(pending, first_line))
        return pieces

    def _check_all(self, events: list[EventLine]) -> None:
        first = self._expected or events[0].position
        are_fine = [event.position for event in events] == list(
            range(first, first + len(events))
        ) and not any((event.stream is None) != (event.version is None) for event in events)
        if are_fine:
            self._expected = first + len(events)
            return
        number = self.number
        for event in events:
            self._check(event.position, event)
            self.number += 1
        self.number = number

    def _check(self, position: int, event: EventLine | None = None) -> None:
        expected = self._expected
        if expected is not None and position != expected:
            if position < expected:
                problem = f"position {position} comes again, where {expected} is next"
            elif position == expected + 1:
                problem = f"position {expected} is missing before {position}"
            else:
                problem = f"positions {expected} to {position - 1} are missing before {position}"
            raise BrokenLine(problem, line=self.number)
        if event is not None and (event.stream is None) != (event.version is None):
            raise BrokenLine("a stream and a version go together", line=self.number)
        self._expected = position + 1
