"""Running the application on a socket: uvicorn, its time limits and its signals."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ebus.config import Config
from ebus.http.app import create_app
from ebus.http.problems import MEDIA_TYPE, Problem
from ebus.http.tenancy import Tenancy

logger = logging.getLogger("ebus.http")

BACKLOG = 2_048


def listen(host: str, port: int) -> socket.socket:
    """Take a port; who connects waits for the start.

    Without a host: every interface, IPv4 and IPv6.
    Raises OSError when the port is taken or the host is not one of this machine.
    """
    if not host and socket.has_dualstack_ipv6():
        family, address = socket.AF_INET6, "::"
    else:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, address = found[0][0], str(found[0][4][0])
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
        taken.bind((address, port))
        # Two that have only been bound may share a port; connections wait for the start.
        taken.listen(BACKLOG)
    except BaseException:
        taken.close()
        raise
    return taken


def run(
    config: Config, taken: socket.socket, *, access_log: bool, started: Callable[[], None]
) -> None:
    """Serve until a signal says stop; `started` is called once connections are accepted.

    SIGINT or SIGTERM: no new connections, what is under way is finished within
    `config.shutdown_timeout_s`, every store is closed. A second signal ends the process at
    once, and so does one before the start is complete: what was acknowledged is on disk.
    Raises `EbusError` when the engine or a tenant cannot be opened.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config, taken, access_log, started))


async def _run(
    config: Config, taken: socket.socket, access_log: bool, started: Callable[[], None]
) -> None:
    _allow_many_files()
    tenancy = Tenancy(config)
    server = _Server(
        _Settings(
            config,
            create_app(config, tenancy),
            http=_Protocol,
            ws="none",
            lifespan="off",  # the stores outlive the server's last request, see below
            log_config=None,
            access_log=access_log,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=config.idle_timeout_s,
            timeout_graceful_shutdown=config.shutdown_timeout_s,
        ),
        started,
    )
    with server.capture_signals():
        await tenancy.start()
        try:
            await server.serve([taken])
        finally:
            await tenancy.stop()


def _allow_many_files() -> None:
    """Every open tenant takes several files and every connection one: ask for all there are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Settings(uvicorn.Config):
    """uvicorn's settings, and those of `_Protocol`."""

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read_timeout_s = config.read_timeout_s
        self.write_timeout_s = config.write_timeout_s
        self.max_head_bytes = config.limits.max_head_bytes


class _Server(uvicorn.Server):
    """uvicorn's server, told apart by what a signal does and by saying when it is up."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._call_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._call_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        if self.started and not self.should_exit:
            logger.info("Shutting down server...")
            self.should_exit = True
        else:
            os._exit(128 + number)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with what it lacks: bounds for the head of a request and for clients
    that idle or do not take their answer, and problem documents for what is not HTTP."""

    config: _Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._deaf = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # uvicorn's own would stop the timer of an idle connection for any byte; here only the
        # beginning of a request does, see `on_message_begin`.
        if self._deaf:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrades are ignored (RFC 9110, 7.8). But the parser has taken the rest for
            # another protocol: what follows must never be taken for a request.
            self._deaf = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._in_head:
            # A first piece may hold a body too: only a head that goes on is too large.
            if self._head_bytes > self.config.max_head_bytes:
                detail = f"The head may have at most {self.config.max_head_bytes} bytes"
                self._refuse(Problem(431, "head_too_large", detail))
            self._head_bytes += len(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all it has to say still gets its answer."""
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.more_body and not cycle.response_complete
        if answering:
            self.cycle.keep_alive = False
        return answering

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._head_bytes = 0
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header: it comes after the door has looked
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "bad_request", "This is no HTTP request that can be read"))

    def _refuse(self, problem: Problem) -> None:
        """Answer what never becomes a request, and close."""
        self._deaf = True
        if self.transport.is_closing():
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
        # To close would first wait for the client to take what it does not take.
        abort = self.transport.abort
        self._write_timer = self.loop.call_later(self.config.write_timeout_s, abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def _await_head(self) -> None:
        self._in_head = True
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(self.config.read_timeout_s, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
