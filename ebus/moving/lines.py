"""What a line of a file of events holds, and how it is read and written.

A line is an event as `GET /events` gives it. White space around `data` and `metadata` is not part
of them and left out. A line break within them comes as a space, and then the line says the exact
text beside it. Two other kinds of lines are written only where they are needed: a gap, and a
checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw
from msgspec.structs import replace

from ebus.core.event import NewEvent, checked_utf8, parse_events
from ebus.core.limits import MAX_POSITION

T = TypeVar("T")

Number = Annotated[int, Meta(ge=1, le=MAX_POSITION)]


class EventLine(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """An event, with the members of a line in their order."""

    position: Number
    type: str
    data: Raw
    timestamp: str
    id: str | None = None
    stream: str | None = None
    version: Number | None = None
    metadata: Raw = None  # type: ignore[assignment] # of a union with None msgspec makes no Raw
    data_text: str | None = None
    """The exact text of data that has line breaks; only in a file."""
    metadata_text: str | None = None


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Positions, both inclusive, that hold nothing: what was there has been trimmed."""

    first_position: Number
    last_position: Number


class _GapLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gap: Gap


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint."""

    checkpoint: str
    position: Annotated[int, Meta(ge=0, le=MAX_POSITION)]


Line = EventLine | Gap | Saved


class Batch(msgspec.Struct, frozen=True):
    """Events at contiguous positions."""

    events: Sequence[EventLine]
    wires: Sequence[bytes]
    """Each as it goes over the wire."""
    lines: Sequence[bytes]
    """Each as a line, without the line break at its end."""
    first_line: int | None = None
    """The number of the first one's line, where it came from a file."""

    @classmethod
    def of(cls, events: Sequence[EventLine], first_line: int | None = None) -> Batch:
        lines = _encode_lines(events).split(b"\n")
        if len(lines) == len(events) + 1 and not any(b"\r" in line for line in lines):
            del lines[-1]
            return cls(events, lines, lines, first_line)
        wires = list(map(_encode, events))
        return cls(events, wires, list(map(_line, events, wires)), first_line)

    @property
    def first_position(self) -> int:
        return self.events[0].position

    @property
    def last_position(self) -> int:
        return self.events[-1].position

    def cut(self, begin: int, end: int) -> Batch:
        """The events from index `begin` up to `end`, exclusive."""
        if begin == 0 and end >= len(self.events):
            return self
        first_line = None if self.first_line is None else self.first_line + begin
        at = slice(begin, end)
        return Batch(self.events[at], self.wires[at], self.lines[at], first_line)

    def between(self, start: int, stop: int) -> Batch:
        """The events at these positions, both inclusive."""
        first = self.first_position
        return self.cut(max(0, start - first), max(0, min(stop - first + 1, len(self.events))))

    def new_events(self) -> Sequence[NewEvent]:
        """The events as they are to be appended, with data and metadata as they are written."""
        return parse_events(b"[%b]" % b",".join(self.wires))


_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_decode = msgspec.json.Decoder(EventLine).decode
_decode_lines = msgspec.json.Decoder(EventLine).decode_lines
_decode_array = msgspec.json.Decoder(list[EventLine]).decode
_decode_gap = msgspec.json.Decoder(_GapLine).decode
_decode_saved = msgspec.json.Decoder(Saved).decode
_decode_any = msgspec.json.Decoder(Raw).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str] | None).decode
_SPACES = bytes.maketrans(b"\r\n", b"  ")


def decode_page(page: bytes, *, keeps_metadata: bool) -> list[EventLine]:
    """The events of a JSON array. Raises `msgspec.DecodeError` and `UnicodeDecodeError`."""
    events = _decode_array(checked_utf8(page))
    return _settled(events, keeps_metadata=keeps_metadata)


def decode_lines(text: bytes, *, keeps_metadata: bool) -> list[EventLine] | None:
    """The events of many whole lines at once; None when any of them is something else."""
    try:
        events = _decode_lines(checked_utf8(text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(events) != text.count(b"\n") + (not text.endswith(b"\n")):
        return None  # an empty line: it is told which
    if any(event.data_text is not None or event.metadata_text is not None for event in events):
        return None
    return _settled(events, keeps_metadata=keeps_metadata)


def decode_line(text: bytes, *, keeps_metadata: bool) -> Line:
    """What one line holds. Raises `ValueError` with the reason why it is none."""
    if not text.strip():
        raise ValueError("it is empty")
    try:
        checked_utf8(text)
        if text.lstrip().startswith(b'{"gap"'):
            gap = _decode_gap(text).gap
            if gap.first_position > gap.last_position:
                raise ValueError("the gap ends before it begins")
            return gap
        if text.lstrip().startswith(b'{"checkpoint"'):
            return _decode_saved(text)
        event = _restored(_decode(text))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    return _settled([event], keeps_metadata=keeps_metadata)[0]


def _restored(event: EventLine) -> EventLine:
    """The event with the exact texts in their place."""
    if event.data_text is not None:
        data = _exact(event.data, event.data_text, "data")
        event = replace(event, data=data, data_text=None)
    if event.metadata_text is not None:
        metadata = _exact(event.metadata, event.metadata_text, "metadata")
        event = replace(event, metadata=metadata, metadata_text=None)
    return event


def _exact(flat: Raw | None, text: str, name: str) -> Raw:
    exact = text.encode("utf-8", "surrogatepass")
    if flat is None or bytes(flat) != exact.translate(_SPACES):
        raise ValueError(f"{name} and {name}_text say different things")
    return _decode_any(checked_utf8(exact))


def _settled(events: list[EventLine], *, keeps_metadata: bool) -> list[EventLine]:
    """The same events as they are compared: those without metadata have none."""
    for event in events:
        metadata: Raw | None = event.metadata
        if metadata is None:
            continue
        if bytes(metadata) == b"null":
            event.metadata = None  # type: ignore[assignment] # as above
        elif not keeps_metadata:
            event.metadata = Raw(_encode(_decode_metadata(metadata)))
    return events


def _line(event: EventLine, wire: bytes) -> bytes:
    if b"\n" not in wire and b"\r" not in wire:
        return wire
    data, data_text = _flat(event.data)
    plain: Raw | None = event.metadata
    if plain is None:
        return _encode(replace(event, data=data, data_text=data_text))
    metadata, metadata_text = _flat(plain)
    return _encode(
        replace(
            event,
            data=data,
            data_text=data_text,
            metadata=metadata,
            metadata_text=metadata_text,
        )
    )


def _flat(text: Raw) -> tuple[Raw, str | None]:
    exact = bytes(text)
    flat = exact.translate(_SPACES)
    return (text, None) if flat == exact else (Raw(flat), exact.decode())


def encode_gap(gap: Gap) -> bytes:
    return _encode(_GapLine(gap))


def encode_saved(saved: Saved) -> bytes:
    return _encode(saved)


Progress = Callable[[int], object]
"""Told of so many more events that were looked at."""
