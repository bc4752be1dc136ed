"""Events one after the other: as an array, a line each, or as Server-Sent Events."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import msgspec

from ebus.core.store import WirePage
from ebus.http.answers import JSON

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class WireEvent(msgspec.Struct, frozen=True):
    """An event of a page, as bytes."""

    position: int
    json: bytes


def events_of(page: WirePage) -> list[WireEvent]:
    """The events of a page, each by itself."""
    if not page.count:
        return []
    events = map(bytes, _split(b"[%b]" % b",".join(page.chunks)))
    return [WireEvent(int(json[len(b'{"position":') : json.index(b",")]), json) for json in events]


class Frame:
    """Bytes of an answer, which many answers may share."""

    def __init__(self, body: bytes, events: int = 0) -> None:
        self.body = body
        self.events = events
        """How many events it holds."""

    @cached_property
    def chunk(self) -> bytes:
        """As a chunk of a body (RFC 9112, 7.1)."""
        return b"%x\r\n%b\r\n" % (len(self.body), self.body)


class Framing(Protocol):
    """How events are written one after the other."""

    media_type: str
    begin: bytes
    end: bytes
    heartbeat: bytes

    separates: bool
    """Whether the first byte of what follows is only to stand between events."""

    def frame(self, events: list[WireEvent]) -> bytes: ...


class _Array:
    media_type = JSON
    begin = b"["
    end = b"]"
    heartbeat = b" "
    separates = True

    def frame(self, events: list[WireEvent]) -> bytes:
        return b"".join([b"," + event.json for event in events])


class _Lines:
    media_type = NDJSON
    begin = b""
    end = b""
    heartbeat = b"\n"
    separates = False

    def frame(self, events: list[WireEvent]) -> bytes:
        return b"".join([_on_one_line(event.json) + b"\n" for event in events])


class _ServerSentEvents:
    media_type = SSE
    begin = b"retry: 1000\n\n"
    end = b""
    heartbeat = b": still here\n\n"
    separates = False

    def frame(self, events: list[WireEvent]) -> bytes:
        return b"".join(
            [b"id: %d\ndata: %b\n\n" % (one.position, _on_one_line(one.json)) for one in events]
        )


def _on_one_line(json: bytes) -> bytes:
    """Line breaks in JSON are white space."""
    return json.translate(_LINE_BREAKS) if b"\n" in json or b"\r" in json else json


FRAMINGS: dict[str, Framing] = {JSON: _Array(), NDJSON: _Lines(), SSE: _ServerSentEvents()}
