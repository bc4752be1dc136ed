"""A client of an answer that goes on: reads events as they come, in any form."""

from __future__ import annotations

import http.client
import json
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import pytest

JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

FORMS = pytest.mark.parametrize("form", [JSON, NDJSON, SSE])
WAYS = pytest.mark.parametrize("way", [{}, {"X-Way": "long"}], ids=["short way", "long way"])
"""A header that comes twice goes the long way."""

PATIENCE_S = 30

Event = dict[str, Any]


class Follower:
    """An answer to `GET /events/stream`, read as far as it is asked for."""

    def __init__(
        self,
        port: int,
        key: str,
        form: str,
        query: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        receive_bytes: int | None = None,
    ) -> None:
        self._socket = socket.socket()
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(("127.0.0.1", port))
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.sock = self._socket
        path = "/events/stream?" + urlencode({"follow": "true", **(query or {})}, doseq=True)
        self._connection.putrequest("GET", path, skip_accept_encoding=True)
        for name, value in {"X-API-Key": key, "Accept": form, **(headers or {})}.items():
            self._connection.putheader(name, value)
            if name == "X-Way":
                self._connection.putheader(name, value)
        self._connection.endheaders()
        self.answer = self._connection.getresponse()
        self.form = form
        self.text = b""
        """All that came."""
        self.ended = False
        self._parsed = 0
        self._unpack: Callable[[bytes], bytes] = bytes
        if self.answer.headers.get("content-encoding") == "gzip":
            self._unpack = zlib.decompressobj(wbits=31).decompress
        self.events: list[Event] = []

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()
        self._socket.close()

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def positions(self) -> list[int]:
        return [event["position"] for event in self.events]

    def read(self, most: int = 65_536) -> bool:
        """Read what there is; False at the end."""
        part = self._unpack(self.answer.read1(most)) if not self.ended else b""
        if not part and (self.answer.isclosed() or self.answer.length == 0):
            self.ended = True
            return False
        self.text += part
        self.events.extend(self._new_events())
        return True

    def take(self, count: int) -> list[Event]:
        """Read on until so many events have come; those."""
        while len(self.events) < count:
            assert self.read(), f"the answer has ended: {self.text[-500:]!r}"
        return self.events

    def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            assert self.read(), f"the answer has ended: {self.text[-500:]!r}"

    def to_the_end(self) -> list[Event]:
        """Read on until the answer ends as it should."""
        while self.read():
            pass
        return self.events

    def _new_events(self) -> Iterator[Event]:
        if self.form == JSON:
            yield from self._new_of_an_array()
            return
        separator = b"\n\n" if self.form == SSE else b"\n"
        while (end := self.text.find(separator, self._parsed)) >= 0:
            block, self._parsed = self.text[self._parsed : end], end + len(separator)
            if self.form == NDJSON:
                if block:
                    yield json.loads(block)
            elif block.startswith(b"id: "):
                id_line, data_line = block.split(b"\n")
                assert data_line.startswith(b"data: ")
                event = json.loads(data_line[len(b"data: ") :])
                assert id_line == b"id: %d" % event["position"]
                yield event
            else:
                assert block in {b"retry: 1000", b": still here"}, block

    def _new_of_an_array(self) -> Iterator[Event]:
        decoder = json.JSONDecoder()
        text = self.text[self._parsed :].decode("utf-8", "ignore")
        at = 0
        while True:
            begin = at
            while begin < len(text) and text[begin] in "[, \n":
                begin += 1
            if begin == len(text) or text[begin] == "]":
                break
            try:
                event, at = decoder.raw_decode(text, begin)
            except json.JSONDecodeError:
                break
            yield event
        self._parsed += len(text[:at].encode())
