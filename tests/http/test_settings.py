"""What can be set from outside: rate, time limits, bounds."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

KEYS = {"alice": "a" * 40, "bob": "b" * 40}
EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}


@contextmanager
def server_with(
    directory: Path, environment: Mapping[str, str], **settings: object
) -> Iterator[LiveServer]:
    tenants = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    write_config(directory / "tenants.yaml", {"engine": "memory", "tenants": tenants, **settings})
    with serving(["--config", "tenants.yaml"], cwd=directory, environment=environment) as server:
        yield server


def client_of(server: LiveServer, tenant: str = "alice") -> httpx.Client:
    headers = {"X-API-Key": KEYS[tenant]}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60, verify=False)


# The rate of a tenant


def test_a_tenant_over_its_rate_is_429_and_others_are_not(tmp_path: Path) -> None:
    environment = {"RATE_LIMIT": "0.01", "RATE_BURST": "3"}
    with server_with(tmp_path, environment) as server, client_of(server) as alice:
        assert [alice.get("/position").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        refused = alice.get("/metrics")
        assert refused.headers["retry-after"] == "100"
        assert refused.json()["code"] == "rate_limited"
        with client_of(server, "bob") as bob:
            assert bob.get("/position").status_code == 200
        assert httpx.get(f"{server.url}/health", verify=False).status_code == 200


def test_a_wrong_key_does_not_use_up_anybodys_rate(tmp_path: Path) -> None:
    with server_with(tmp_path, {"RATE_LIMIT": "0.01", "RATE_BURST": "1"}) as server:
        for _ in range(5):
            wrong = httpx.get(
                f"{server.url}/position", headers={"X-API-Key": "wrong"}, verify=False
            )
            assert wrong.status_code == 401
        with client_of(server) as alice:
            assert alice.get("/position").status_code == 200


def test_without_a_rate_there_is_no_limit(tmp_path: Path) -> None:
    with server_with(tmp_path, {}) as server, client_of(server) as alice:
        assert {alice.get("/position").status_code for _ in range(300)} == {200}


# Time limits


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /position HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "half a head"],
)
def test_a_client_that_does_not_finish_its_head_is_cut_off(tmp_path: Path, begun: bytes) -> None:
    with (
        server_with(tmp_path, {"READ_TIMEOUT": "200ms"}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(begun)
        assert read_all(connection) == b""


def test_a_body_that_does_not_arrive_in_time_is_408(tmp_path: Path) -> None:
    head = (
        f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['alice']}\r\n"
        "Content-Length: 100\r\n\r\n{"
    )
    with (
        server_with(tmp_path, {"READ_TIMEOUT": "200ms"}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(head.encode())
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    request = f"GET /position HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['alice']}\r\n\r\n"
    with (
        server_with(tmp_path, {"IDLE_TIMEOUT": "200ms"}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(request.encode())
        assert read_all(connection).endswith(b'{"position":0}')


@pytest.mark.parametrize("path", ["/events/stream?from=1", "/events?from=1&to=4"])
def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['alice']}\r\n\r\n"
    with server_with(tmp_path, {"WRITE_TIMEOUT": "300ms"}) as server:
        idle = sockets(server)
        with client_of(server) as alice:
            for _ in range(4):
                alice.post("/events/batch", json=[{"type": "T", "data": "x" * 900_000}] * 10)
        wait_until(lambda: sockets(server) == idle)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(request.encode())
            answer = connection.recv(1)  # the answer has begun, and nobody reads on
            wait_until(lambda: sockets(server) == idle)
            answer += read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(answer) < 3_000_000
        assert not answer.endswith(b"0\r\n\r\n")  # it does not look whole


def sockets(server: LiveServer) -> int:
    """How many sockets the server has open."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    count = 0
    for descriptor in descriptors.iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(descriptor).startswith("socket:")
    return count


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "rest",
    [b"", b"\r\n", b"POST"],
    ids=["nothing", "a line end", "the beginning of a request"],
)
def test_a_connection_cannot_be_kept_open_without_requests(tmp_path: Path, rest: bytes) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        server_with(tmp_path, {"IDLE_TIMEOUT": "300ms", "READ_TIMEOUT": "300ms"}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(request)
        assert connection.recv(1_024).startswith(b"HTTP/1.1 200 ")
        connection.sendall(rest)
        assert b"HTTP/1.1" not in read_all(connection)  # the rest of the answer, then the end


def test_a_refused_body_that_trickles_in_does_not_keep_its_connection(tmp_path: Path) -> None:
    request = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    with (
        server_with(tmp_path, {"IDLE_TIMEOUT": "300ms"}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(request)
        assert connection.recv(1_024).startswith(b"HTTP/1.1 401 ")
        connection.sendall(b"x")
        assert b"HTTP/1.1" not in read_all(connection)  # the rest of the answer, then the end


# Bounds


def test_the_bounds_can_be_set(tmp_path: Path) -> None:
    limits = {
        "max_event_bytes": 100,
        "max_batch_events": 2,
        "max_body_bytes": 300,
        "max_read_events": 3,
        "max_type_chars": 5,
        "max_subscription_id_chars": 4,
    }
    with server_with(tmp_path, {}, limits=limits) as server, client_of(server) as alice:
        assert alice.post("/events", json={"type": "T", "data": "x" * 100}).status_code == 413
        assert alice.post("/events", json={"type": "T", "data": "x" * 300}).status_code == 413
        assert alice.post("/events", json={"type": "TTTTTT", "data": 1}).status_code == 400
        assert alice.post("/events/batch", json=[EVENT] * 3).status_code == 400
        assert alice.put("/subscriptions/abcde/position", json={"position": 1}).status_code == 400
        for _ in range(2):
            assert alice.post("/events/batch", json=[EVENT] * 2).status_code == 200
        answer = alice.get("/events?from=1")
        assert len(answer.json()) == 3
        assert answer.links["next"]["url"] == "/events?from=4"
        assert len(alice.get("/events/stream?from=1").json()) == 4
