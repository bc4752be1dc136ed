"""Streams of bytes that once were valid requests. The same seed makes the same stream."""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.hostile.shapes import CHUNKED, CHUNKS, EVENT, LENGTH, REFUSED, SERVED, get, post
from tests.hostile.talking import LAST

VALID = [
    get(),
    get(line=b"GET /events?from=1&to=5 HTTP/1.1"),
    get(b"Accept-Encoding: gzip, zstd", line=b"GET /events?from=1 HTTP/1.1"),
    get(line=b"GET /events/stream?from=1&batch_size=2 HTTP/1.1"),
    get(line=b"GET /events?type=T&stream_prefix=&last=2 HTTP/1.1"),
    get(b"Accept: text/event-stream", line=b"GET /events/stream?from=1 HTTP/1.1"),
    get(line=b"GET /streams HTTP/1.1"),
    get(line=b"GET /subscriptions/s HTTP/1.1"),
    get(line=b"GET /metrics HTTP/1.1"),
    get(line=b"GET /subscriptions/s/position HTTP/1.1"),
    get(line=b"GET /position HTTP/1.0"),
    get(line=b"OPTIONS /events HTTP/1.1"),
    post(LENGTH),
    post(LENGTH, b"Expect: 100-continue"),
    post(LENGTH, b"Connection: Upgrade", b"Upgrade: h2c"),
    post(CHUNKED, body=CHUNKS),
    post(CHUNKED, body=b"5;a=b\r\n%b\r\n10\r\n%b\r\n0\r\nX-T: 1\r\n\r\n" % (EVENT[:5], EVENT[5:])),
    post(b"Content-Length: 23", body=b"[%b]" % EVENT, line=b"POST /events/batch HTTP/1.1"),
    post(
        b"Content-Length: 14",
        body=b'{"position":1}',
        line=b"PUT /subscriptions/s/position HTTP/1.1",
    ),
]

SHORT = [shape for shape in REFUSED.values() if len(shape) < 2_000]
UNUSUAL = [shape for shape, _ in SERVED.values()]

SHARDS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b"%00", b"\xff"),
    *(b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n"),
    *(b"X-API-Key: KEY\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: x\r\n"),
    *(b"GET /position HTTP/1.1\r\n", b" HTTP/1.1", b"HTTP/1.1 200 OK\r\n", b"f" * 16),
    *(b"Expect: 100-continue\r\n", b"Trailer: X-API-Key\r\n", b"{", b"[" * 600, b"A" * 5_000),
    *(b"\xc0\xaf", b'"', b"\r\n "),
]


class Stream(NamedTuple):
    """What is sent on one connection. Where it is cut is chosen once the key is in it."""

    pieces: list[bytes]
    half_close: bool
    seed: int

    def places(self, length: int) -> list[int]:
        """Where it is cut, of so many bytes."""
        by = random.Random(self.seed)
        return [by.randrange(length) for _ in range(by.randrange(5))] if length else []


def hostile_stream(by: random.Random) -> Stream:
    """One to four requests with up to four faults; most end in one that asks for the end."""
    pool = by.choice([VALID, VALID, VALID, SHORT, UNUSUAL])
    pieces = by.choices(pool, k=by.randint(1, 4))
    at = by.randrange(len(pieces) + 1)
    pieces.insert(at, by.choice(VALID))
    text = b"".join(pieces)
    for _ in range(by.randrange(5)):
        text = _broken(by, text)
    half_close = by.random() < 0.7
    return Stream([text, b"" if half_close else LAST], half_close, by.randrange(2**32))


def _broken(by: random.Random, text: bytes) -> bytes:
    a, b = sorted(by.randrange(len(text) + 1) for _ in range(2))
    b = min(b, a + 200)
    kind = by.randrange(7)
    if kind == 0:  # cut off
        return text[:b] or text
    if kind == 1:  # left out
        return text[:a] + text[b:]
    if kind == 2:  # doubled
        return text[:b] + text[a:b] + text[b:]
    if kind == 3:  # of another request
        other = by.choice(VALID)
        return text[:a] + other[by.randrange(len(other)) :] + text[a:]
    if kind == 4:  # a byte
        return text[:a] + bytes([by.randrange(256)]) + text[a + 1 :]
    if kind == 5:  # a line moved
        lines = text.split(b"\r\n")
        line = lines.pop(by.randrange(len(lines)))
        lines.insert(by.randrange(len(lines) + 1), line)
        return b"\r\n".join(lines)
    return text[:a] + by.choice(SHARDS) + text[a:]
