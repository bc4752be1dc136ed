"""The bounds of a server that only show from inside: what it holds, and what it lets go."""

from __future__ import annotations

import asyncio
import math
import resource
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import msgspec
import pytest
from uvicorn.server import ServerState

from ebus.config import Config, load_config
from ebus.http.app import create_app
from ebus.http.bodies import FREE_BODY_BYTES, Bodies, Body
from ebus.http.connections import Connections, Seat
from ebus.http.problems import Problem
from ebus.http.protocol import EbusProtocol, Settings
from ebus.http.routes import event_routes
from ebus.http.server import FILES_PER_TENANT, OTHER_FILES, fit_open_files
from ebus.http.tenancy import Tenancy
from ebus.http.wire import read_body
from tests.http.conftest import write_config

KEY = "k" * 40
KIB = 1024

P = ParamSpec("P")


class Wire(asyncio.Transport):
    """A connection whose client takes nothing while it is `stuck`."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.stuck = False
        self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.stuck else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _NoSocket() if name == "socket" else None

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _NoSocket:
    def fileno(self) -> int:
        raise OSError

    def getpeername(self) -> None:
        return None

    def getsockname(self) -> None:
        return None


class Inside:
    """A server in this process, without sockets unless it is told to `listen`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bodies = settings.tenancy.bodies
        self._state = ServerState()

    def protocol(self) -> EbusProtocol:
        return EbusProtocol(
            config=self.settings,
            server_state=self._state,
            app_state={},
            _loop=asyncio.get_running_loop(),
        )

    def connect(self) -> tuple[EbusProtocol, Wire]:
        protocol = self.protocol()
        wire = Wire()
        protocol.connection_made(wire)
        return protocol, wire

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        """Serve on a port, which it says."""
        loop = asyncio.get_running_loop()
        async with await loop.create_server(self.protocol, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]


def config_of(directory: Path, *, tenants: int = 1, **settings: Any) -> Config:
    named = [{"name": f"t{number}", "api_key": KEY + str(number)} for number in range(tenants)]
    write_config(directory / "tenants.yaml", {"engine": "memory", "tenants": named, **settings})
    return load_config(str(directory / "tenants.yaml"), {})


@asynccontextmanager
async def inside(
    directory: Path, *, enable_gzip: bool = False, **limits: int
) -> AsyncIterator[Inside]:
    config = config_of(directory, limits=limits)
    config = msgspec.structs.replace(config, write_timeout_s=0.05, enable_gzip=enable_gzip)
    tenancy = Tenancy(config)
    await tenancy.start()
    app = create_app(config, tenancy)
    settings = Settings(
        config,
        tenancy,
        event_routes(config, tenancy.live),
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    settings.load()
    try:
        yield Inside(settings)
    finally:
        await tenancy.stop()


def append(size: int, *fields: str) -> bytes:
    body = msgspec.json.encode({"type": "T", "data": "x" * size})
    lines = ["POST /events HTTP/1.1", "Host: x", f"X-API-Key: {KEY}0", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(holds: Any) -> None:
    for _ in range(1_000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


# Bodies that arrive at once


@in_a_loop
async def test_a_body_that_arrives_at_once_counts_too_and_is_free_once_answered(
    tmp_path: Path,
) -> None:
    async with inside(tmp_path, max_inflight_body_bytes=300 * KIB) as server:
        protocol, wire = server.connect()
        other = Body(server.bodies, "t0")
        other.grow(250 * KIB)
        protocol.data_received(append(100 * KIB))
        await until(lambda: wire.written)
        assert wire.written.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in wire.written.lower()
        assert b"server_overloaded" in wire.written
        assert server.bodies.held_bytes == 250 * KIB
        wire.written = b""
        protocol.data_received(append(50 * KIB))
        await until(lambda: wire.written)
        assert wire.written.startswith(b"HTTP/1.1 200 ")
        other.leave()
        wire.written = b""
        protocol.data_received(append(100 * KIB))
        await until(lambda: wire.written)
        assert wire.written.startswith(b"HTTP/1.1 200 ")
        assert server.bodies.held_bytes == 0


@in_a_loop
async def test_what_came_of_a_body_is_free_when_its_client_leaves(tmp_path: Path) -> None:
    async with inside(tmp_path) as server:
        protocol, _ = server.connect()
        raw = append(500 * KIB)
        protocol.data_received(raw[: 100 * KIB])
        protocol.data_received(raw[100 * KIB : 300 * KIB])
        await until(lambda: server.bodies.held_bytes > 200 * KIB)
        protocol.connection_lost(None)
        await until(lambda: server.bodies.held_bytes == 0)


@in_a_loop
async def test_a_body_that_nobody_reads_does_not_stay(tmp_path: Path) -> None:
    async with inside(tmp_path) as server:
        protocol, wire = server.connect()
        protocol.data_received(append(60 * KIB).replace(b"/events", b"/nowhere"))
        await until(lambda: wire.written)
        await until(lambda: not protocol.cycle.body)


@in_a_loop
async def test_a_body_that_has_been_read_is_not_coming_any_more() -> None:
    bodies = Bodies(1)
    held = Body(bodies, "alice")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    scope: Any = {"headers": [], "state": {"body": held}}
    assert await read_body(scope, receive, max_body_bytes=9, read_timeout_s=60) == b"{}"
    assert not bodies.end_one(math.inf)


# Connections


class Peer:
    """A connection that has idled since then, or does not."""

    def __init__(self, since_s: float | None, *, has_asked: bool = True) -> None:
        self.has_asked = has_asked
        self.since_s = since_s
        self.is_closed = False

    def idle_since_s(self) -> float | None:
        return self.since_s

    def make_room(self) -> None:
        self.is_closed = True


def test_who_never_asked_makes_room_first_and_then_who_has_idled_longest() -> None:
    connections = Connections(4, Bodies(1))
    peers = [Peer(20.0), Peer(10.0), Peer(30.0, has_asked=False), Peer(None)]
    for peer in peers:
        assert connections.seat(peer, 40.0) is Seat.OWN
    gone = []
    for _ in range(3):
        assert connections.seat(Peer(None), 40.0) is Seat.OWN
        gone.append([peer.is_closed for peer in peers])
    assert gone == [
        [False, False, True, False],
        [False, True, True, False],
        [True, True, True, False],
    ]
    assert connections.seat(Peer(None), 40.0) is Seat.SPARE


def test_who_idles_for_less_than_a_second_is_left_alone() -> None:
    connections = Connections(1, Bodies(1))
    peer = Peer(39.5)
    assert connections.seat(peer, 40.0) is Seat.OWN
    assert connections.seat(Peer(None), 40.0) is Seat.SPARE
    assert connections.seat(Peer(None), 41.0) is Seat.OWN
    assert peer.is_closed


@in_a_loop
async def test_a_connection_that_is_closed_gives_its_place_back(tmp_path: Path) -> None:
    async with inside(tmp_path, max_connections=1) as server:
        for _ in range(3):
            protocol, wire = server.connect()
            protocol.data_received(append(10))
            await until(lambda wire=wire: wire.written)
            assert wire.written.startswith(b"HTTP/1.1 200 ")
            protocol.connection_lost(None)


@in_a_loop
async def test_a_connection_with_a_request_under_way_does_not_idle(tmp_path: Path) -> None:
    async with inside(tmp_path) as server:
        protocol, wire = server.connect()
        assert protocol.idle_since_s() is not None
        protocol.data_received(append(10, "X: 1", "X: 2") + b"GET / HTTP/1.1\r\n")
        assert protocol.idle_since_s() is None
        await until(lambda: wire.written)
        assert protocol.idle_since_s() is not None  # half a head is no request
        protocol.data_received(b"Host: x\r\n\r\n")
        assert protocol.idle_since_s() is None


@in_a_loop
async def test_half_a_head_is_refused_as_soon_as_it_is_too_large(tmp_path: Path) -> None:
    async with inside(tmp_path) as server:
        protocol, wire = server.connect()
        protocol.data_received(b"GET /position HTTP/1.1\r\nX: " + b"x" * 70_000)
        assert wire.written.startswith(b"HTTP/1.1 431 ")
        assert wire.closed


# Clients that do not take the end of an answer


@pytest.mark.parametrize("way", [(), ("X: 1", "X: 2")], ids=["short way", "long way"])
@in_a_loop
async def test_a_client_that_does_not_take_the_end_of_its_last_answer_is_cut_off(
    tmp_path: Path, way: tuple[str, ...]
) -> None:
    async with inside(tmp_path) as server:
        protocol, wire = server.connect()
        wire.stuck = True
        protocol.data_received(append(10, "Connection: close", *way))
        await until(lambda: wire.closed)
        await until(lambda: wire.aborted)


@in_a_loop
async def test_an_idle_connection_that_makes_room_does_not_wait_for_its_client(
    tmp_path: Path,
) -> None:
    async with inside(tmp_path) as server:
        protocol, wire = server.connect()
        protocol.data_received(append(10))
        await until(lambda: wire.written)
        wire.stuck = True
        protocol.make_room()
        assert wire.aborted


# Who gives way


LARGE = FREE_BODY_BYTES + 1


def body(bodies: Bodies, tenant: str, size: int, *, coming: bool = True) -> Body:
    made = Body(bodies, tenant)
    if coming:
        made.begin(lambda: None, 0.0)
    made.grow(size)
    return made


def test_small_bodies_do_not_count() -> None:
    bodies = Bodies(1)
    for _ in range(10):
        body(bodies, "alice", FREE_BODY_BYTES)
    assert bodies.held_bytes == 0


def test_what_was_announced_does_not_count_but_every_byte_that_came_does() -> None:
    bodies = Bodies(10 * LARGE)
    one = body(bodies, "alice", LARGE)
    one.grow(3 * LARGE)
    assert bodies.held_bytes == 3 * LARGE
    one.leave()
    one.leave()
    assert bodies.held_bytes == 0


def test_the_one_that_grew_gives_way_among_equals() -> None:
    bodies = Bodies(3 * LARGE)
    first, second = body(bodies, "alice", LARGE), body(bodies, "bob", LARGE)
    second.grow(2 * LARGE)
    with pytest.raises(Problem) as caught:
        second.grow(3 * LARGE)
    assert caught.value.status == 503
    assert first.refused_with is None


def test_a_tenant_that_holds_less_takes_the_place_of_one_that_holds_more() -> None:
    bodies = Bodies(10 * LARGE)
    small, large = body(bodies, "alice", 4 * LARGE), body(bodies, "alice", 5 * LARGE)
    body(bodies, "bob", 4 * LARGE)
    assert (small.refused_with, large.refused_with is None) == (None, False)
    assert bodies.held_bytes == 8 * LARGE
    with pytest.raises(Problem):
        large.grow(6 * LARGE)


def test_what_has_come_as_a_whole_is_not_broken_off() -> None:
    bodies = Bodies(10 * LARGE)
    whole = body(bodies, "alice", 9 * LARGE)
    whole.end()
    with pytest.raises(Problem):
        body(bodies, "bob", 2 * LARGE)
    assert whole.refused_with is None
    assert bodies.held_bytes == 9 * LARGE


def test_bodies_that_began_just_now_are_not_broken_off_for_a_connection() -> None:
    bodies = Bodies(10 * LARGE)
    one = body(bodies, "alice", 0)
    assert not bodies.end_one(0.0)
    assert bodies.end_one(0.1)
    assert one.refused_with is not None
    assert not bodies.end_one(0.1)


# Files


@pytest.mark.parametrize(
    ("files", "tenants", "connections"),
    [
        (OTHER_FILES + 100 * FILES_PER_TENANT + 500, 100, 500),
        (OTHER_FILES + 100 * FILES_PER_TENANT + 499, 99, 499 + FILES_PER_TENANT),
        (OTHER_FILES + 1_400, 100, 500),
        (OTHER_FILES + 700, 50, 350),
        (OTHER_FILES + 70, 5, 35),
        (OTHER_FILES, 1, 1),
        (10, 1, 1),
        (resource.RLIM_INFINITY, 100, 500),
    ],
)
def test_tenants_and_connections_fit_into_the_files_that_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, tenants: int, connections: int
) -> None:
    config = config_of(tmp_path, tenants=100, limits={"max_connections": 500})
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    limits = fit_open_files(config).limits
    assert min(limits.max_open_tenants, 100) == tenants
    assert min(limits.max_connections, 500) == min(connections, 500)
    if files > OTHER_FILES + FILES_PER_TENANT:
        used = tenants * FILES_PER_TENANT + limits.max_connections
        assert used <= files - OTHER_FILES
