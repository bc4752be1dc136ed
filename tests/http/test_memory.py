"""What a server has answered leaves nothing behind in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

REPEATS = 200
MAX_GROWTH_BYTES = 10 * 2**20
"""Less than what so many requests of a kind, or their answers, would take if they were kept."""

EVENT = {"type": "OrderPlaced", "data": {"order": "x" * 200}, "timestamp": "2024-01-01T00:00:00Z"}
TOO_LARGE = b'{"type":"T","data":"%b"}' % (b"x" * 4_000_000)
TOO_LONG = b'{"type":"%b","data":1}' % (b"T" * 4_000_000)
LARGE = {"type": "OrderPlaced", "data": "x" * 60_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("memory")
    tenants = [{"name": f"tenant-{at}", "api_key": key(kind)} for at, kind in enumerate(REQUESTS)]
    limits = {"max_failed_keys_per_minute": 100_000}
    config = {"durability": "normal", "tenants": tenants, "limits": limits}
    write_config(directory / "tenants.yaml", config)
    with serving(["--config", "tenants.yaml"], cwd=directory) as server:
        yield server


REQUESTS: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "an append": lambda client: client.post("/events", json=LARGE),
    "a small batch": lambda client: client.post("/events/batch", json=[LARGE] * 2),
    "a batch": lambda client: client.post("/events/batch", json=[EVENT] * 1_000),
    "a batch that is refused": lambda client: client.post(
        "/events/batch", json=[*[EVENT] * 500, {"type": "", "data": 1}]
    ),
    "a batch of too many": lambda client: client.post("/events/batch", json=[EVENT] * 1_001),
    "an event that is too large": lambda client: client.post("/events", content=TOO_LARGE),
    "a type that is too long": lambda client: client.post("/events", content=TOO_LONG),
    "a path that leads nowhere": lambda client: client.put(
        f"/subscriptions/%F0%9F%98%80{time.monotonic_ns()}{'y' * 60_000}/position", content=b""
    ),
    "a body that is no JSON": lambda client: client.post("/events", content=b"{" * 60_000),
    "a range": lambda client: client.get("/events?from=1&to=500"),
    "a stream": lambda client: client.get("/events/stream?from=1"),
    "a wrong key": lambda client: client.post(
        "/events", json=LARGE, headers={"X-API-Key": "no" * 20}
    ),
}


STATUSES = {
    "a batch that is refused": 400,
    "a batch of too many": 400,
    "an event that is too large": 413,
    "a type that is too long": 400,
    "a path that leads nowhere": 404,
    "a body that is no JSON": 400,
    "a wrong key": 401,
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_memory_does_not_grow_with_what_was_answered(server: LiveServer, kind: str) -> None:
    with httpx.Client(
        base_url=server.url, headers={"X-API-Key": key(kind)}, timeout=60, verify=False
    ) as client:
        client.post("/events/batch", json=[EVENT] * 1_000).raise_for_status()
        for _ in range(REPEATS // 4):
            REQUESTS[kind](client)
        before = server.resident_bytes
        for _ in range(REPEATS):
            assert REQUESTS[kind](client).status_code == STATUSES.get(kind, 200)
        assert server.resident_bytes - before < MAX_GROWTH_BYTES


def key(kind: str) -> str:
    return f"key of {kind}".replace(" ", "-").ljust(40, "x")
