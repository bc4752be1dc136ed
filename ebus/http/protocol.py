"""HTTP/1.1 on one connection: uvicorn's protocol, with what it lacks.

Those are bounds for the head of a request and for clients that idle or do not take their
answer, problem documents for what is not HTTP, and a short way for the routes that carry the
load.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
from collections.abc import Iterable, Sized
from contextlib import suppress
from http import HTTPStatus
from termios import TIOCOUTQ
from typing import Any

import httptools
import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ebus.config import Config
from ebus.http.eager import EagerRun
from ebus.http.endpoint import Route
from ebus.http.exchange import Exchange
from ebus.http.problems import MEDIA_TYPE, Problem
from ebus.http.tenancy import Tenancy

_EXTRAORDINARY = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
_ORDINARY_MEDIA_TYPES = frozenset({b"application/json", b"application/x-www-form-urlencoded"})


class Settings(uvicorn.Config):
    """uvicorn's settings, and those of `EbusProtocol`, which all connections share."""

    def __init__(
        self,
        config: Config,
        tenancy: Tenancy,
        routes: Iterable[Route],
        app: ASGIApp,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, http=EbusProtocol, **kwargs)
        self.tenancy = tenancy
        self.routes = {(route.method.encode(), route.path.encode()): route for route in routes}
        self.compresses = config.enable_gzip
        self.read_timeout_s = config.read_timeout_s
        self.write_timeout_s = config.write_timeout_s
        self.max_head_bytes = config.limits.max_head_bytes
        self.max_body_bytes = config.limits.max_body_bytes
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_fields = b""

    def fields(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """These headers as lines. uvicorn makes a new list of them every second."""
        if headers is not self._default_headers:
            self._default_headers = headers
            varies = [(b"vary", b"accept-encoding")] if self.compresses else []
            lines = [b"%b: %b\r\n" % header for header in (*headers, *varies)]
            self._default_fields = b"".join(lines)
        return self._default_fields


class _Flow(FlowControl):
    """Reads no further while requests of the connection wait for the answers before theirs.

    Without it, whoever sends requests quicker than they are answered fills the memory.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class EbusProtocol(HttpToolsProtocol):
    """One connection."""

    config: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._deaf = False
        self._has_run = False
        self._short_way: Route | None = None
        self._query = b""
        self._body = b""
        self._idle_since_s: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._stop_head_timer()
        self._stop_write_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._has_run = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrades are ignored (RFC 9110, 7.8). But the parser has taken the rest for
            # another protocol: what follows must never be taken for a request.
            self._deaf = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._short_way is not None:
            self._take_the_long_way()
        if self._in_head:
            # A first piece may hold a body too: only a head that goes on is too large.
            if self._head_bytes > self.config.max_head_bytes:
                detail = f"The head may have at most {self.config.max_head_bytes} bytes"
                self._refuse(Problem(431, "head_too_large", detail))
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all it has to say still gets its answer."""
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.more_body and not cycle.response_complete
        if answering:
            self.cycle.keep_alive = False
        return answering

    def on_message_begin(self) -> None:
        self._idle_since_s = None
        self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header: it comes after the door has looked
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._stop_head_timer()
        path, _, self._query = self.url.partition(b"?")
        self._short_way = self.config.routes.get((self.parser.get_method(), path))
        if self._short_way is None or not self._is_ordinary():
            self._take_the_long_way()

    def _is_ordinary(self) -> bool:
        """Whether the request that begins may go the short way, if it arrives at once."""
        headers = dict(self.headers)
        return (
            len(headers) == len(self.headers)
            and (self.cycle is None or self.cycle.response_complete)
            and b"#" not in self.url
            and not self.access_log
            and not self.flow.write_paused
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() == "1.1"
            and headers.get(b"content-type", b"application/json") in _ORDINARY_MEDIA_TYPES
            and headers.get(b"connection", b"keep-alive") == b"keep-alive"
            and headers.keys().isdisjoint(_EXTRAORDINARY)
            and not (self.config.compresses and b"accept-encoding" in headers)
        )

    def _take_the_long_way(self) -> None:
        """Hand the request that has begun to ASGI."""
        self._short_way = None
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()
        if self._body:
            body, self._body = self._body, b""
            super().on_body(body)

    def on_body(self, body: bytes) -> None:
        if self._short_way is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self._short_way is not None and len(self._body) > self.config.max_body_bytes:
            self._take_the_long_way()
        if self._short_way is None:
            super().on_message_complete()
            return
        route, self._short_way = self._short_way, None
        body, self._body = self._body, b""
        exchange = Exchange(self, route, self._query, self.headers, body)
        self.cycle = exchange  # type: ignore[assignment]
        run = EagerRun(exchange.run(self.config.tenancy), self.tasks, self.loop)
        if self._has_run:  # one for each turn of the loop: others wait for theirs
            self.loop.call_soon(run.start)
        else:
            self._has_run = True
            run.start()

    def default_fields(self) -> bytes:
        """The header lines of every answer."""
        return self.config.fields(self.server_state.default_headers)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._in_head:
            self._idle_since_s = self.loop.time()
            if self._idle_timer is None:
                self._close_when_idle(self.timeout_keep_alive)
        self.flow.resume_reading()

    def _close_when_idle(self, seconds: float) -> None:
        """Look in so many seconds whether the client is idle. A timer a request would cost."""
        self._idle_timer = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since_s is None:
            return  # the next answer begins the wait anew
        rest_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if rest_s > 0:
            self._close_when_idle(rest_s)
        elif not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "bad_request", "This is no HTTP request that can be read"))

    def _refuse(self, problem: Problem) -> None:
        """Answer what never becomes a request, and close."""
        self._deaf = True
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False  # the answer under way must not be mistaken for this one
            return
        if self.pipeline:
            self.transport.close()
            return
        body = problem.body()
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_progress()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def _await_progress(self) -> None:
        wait_s = self.config.write_timeout_s
        self._write_timer = self.loop.call_later(wait_s, self._abort_if_stuck, self._unsent())

    def _abort_if_stuck(self, unsent: int) -> None:
        if self._unsent() < unsent:  # slow, but it takes what it is sent
            self._await_progress()
        else:  # to close would first wait for the client to take what it does not take
            self.transport.abort()

    def _unsent(self) -> int:
        """Bytes that the client has not taken: here, and as far as that is known in the kernel."""
        queued = bytes(4)
        with suppress(OSError):
            queued = fcntl.ioctl(self.transport.get_extra_info("socket"), TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.config.read_timeout_s, self._close_if_late)

    def _close_if_late(self) -> None:
        self._head_timer = None
        if self.pipeline or not (self.cycle is None or self.cycle.response_complete):
            self._await_head()  # it is not read on while an answer is due
        else:
            self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
