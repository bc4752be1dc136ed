"""Running the application on a socket: uvicorn, its time limits and its signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import msgspec
import uvloop

from ebus.config import Config
from ebus.core.errors import EbusError
from ebus.http.app import create_app
from ebus.http.connections import MAX_SPARE_CONNECTIONS
from ebus.http.protocol import Settings
from ebus.http.reload import report_nothing_to_read
from ebus.http.reload_alone import Take
from ebus.http.roster import Counters, Roster
from ebus.http.routes import event_routes
from ebus.http.stopping import StoppableServer
from ebus.http.tenancy import Tenancy

if TYPE_CHECKING:
    from ebus.http.traces import Traces

logger = logging.getLogger("ebus.http")

BACKLOG = 2_048

SWITCH_INTERVAL_S = 0.000_5

CLOSE_PATIENCE_S = 10.0
"""At least so long a stop waits for the next tenant to be closed, once nobody is served."""

MANY_KEYS = 1_000
"""So many cost the garbage collector more than what a reload may leave uncollected for good."""

FILES_PER_TENANT = 7
"""The database and its WAL, over up to three connections, and the WAL's index."""

OTHER_FILES = 128 + MAX_SPARE_CONNECTIONS
"""Those of the process itself, and connections that are refused or about to be closed."""


def listen(host: str, port: int, *, workers: int = 1) -> list[socket.socket]:
    """Take a port, once for each worker; who connects waits for the start.

    Without a host: every interface, IPv4 and IPv6. The kernel spreads connections over the
    workers. Raises OSError when the port is taken or the host is not one of this machine.
    """
    first = _listen(host, port, shared=False)
    if workers == 1:
        return [first]
    port = first.getsockname()[1]  # nobody else has it, which a shared socket does not tell
    first.close()
    return [_listen(host, port, shared=True) for _ in range(workers)]


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
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
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
    config: Config,
    taken: socket.socket,
    *,
    access_log: bool,
    started: Callable[[], None],
    counters: Counters | None = None,
    lifeline: int | None = None,
    place: int = 0,
    reloading: Callable[[Tenancy, Take], Reloads] | None = None,
) -> None:
    """Serve until a signal says stop; `started` is called once connections are accepted.

    `lifeline` is a worker's: a descriptor that can be read once there is nobody any more who
    would tell it to stop, `place` which worker it is. `counters` are those that all workers share.
    `reloading` makes what reads the config again; without it there is none to read.

    SIGINT or SIGTERM: no new connections, what is under way is finished within
    `config.shutdown_timeout_s`, every store is closed, as far as the storage answers. A second
    signal ends the process at once, and so does one before the start is complete: what was
    acknowledged is on disk.
    SIGHUP, which may have been blocked until then: the config is read again.
    Raises `EbusError` when the engine or a tenant cannot be opened.
    """
    # Threads that commit ask for the interpreter while the loop holds it, and the other way
    # round; how long they wait is Python's switch interval, of 5 ms unless told otherwise.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = fit_open_files(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tenancy = Tenancy(config, counters, worker=place)

        def say_started() -> None:
            started()
            if place == 0:
                tenancy.worth.say()

        runner.run(_run(config, tenancy, taken, access_log, say_started, lifeline, reloading))


async def _run(
    config: Config,
    tenancy: Tenancy,
    taken: socket.socket,
    access_log: bool,
    started: Callable[[], None],
    lifeline: int | None,
    reloading: Callable[[Tenancy, Take], Reloads] | None,
) -> None:
    app = create_app(config, tenancy)
    routes = event_routes(config, tenancy.live)
    traces = make_traces(config)
    if traces is not None:
        app, routes = traces.around(app), []  # none may go the short way, where there are no spans
    settings = Settings(
        config,
        tenancy,
        routes,
        app,
        ws="none",
        lifespan="off",  # the stores outlive the server's last request, see below
        log_config=None,
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=config.idle_timeout_s,
        timeout_graceful_shutdown=config.shutdown_timeout_s,
    )
    server = StoppableServer(settings, started, lifeline, tenancy.live)

    async def take(roster: Roster) -> None:
        limits = fit_open_files(roster.config).limits
        settings.connections.bound(limits.max_connections)
        await tenancy.take(roster, max_open=limits.max_open_tenants)
        if len(roster.entries) >= MANY_KEYS:
            gc.freeze()  # for the same reason as at start

    with server.capture_signals():
        await tenancy.start()
        try:
            reloads = reloading(tenancy, take) if reloading else None
            if reloads is not None and tenancy.administration is not None:
                tenancy.administration.follow = reloads.follow
            with _reloads(reloads):
                await server.serve([taken])
        finally:
            patience_s = max(config.shutdown_timeout_s, CLOSE_PATIENCE_S)
            if not await tenancy.stop(patience_s=patience_s):
                os._exit(1)  # threads wait for the engine, and Python would wait for them
            if traces is not None:
                await asyncio.to_thread(traces.close)


class TracesNotInstalled(EbusError, ImportError):
    """Traces are asked for, and what makes them is not there."""

    code = "traces_not_installed"


def make_traces(config: Config) -> Traces | None:
    """None when nobody wants any. Raises `TracesNotInstalled`."""
    if not config.traces:
        return None
    try:
        from ebus.http.traces import OtelTraces  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TracesNotInstalled(
            f"OTEL_TRACES_EXPORTER=otlp needs {error.name}, which is not installed: "
            "pip install 'ebus[otel]'"
        ) from error
    return OtelTraces()


@contextmanager
def _reloads(reloads: Reloads | None) -> Iterator[None]:
    """Have SIGHUP ask for a reload, from here to the end."""
    loop = asyncio.get_running_loop()
    if reloads is None:
        loop.add_signal_handler(signal.SIGHUP, report_nothing_to_read)
    else:
        reloads.begin()
        loop.add_signal_handler(signal.SIGHUP, reloads.hang_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        # Blocked and not left to the system, which would end the process in the midst of its end.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        if reloads is not None:
            reloads.end()


def fit_open_files(config: Config) -> Config:
    """Ask for all the files that this process may open, and bound what does not fit.

    Every open tenant takes several files, and every connection one. Where they are too few for
    both, each gets at least half, and what the other leaves.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(config.limits.max_open_tenants, len(config.tenants))
    connections = config.limits.max_connections
    room = max(0, allowed - OTHER_FILES)
    if allowed == resource.RLIM_INFINITY or room >= wanted * FILES_PER_TENANT + connections:
        return config
    of_tenants = min(wanted * FILES_PER_TENANT, max(room // 2, room - connections))
    tenants = max(1, of_tenants // FILES_PER_TENANT)
    fitting = max(1, min(connections, room - tenants * FILES_PER_TENANT))
    logger.warning(
        "this process may open %d files, which is enough for %d open tenants and %d connections, "
        "and not for %d and %d; raise the limit (ulimit -n, LimitNOFILE=)",
        allowed,
        tenants,
        fitting,
        wanted,
        connections,
    )
    limits = msgspec.structs.replace(
        config.limits, max_open_tenants=tenants, max_connections=fitting
    )
    return msgspec.structs.replace(config, limits=limits)


class Reloads(Protocol):
    """What reads the config again while the server runs. For the loop."""

    def begin(self) -> None: ...

    def hang_up(self) -> None:
        """Somebody asks for it."""
        ...

    def follow(self) -> None:
        """The registry has changed."""
        ...

    def end(self) -> None: ...
