"""Answers: whole ones, and arrays of events that are sent page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from litestar.types import Receive, Scope, Send

from ebus.core.store import WirePage
from ebus.http.leaving import disconnect

JSON = "application/json"


class Answer:
    """An answer that is in memory as a whole. A handler returns it, or it is called at once."""

    __slots__ = ("events", "fields", "parts", "size_bytes", "status")

    def __init__(
        self,
        *parts: bytes,
        status: int = 200,
        media_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        events: int = 0,
    ) -> None:
        self.status = status
        self.events = events
        """How many events were stored, or are in the body."""
        self.size_bytes = sum(map(len, parts))
        self.parts = parts
        """What the body is made of, not joined: large ones should not be copied."""
        self.fields = _fields(headers) if headers else []
        if status != 204:  # which has no body, and must not say how long it is
            self.fields.append((b"content-type", media_type.encode()))
            self.fields.append((b"content-length", b"%d" % self.size_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.fields})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.parts)


def event_array(page: WirePage, *, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON array of a single page."""
    parts = [b","] * (2 * len(page.chunks) + 1)
    parts[1::2] = page.chunks
    parts[0] = b"["
    parts[-1] = b"]"
    return Answer(*parts if page.chunks else (b"[]",), headers=headers, events=page.count)


class EventArray:
    """A JSON array of events, sent a page at a time, so that memory stays flat.

    A client whose pages fail half way loses its connection: an array that was cut short must
    never look whole.
    """

    def __init__(
        self,
        first_page: WirePage,
        further_pages: AsyncIterator[WirePage],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._first_page = first_page
        self._further_pages = further_pages
        self.status = 200
        self.events = 0
        """How many of them have gone out."""
        self.fields = [*_fields(headers or {}), (b"content-type", JSON.encode())]

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The body, a page at a time."""
        self.events += self._first_page.count
        yield b"[" + b",".join(self._first_page.chunks)
        async for page in self._further_pages:
            self.events += page.count
            if page.count:
                yield b"," + b",".join(page.chunks)
        yield b"]"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.fields})
        client_left = asyncio.ensure_future(disconnect(receive))
        try:
            async with aclosing(self.parts()) as parts:
                async for part in parts:
                    if client_left.done():
                        return
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            client_left.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _fields(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
