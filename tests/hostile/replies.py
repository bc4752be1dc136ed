"""What a server sends on one connection, taken apart strictly: every byte belongs to a reply."""

from __future__ import annotations

import re
import sys
import zlib
from http import HTTPStatus
from typing import NamedTuple

import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*\r\n")
_FIELD = re.compile(rb"([a-z0-9-]+): ([ -~]*)\r\n")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")

DOCUMENTED_5XX = frozenset({503})


class Reply(NamedTuple):
    """An answer. `raw` is all of it as it came, `body` is unpacked."""

    status: int
    fields: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def closes(self) -> bool:
        return self.fields.get("connection") == "close"


class BrokenOff(Exception):
    """The connection has ended between two chunks."""


def replies(stream: bytes, *methods: str, may_break_off: bool = False) -> list[Reply]:
    """All of the stream. `methods` are those of the requests, which must be told of a HEAD.

    Fails when a byte is left over, a reply is cut short, or one follows a reply that closes. The
    last one, if it `may_break_off`, can be cut between two chunks; it is left out.
    """
    found: list[Reply] = []
    at = 0
    while at < len(stream):
        assert not (found and found[-1].closes), f"after the last reply: {stream[at:]!r}"
        method = methods[len(found)] if len(found) < len(methods) else ""
        try:
            reply = _reply(stream, at, bodiless=method == "HEAD")
        except BrokenOff:
            assert may_break_off, f"the last reply is not whole: {stream[at:]!r}"
            break
        at += len(reply.raw)
        if reply.status >= 200:
            found.append(reply)
    return found


def _reply(stream: bytes, start: int, *, bodiless: bool) -> Reply:
    line = _STATUS_LINE.match(stream, start)
    assert line, f"this is no reply: {stream[start : start + 500]!r}"
    status, at = int(line[1]), line.end()
    fields: dict[str, str] = {}
    while field := _FIELD.match(stream, at):
        name, value = field[1].decode(), field[2].decode()
        assert name not in fields, f"{name} comes twice: {stream[start : start + 500]!r}"
        fields[name] = value
        at = field.end()
    assert stream[at : at + 2] == b"\r\n", f"this is no head: {stream[start : start + 500]!r}"
    at += 2
    body = b""
    if not (bodiless or status < 200 or status in {204, 304}):
        body, at = _body(stream, at, fields)
    return Reply(status, fields, _unpacked(body, fields), stream[start:at])


def _body(stream: bytes, at: int, fields: dict[str, str]) -> tuple[bytes, int]:
    if "transfer-encoding" in fields:
        assert fields["transfer-encoding"] == "chunked"
        assert "content-length" not in fields
        body = b""
        while True:
            if at == len(stream):
                raise BrokenOff
            size = _CHUNK.match(stream, at)
            assert size, f"this is no chunk: {stream[at : at + 100]!r}"
            end = size.end() + int(size[1], 16)
            assert stream[end : end + 2] == b"\r\n", "a chunk is cut short"
            body += stream[size.end() : end]
            at = end + 2
            if end == size.end():
                return body, at
    if "content-length" in fields:
        end = at + int(fields["content-length"])
        assert end <= len(stream), f"a body is cut short: {stream[at:]!r}"
        return stream[at:end], end
    assert fields.get("connection") == "close", "nobody can tell where this body ends"
    return stream[at:], len(stream)


def _unpacked(body: bytes, fields: dict[str, str]) -> bytes:
    match fields.get("content-encoding"):
        case "gzip":
            return zlib.decompress(body, wbits=31)
        case "zstd":
            return zstd.decompress(body)
        case coding:
            assert coding is None, coding
            return body


def check_reply(reply: Reply) -> None:
    """It is no failure of the server, and an error is a whole problem document."""
    status = reply.status
    assert status < 500 or status in DOCUMENTED_5XX, reply
    if status >= 400 and reply.body:
        assert reply.fields["content-type"] == "application/problem+json", reply
        problem = msgspec.json.decode(reply.body)
        further = {"index": int, "field": str, "current": int}
        assert set(problem) - set(further) == {"type", "title", "status", "detail", "code"}, reply
        assert all(isinstance(problem[name], further[name]) for name in set(problem) & set(further))
        assert (problem["status"], problem["title"]) == (status, HTTPStatus(status).phrase), reply
        assert all(isinstance(problem[name], str) for name in ("type", "detail", "code")), reply
    if status in {429, 503}:
        assert reply.fields["retry-after"].isdigit(), reply


def check_log(log: str) -> None:
    """The server has met nothing that it was not made for."""
    assert "Traceback" not in log, log[-5_000:]
    assert " ERROR" not in log, log[-5_000:]
    assert "internal" not in log, log[-5_000:]
