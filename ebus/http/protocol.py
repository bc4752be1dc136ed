"""HTTP/1.1 on one connection: uvicorn's protocol, with what it lacks.

Those are bounds for the head of a request, for the connections, and for clients that idle or do
not take their answer, problem documents for what is not HTTP, and a short way for the routes that
carry the load.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
import sys
from collections.abc import Iterable, Mapping, Sized
from contextlib import suppress
from hmac import compare_digest
from http import HTTPStatus
from termios import TIOCOUTQ
from typing import Any

import httptools
import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ebus.config import Config
from ebus.http.connections import SPARE_WAIT_S, Connections, Seat, too_many_connections
from ebus.http.credentials import digest_of_key
from ebus.http.eager import EagerRun
from ebus.http.endpoint import Route
from ebus.http.exchange import Exchange
from ebus.http.long_way import served_on, spare
from ebus.http.problems import MEDIA_TYPE, Problem
from ebus.http.tenancy import Tenancy

_EXTRAORDINARY = frozenset({b"expect", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_ORDINARY_MEDIA_TYPES = frozenset({b"application/json", b"application/x-www-form-urlencoded"})

_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[A-Fa-f0-9:.]+\])(?::[0-9]*)?")
"""A host as a URI has it, or an address in brackets, and a port (RFC 3986, 3.2)."""

_VERSIONS = frozenset({"1.0", "1.1"})
"""The parser lets through 0.9 and 2.0 too, which look otherwise, and answers would as well."""

_NO_HOST = b" "
"""What no host is."""


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
        self.max_head_fields = config.limits.max_head_fields
        self.max_pipelined_requests = config.limits.max_pipelined_requests
        self.connections = Connections(config.limits.max_connections, tenancy.bodies)
        tenancy.count_connections = self.connections.count
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


class _EnoughWaits(Exception):
    """So many requests of a connection wait that no more is read of it.

    The client sends the others again, on another one (RFC 9112, 9.3.2).
    """


class EbusProtocol(HttpToolsProtocol):
    """One connection."""

    config: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._routes = self.config.routes
        self._is_spare = False
        self._in_head = True
        self._head_bytes = 0
        self._piece_bytes = 0
        self._in_body = False  # of a request that goes the long way
        self._body_came = False
        self._bodiless_bytes = 0
        self._deaf = False
        self._has_ended = False
        self._wants_upgrade = False
        self._host = _NO_HOST
        self._short_way: Route | None = None
        self._query = b""
        self._fields: dict[bytes, bytes] = {}
        self._body = b""
        self._key = b""
        self._key_digest = b""
        self._idle_since_s: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        seat = self.config.connections.seat(self, self.loop.time())
        if seat is Seat.NONE:
            self._refuse(too_many_connections())
            return
        if seat is Seat.SPARE:
            self._is_spare = True
            self._routes = {}  # all of it goes the long way
            self.app = spare(self.app, self.config.tenancy.figures.nobody.count_refusal)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self.config.connections.leave(self)
        self._stop_head_timer()
        self._stop_write_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._has_ended = False
        self._piece_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_unreadable(error)
        else:
            self._look_at_what_goes_on()

    def _look_at_what_goes_on(self) -> None:
        """A request of which more is to come."""
        if self._short_way is not None:
            self._take_the_long_way()
        if self._in_head:
            self._bound_head()
        elif self._in_body:
            self._bound_what_is_no_body()

    def _bound_head(self) -> None:
        """Look at a head of which more is to come."""
        is_too_large = self._head_bytes > self.config.max_head_bytes
        self._head_bytes += self._piece_bytes
        if not self._has_ended:  # or else some of the piece belongs to the request before
            is_too_large = self._head_bytes > self.config.max_head_bytes
        if is_too_large or len(self.headers or ()) > self.config.max_head_fields:
            self._refuse(self._head_too_large())
        elif self._head_timer is None:
            self._await_head()

    def _check_whole_head(self) -> None:
        """Raises `Problem` 431. Only what came in one small piece need not be counted."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.config.max_head_bytes or len(self.headers) > self.config.max_head_fields:
            raise self._head_too_large()

    def _head_too_large(self) -> Problem:
        most_bytes, most_fields = self.config.max_head_bytes, self.config.max_head_fields
        detail = f"The head may have at most {most_bytes} bytes and {most_fields} headers"
        return Problem(431, "head_too_large", detail)

    def _bound_what_is_no_body(self) -> None:
        """Bound what surrounds the chunks of a body: the parser keeps trailers in memory."""
        if self._body_came:
            self._body_came = False
            self._bodiless_bytes = 0
        else:
            self._bodiless_bytes += self._piece_bytes
            if self._bodiless_bytes > self.config.max_head_bytes:
                self._refuse(self._head_too_large())

    def _refuse_unreadable(self, error: httptools.HttpParserError) -> None:
        self._short_way = None
        self._body = b""
        if isinstance(error.__context__, Problem):  # raised below, while the parser called
            self._refuse(error.__context__)
        elif isinstance(error.__context__, _EnoughWaits):
            self._deaf = True
            self.cycle.keep_alive = False
        else:
            self.send_400_response("")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again, as one that asks for no other protocol (RFC 9110, 7.8).

        The parser would not read its body, and has taken what follows for that protocol.
        """
        if not self._wants_upgrade:  # CONNECT, where what follows is never for us
            self._deaf = True
            self.cycle.keep_alive = False
            return
        self._wants_upgrade = False
        fields = [field for field in self.headers if field[0] not in {b"connection", b"upgrade"}]
        fields.append((b"connection", b"close"))
        lines = [b"%b: %b\r\n" % field for field in fields]
        version = self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(b"".join([line, *lines, b"\r\n", rest]))
        except httptools.HttpParserError as error:
            self._refuse_unreadable(error)
        else:
            self._look_at_what_goes_on()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all it has to say still gets its answer."""
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.more_body and not cycle.response_complete
        if answering:
            self.cycle.keep_alive = False
            exchange: object = self.cycle
            if isinstance(exchange, Exchange):
                exchange.end_wait()
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
        if self._piece_bytes > self.config.max_head_bytes or self._head_bytes:
            self._check_whole_head()
        path, _, self._query = self.url.partition(b"?")
        self._short_way = self._routes.get((self.parser.get_method(), path))
        if self._short_way is None or not self._is_ordinary():
            self._short_way = None
            self._begin_the_long_way()

    def _is_ordinary(self) -> bool:
        """Whether the request that begins may go the short way, if it arrives at once."""
        headers = self._fields = dict(self.headers)
        connection = headers.get(b"connection")
        return (
            len(headers) == len(self.headers) <= self.config.max_head_fields
            and ((host := headers.get(b"host")) == self._host or self._is_host(host))
            and (self.cycle is None or self.cycle.response_complete)
            and b"#" not in self.url
            and not self.access_log
            and not self.flow.write_paused
            and self.parser.should_keep_alive()  # 1.0 does not, unless it says so
            and (
                connection is None
                or (connection == b"keep-alive" and self.parser.get_http_version() == "1.1")
            )
            and headers.get(b"content-type", b"application/json") in _ORDINARY_MEDIA_TYPES
            and headers.keys().isdisjoint(_EXTRAORDINARY)
            and not (self.config.compresses and b"accept-encoding" in headers)
        )

    def _begin_the_long_way(self) -> None:
        """Look at what the short way has no eye for."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._wants_upgrade = True  # and is read again, see `_ignore_upgrade`
            return
        self._check_whole_head()
        if self.parser.get_http_version() not in _VERSIONS:
            raise Problem(400, "bad_request", "Speak HTTP/1.1")
        self._check_host()
        self._check_transfer_codings()
        if len(self.pipeline) >= self.config.max_pipelined_requests:
            raise _EnoughWaits
        self._take_the_long_way()

    def _check_host(self) -> None:
        """Raises `Problem` 400 unless there is one host, as RFC 9112, 3.2 has it."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts and self.parser.get_http_version() == "1.0":
            return
        if len(hosts) != 1 or not self._is_host(hosts[0]):
            raise Problem(400, "bad_request", "Send one Host header, with a host and its port")

    def _check_transfer_codings(self) -> None:
        """Raises `Problem` 400 for a coding that would not be undone (RFC 9112, 6.1)."""
        values = [value for name, value in self.headers if name == b"transfer-encoding"]
        codings = [coding.strip().lower() for coding in b",".join(values).split(b",")]
        if values and [coding for coding in codings if coding] != [b"chunked"]:
            raise Problem(400, "bad_request", "The one Transfer-Encoding that works is chunked")

    def _is_host(self, host: bytes | None) -> bool:
        """Whether it can be one. The next request will have the same, and need not ask."""
        if host is None or not _HOST.fullmatch(host):
            return False
        self._host = host
        return True

    def _take_the_long_way(self) -> None:
        """Hand the request that has begun to ASGI."""
        self._short_way = None
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()  # raises for a target that is no URL: there is no body then
        self._in_body = True
        self._body_came = True  # or if not, what came is the head
        if self._body:
            body, self._body = self._body, b""
            super().on_body(body)

    def on_body(self, body: bytes) -> None:
        if self._short_way is None:
            self._body_came = True
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self._short_way is not None and len(self._body) > self.config.max_body_bytes:
            self._take_the_long_way()
        if self._short_way is None:
            self._in_body = False
            self._has_ended = True
            if not self._wants_upgrade:
                super().on_message_complete()
            return
        route, self._short_way = self._short_way, None
        body, self._body = self._body, b""
        exchange = Exchange(self, route, self._query, self._fields)
        self.cycle = exchange  # type: ignore[assignment]
        run = EagerRun(exchange.run(self.config.tenancy, body), self.tasks, self.loop)
        if self._has_ended:  # one for each turn of the loop: others wait for theirs
            self.loop.call_soon(run.start)
        else:
            self._has_ended = True
            run.start()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_spare:
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, served_on(cycle, app))  # type: ignore[arg-type]

    def key_digest(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The digest of the key that they carry: mostly that of the connection's last request.

        Keys are compared in a time that says nothing of them: a proxy may send what several
        clients ask on one connection. Raises `Problem` 401.
        """
        key = headers.get(b"x-api-key")
        if not (key and compare_digest(key, self._key)):
            self._key_digest = digest_of_key(headers.items())
            self._key = key or b""
        return self._key_digest

    def default_fields(self) -> bytes:
        """The header lines of every answer."""
        return self.config.fields(self.server_state.default_headers)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._await_progress_to_end()
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
            self._close()

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
        has_begun = self._in_body and (cycle.response_started or cycle.response_complete)
        if self.pipeline or has_begun:
            self._close()
            return
        self.config.tenancy.figures.nobody.count_refusal(problem.code)
        body = problem.body()
        fields = {**problem.headers, "Connection": "close"}
        head = (
            f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            + "".join(f"{name.lower()}: {value}\r\n" for name, value in fields.items())
        )
        self.transport.write(f"{head}\r\n".encode() + body)
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_progress()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()
        if self.transport.is_closing():
            self._await_progress_to_end()

    def _close(self) -> None:
        """Close once the client has taken what it was sent, or stops taking it."""
        self.transport.close()
        self._await_progress_to_end()

    def _await_progress_to_end(self) -> None:
        if self._write_timer is None and self.transport.get_write_buffer_size():
            self._await_progress()

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

    @property
    def has_asked(self) -> bool:
        """Whether a whole head of a request has ever come."""
        return self.cycle is not None

    def idle_since_s(self) -> float | None:
        """Since when the server waits for a request; None while one is under way."""
        if self.pipeline or not (self.cycle is None or self.cycle.response_complete):
            return None
        if self._head_timer is not None:
            return self._head_timer.when() - self._head_wait_s
        return self._idle_since_s

    def make_room(self) -> None:
        """Close at once."""
        self._deaf = True
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def _head_wait_s(self) -> float:
        wait_s = self.config.read_timeout_s
        return min(wait_s, SPARE_WAIT_S) if self._is_spare else wait_s

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_wait_s, self._close_if_late)

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
