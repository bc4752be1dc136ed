"""The short way: from a whole request that arrived at once to its answer, without ASGI.

It answers what the door would answer, in the same words, and is taken where nothing is out of
the ordinary: `protocol` says where that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from time import perf_counter_ns
from typing import Protocol

import msgspec
from uvicorn.protocols.http.flow_control import FlowControl

from ebus.core.errors import StoreClosed
from ebus.http.answers import Answer, EventArray
from ebus.http.bodies import FREE_BODY_BYTES, Body
from ebus.http.credentials import Peer
from ebus.http.door import log_broken_answer
from ebus.http.endpoint import Call, Route
from ebus.http.figures import TenantFigures
from ebus.http.framing import Frame
from ebus.http.live import Tail
from ebus.http.problems import problem_of
from ebus.http.request_id import About, about
from ebus.http.roster import Entry
from ebus.http.tenancy import Tenancy

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}

MAX_JOINED_PIECES = 8


class Connection(Protocol):
    """What an exchange needs of the connection on which it takes place."""

    transport: asyncio.Transport
    flow: FlowControl
    client: Peer

    def key_digest(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The digest of the key that they carry. Raises `Problem` 401."""
        ...

    def default_fields(self) -> bytes:
        """The header lines of every answer."""
        ...

    def on_response_complete(self) -> None: ...


class Exchange:
    """A request and its answer. It stands where uvicorn expects a cycle of its own."""

    __slots__ = (
        "_begun",
        "_connection",
        "_headers",
        "_left",
        "_query",
        "_route",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    more_body = False

    def __init__(
        self,
        connection: Connection,
        route: Route,
        query: bytes,
        headers: Mapping[bytes, bytes],
    ) -> None:
        self._connection = connection
        self._route = route
        self._query = query
        self._headers = headers
        self._begun = False
        self._left: Callable[[], None] | None = None
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> Exchange:
        """What uvicorn sets when there is more of the body, or when the client has left."""
        return self

    def set(self) -> None:
        if self.disconnected:
            self.end_wait()

    def end_wait(self) -> None:
        """The client has left, or will say no more: nobody waits for events to come."""
        left, self._left = self._left, _has_left
        if left is not None:
            left()

    def when_left(self, left: Callable[[], None]) -> None:
        if self._left is _has_left:  # while the tenant was opened, or its store asked
            left()
        else:
            self._left = left

    async def run(self, tenancy: Tenancy, body: bytes) -> None:
        """Answer, whatever happens."""
        begun_ns = perf_counter_ns()
        tenant = large = entry = None
        try:
            route, headers, connection = self._route, self._headers, self._connection
            digest = connection.key_digest(headers)
            entry = tenancy.recognise(digest, headers.items(), connection.client)
            tenant = tenancy.admit_at_once(entry, route.method, route.path)
            if tenant is None:
                tenant = await tenancy.admit(entry)
            if len(body) > FREE_BODY_BYTES:
                large = Body(tenancy.bodies, tenant.name)
                large.grow(len(body))
            answer = await route.endpoint(Call(tenant, self._query, body, headers, self.when_left))
            if isinstance(answer, Answer):
                entry.figures.count(
                    route.operation,
                    answer.status,
                    begun_ns,
                    len(body),
                    answer.size_bytes,
                    answer.events,
                )
                self._send(answer)
            else:
                counts = _Counts(entry.figures, route.operation, begun_ns, len(body))
                if isinstance(answer, Tail):
                    await self._follow(answer, counts)
                else:
                    await self._send_array(answer, counts)
        except asyncio.CancelledError:  # the server's time to shut down is over
            self._fail(StoreClosed("the server stops"), tenancy, entry, begun_ns, body)
        except Exception as error:
            self._fail(error, tenancy, entry, begun_ns, body)
        finally:
            if large is not None:
                large.leave()
            if tenant is not None:
                tenancy.leave(tenant)

    def _fail(
        self,
        error: Exception,
        tenancy: Tenancy,
        entry: Entry | None,
        begun_ns: int,
        body: bytes,
    ) -> None:
        request = About.of(self._headers.items(), None if entry is None else entry.tenant.name)
        with about(request):
            if self._begun:
                log_broken_answer(error)
                self._connection.transport.close()
                return
            figures = tenancy.figures.nobody if entry is None else entry.figures
            problem = problem_of(error)
            figures.count_refusal(problem.code)
            answer = problem.answer(request.made_up)
            figures.count(
                self._route.operation, answer.status, begun_ns, len(body), answer.size_bytes, 0
            )
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        transport = self._connection.transport
        if not (self.disconnected or transport.is_closing()):
            pieces = [self._head(answer, b""), *answer.parts]
            if len(pieces) <= MAX_JOINED_PIECES:  # one copy is quicker than many buffers
                transport.write(b"".join(pieces))
            else:
                transport.writelines(pieces)
        self._complete()

    async def _send_array(self, answer: EventArray, counts: _Counts) -> None:
        transport, flow = self._connection.transport, self._connection.flow
        head = self._head(answer, b"transfer-encoding: chunked\r\n")
        counts.begin(answer.status)
        async with aclosing(answer.parts()) as parts:
            events = 0
            async for part in parts:
                if flow.write_paused:
                    await flow.drain()
                if self.disconnected or transport.is_closing():
                    return
                transport.writelines([head, b"%x\r\n" % len(part), part, b"\r\n"])
                head = b""
                counts.more(len(part), answer.events - events)
                events = answer.events
        transport.write(b"0\r\n\r\n")
        self._complete()

    async def _follow(self, tail: Tail, counts: _Counts) -> None:
        with tail.waiting():
            self._connection.transport.write(self._head(tail, b"transfer-encoding: chunked\r\n"))
            counts.begin(tail.status)
            tail.on_sent = counts.more
            await tail.run(_Sink(self, self._connection))
        if not (self.disconnected or self._connection.transport.is_closing()):
            self._connection.transport.write(b"0\r\n\r\n")
            self._complete()

    def _head(self, answer: Answer | EventArray | Tail, more: bytes) -> bytes:
        self._begun = True
        head = _STATUS_LINES[answer.status] + self._connection.default_fields()
        for name, value in answer.fields:
            head += b"%b: %b\r\n" % (name, value)
        if not self.keep_alive:
            more += b"connection: close\r\n"
        return b"%b%b\r\n" % (head, more)

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()


def _has_left() -> None:
    """Stands where the client has left already."""


class _Counts(msgspec.Struct, frozen=True):
    """Where an answer is counted that goes out bit by bit."""

    figures: TenantFigures
    operation: int
    begun_ns: int
    body_bytes: int

    def begin(self, status: int) -> None:
        self.figures.count(self.operation, status, self.begun_ns, self.body_bytes, 0, 0)

    def more(self, body_bytes: int, events: int) -> None:
        self.figures.count_more(self.operation, body_bytes, events)


class _Sink:
    """A connection as a tail sees it."""

    def __init__(self, exchange: Exchange, connection: Connection) -> None:
        self._exchange = exchange
        self._transport = connection.transport
        self._flow = connection.flow

    @property
    def is_full(self) -> bool:
        return self._flow.write_paused

    @property
    def is_gone(self) -> bool:
        return self._exchange.disconnected or self._transport.is_closing()

    def write(self, frame: Frame) -> None:
        self._transport.write(frame.chunk)

    def write_if_room(self, frame: Frame) -> bool:
        transport = self._transport
        if self._flow.write_paused or self._exchange.disconnected or transport.is_closing():
            return False
        transport.write(frame.chunk)
        return True

    async def drain(self) -> None:
        if self._flow.write_paused:
            await self._flow.drain()

    def when_left(self, left: Callable[[], None]) -> None:
        self._exchange.when_left(left)
