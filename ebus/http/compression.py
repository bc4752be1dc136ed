"""Compression, where a client asks for it and the answer is large enough to be worth it.

What is asked for is read by RFC 9110, 12.5.3; zlib and zstd do the work. It stands in front of
the door, so that whatever answers, an error too, goes out by the same rules.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Iterable
from typing import Protocol

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPResponseStartEvent, Message, Receive, Scope, Send

from ebus.http.weights import weighted

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIN_COMPRESSED_BYTES = 1_024
"""Below this, one packet carries the answer either way."""

MAX_INLINE_BYTES = 64 * 1_024
"""What the event loop compresses itself, in 0.3 ms at most; more of it goes to a thread."""

_BODILESS_STATUSES = frozenset({204, 304})

Fields = list[tuple[bytes, bytes]]


def compress(app: ASGIApp) -> ASGIApp:
    """The application, with its answers compressed for the clients that accept it.

    A body is compressed from `MIN_COMPRESSED_BYTES` on. One that comes in parts leaves in
    parts, and one that breaks off leaves a frame that has no end.
    """

    async def compressed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        # An answer to HEAD has no body to compress, and its length is said of another one.
        coding = None if scope["method"] == "HEAD" else negotiate(scope["headers"])
        answer = _CompressedAnswer(coding, send)
        try:
            await app(scope, receive, answer.send)
        finally:
            await answer.let_go()

    return compressed


def negotiate(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The coding that a client likes best of those there are, or None for none.

    Of equal weights zstd goes before gzip, and both before no coding: the smaller answer for
    less CPU. `*` stands for whatever is not named. An entry that is malformed refuses what it
    names. A client that refuses everything gets the answer as it is, as is allowed.
    """
    weights: dict[str, float] = {}
    for name, value in headers:
        if name == b"accept-encoding":
            weights |= weighted(value, with_parameters=False)
    unnamed = weights.get("*", 0.0)
    best = max(_CODECS, key=lambda coding: weights.get(coding, unnamed))
    weight = weights.get(best, unnamed)
    return best if weight > 0 and weight >= weights.get("identity", unnamed) else None


class _Codec(Protocol):
    """Makes one frame, in parts. Not for two threads at a time."""

    def part(self, body: bytes) -> bytes:
        """All of what has been put in, so that the client can unpack it now."""
        ...

    def last(self, body: bytes) -> bytes:
        """The same, and the end of the frame."""
        ...


class _Zstd:
    """Level 1: on events, the next ones take longer for nothing or next to nothing."""

    def __init__(self) -> None:
        self._frame = zstd.ZstdCompressor(1)

    def part(self, body: bytes) -> bytes:
        return self._frame.compress(body, zstd.ZstdCompressor.FLUSH_BLOCK)

    def last(self, body: bytes) -> bytes:
        return self._frame.compress(body, zstd.ZstdCompressor.FLUSH_FRAME)


class _Gzip:
    """Level 1: the higher ones cost two to three times the CPU for a fifth of the size."""

    def __init__(self) -> None:
        self._frame = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)  # 16: gzip, not zlib

    def part(self, body: bytes) -> bytes:
        return self._frame.compress(body) + self._frame.flush(zlib.Z_SYNC_FLUSH)

    def last(self, body: bytes) -> bytes:
        return self._frame.compress(body) + self._frame.flush()


_CODECS: dict[str, type[_Codec]] = {"zstd": _Zstd, "gzip": _Gzip}
"""By the name of the coding; the better one first."""


class _CompressedAnswer:
    """One answer on its way out.

    Its head waits, with fewer than `MIN_COMPRESSED_BYTES` of its body, until it is known
    whether the rest is worth compressing: the head must say so. One that is not to be buffered
    is compressed from its first byte on.
    """

    __slots__ = ("_codec", "_coding", "_head", "_held", "_send")

    def __init__(self, coding: str | None, send: Send) -> None:
        self._coding = coding
        self._send = send
        self._head: HTTPResponseStartEvent | None = None
        self._held = b""
        self._codec: _Codec | None = None

    async def send(self, message: Message) -> None:
        """What the application calls. It waits for the client as `send` does."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            body, more = message.get("body", b""), message.get("more_body", False)
            if self._head is not None:
                await self._decide(self._head, self._held + body, more)
            elif self._codec is not None:
                await self._send_body(await _pack(self._codec, body, more), more)
            else:
                await self._send(message)
        else:
            await self.let_go()
            await self._send(message)

    async def let_go(self) -> None:
        """Send what waits, uncompressed: no more may come.

        An answer that broke off this early looks broken, then, as it would by itself.
        """
        if self._head is not None:
            await self._send_head(self._head)
            await self._send_body(self._held, True)

    async def _begin(self, head: HTTPResponseStartEvent) -> None:
        fields = list(head["headers"])
        if head["status"] in _BODILESS_STATUSES or _has(fields, b"content-encoding"):
            await self._send(head)
            return
        varying: HTTPResponseStartEvent = {**head, "headers": _with_vary(fields)}
        if self._coding is None:
            await self._send(varying)
        elif _has(fields, b"x-accel-buffering"):  # what comes must go out, however small it is
            self._codec = _CODECS[self._coding]()
            coding = (b"content-encoding", self._coding.encode())
            await self._send({**varying, "headers": [*varying["headers"], coding]})
        else:
            self._head = varying

    async def _decide(self, head: HTTPResponseStartEvent, body: bytes, more: bool) -> None:
        assert self._coding is not None
        if len(body) < MIN_COMPRESSED_BYTES:
            self._held = body
            if not more:
                await self._send_head(head)
                await self._send_body(body, False)
            return
        codec = _CODECS[self._coding]()
        packed = await _pack(codec, body, more)
        if not more and len(packed) >= len(body):
            await self._send_head(head)
            await self._send_body(body, False)
            return
        fields = [field for field in head["headers"] if field[0] != b"content-length"]
        fields.append((b"content-encoding", self._coding.encode()))
        if not more:
            fields.append((b"content-length", b"%d" % len(packed)))
        self._codec = codec
        await self._send_head({**head, "headers": fields})
        await self._send_body(packed, more)

    async def _send_head(self, head: HTTPResponseStartEvent) -> None:
        self._head = None
        await self._send(head)

    async def _send_body(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


async def _pack(codec: _Codec, body: bytes, more: bool) -> bytes:
    pack = codec.part if more else codec.last
    if len(body) <= MAX_INLINE_BYTES:
        return pack(body)
    return await asyncio.to_thread(pack, body)  # both libraries release the lock meanwhile


def _has(fields: Fields, name: bytes) -> bool:
    return any(field == name for field, _ in fields)


def _with_vary(fields: Fields) -> Fields:
    """Tell caches that another client may get another answer (RFC 9110, 12.5.5)."""
    varies = [value for name, value in fields if name == b"vary"]
    named = {part.strip().lower() for value in varies for part in value.split(b",")}
    if named & {b"accept-encoding", b"*"}:
        return fields
    others = [field for field in fields if field[0] != b"vary"]
    return [*others, (b"vary", b", ".join([*varies, b"accept-encoding"]))]
