"""What one tenant may do to the server: rates of requests and events, and what it may store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}
FULL = "This tenant has stored as much as it may; nothing was stored"
KEYS = {name: name[0] * 40 for name in ("alice", "bob", "charlie")}


@contextmanager
def server_with(
    directory: Path,
    *arguments: str,
    engine: str = "memory",
    defaults: Mapping[str, object] | None = None,
    environment: dict[str, str] | None = None,
    **limits: Mapping[str, object],
) -> Iterator[LiveServer]:
    """A server whose tenants have these limits by name, and `defaults` otherwise."""
    tenants = [
        {"name": name, "api_key": key, **({"limits": limits[name]} if name in limits else {})}
        for name, key in KEYS.items()
    ]
    top = {} if defaults is None else {"tenant_limits": defaults}
    write_config(directory / "tenants.yaml", {"engine": engine, "tenants": tenants, **top})
    command = ["--config", "tenants.yaml", *arguments]
    with serving(command, cwd=directory, environment=environment) as server:
        yield server


def client_of(server: LiveServer, tenant: str) -> httpx.Client:
    headers = {"X-API-Key": KEYS[tenant]}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60, verify=False)


def statuses(server: LiveServer, tenant: str, requests: int) -> list[int]:
    with client_of(server, tenant) as client:
        return [client.get("/position").status_code for _ in range(requests)]


def test_a_rate_is_the_tenants_own_or_that_of_all_or_that_of_the_environment(
    tmp_path: Path,
) -> None:
    slow = {"max_requests_per_second": 0.01, "max_request_burst": 2}
    with server_with(
        tmp_path,
        alice=slow,
        bob={"max_stored_events": 5},
        environment={"RATE_LIMIT": "0.01", "RATE_BURST": "4"},
    ) as server:
        assert statuses(server, "alice", 6).count(200) == 2
        assert statuses(server, "bob", 6).count(200) == 4
        assert statuses(server, "charlie", 6).count(200) == 4
    with server_with(
        tmp_path,
        alice=slow,
        defaults={"max_requests_per_second": 0.01, "max_request_burst": 3},
        environment={"RATE_LIMIT": "0.01", "RATE_BURST": "4"},
    ) as server:
        assert statuses(server, "alice", 6).count(200) == 2
        assert statuses(server, "bob", 6).count(200) == 3


def test_events_are_counted_one_by_one_and_in_batches(tmp_path: Path) -> None:
    with server_with(tmp_path, alice={"max_events_per_second": 0.05}) as server:
        with client_of(server, "alice") as alice:
            # A batch is let in whole, and what it overdraws has to be waited for.
            assert alice.post("/events/batch", json=[EVENT] * 10).status_code == 200
            refused = alice.post("/events", json=EVENT)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert 190 <= int(refused.headers["retry-after"]) <= 200
            assert alice.post("/events/batch", json=[EVENT]).status_code == 429
            assert alice.get("/metrics").json()["total_events"] == 10
        with client_of(server, "bob") as bob:
            assert {bob.post("/events", json=EVENT).status_code for _ in range(20)} == {200}


def test_a_batch_that_is_no_batch_does_not_count_as_events(tmp_path: Path) -> None:
    with (
        server_with(tmp_path, alice={"max_events_per_second": 1}) as server,
        client_of(server, "alice") as alice,
    ):
        assert alice.post("/events/batch", json=[EVENT] * 5_000).status_code == 400
        assert alice.post("/events/batch", json=[]).status_code == 400
        assert alice.post("/events", json=EVENT).status_code == 200


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_a_tenant_stores_no_more_events_than_it_may(tmp_path: Path, engine: str) -> None:
    with server_with(tmp_path, engine=engine, alice={"max_stored_events": 3}) as server:
        with client_of(server, "alice") as alice:
            assert alice.post("/events/batch", json=[EVENT] * 2).status_code == 200
            refused = alice.post("/events/batch", json=[EVENT] * 2)
            assert (refused.status_code, refused.json()["code"]) == (507, "quota_exceeded")
            assert refused.json()["detail"] == FULL
            assert alice.post("/events", json=EVENT).json()["position"] == 3
            assert alice.post("/events", json=EVENT).status_code == 507
            assert len(alice.get("/events?from=1").json()) == 3
            saved = alice.put("/subscriptions/s/position", json={"position": 3})
            assert saved.is_success
        with client_of(server, "bob") as bob:
            assert {bob.post("/events", json=EVENT).status_code for _ in range(5)} == {200}


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_a_tenant_stores_no_more_bytes_than_it_may(tmp_path: Path, engine: str) -> None:
    most = 200_000
    big = {**EVENT, "data": "x" * 10_000}
    with server_with(tmp_path, engine=engine, defaults={"max_stored_bytes": most}) as server:
        with client_of(server, "alice") as alice:
            answers = [alice.post("/events", json=big).status_code for _ in range(30)]
            stored = answers.count(200)
            assert answers == [200] * stored + [507] * (30 - stored)
            assert 12 <= stored <= 20
            assert alice.post("/events", json=big).json()["detail"] == FULL
            assert len(alice.get("/events?from=1").json()) == stored
    if engine == "sqlite":
        assert (tmp_path / "data" / "alice.db").stat().st_size <= most + 16_384


def test_many_at_once_and_several_workers_store_no_more_either(tmp_path: Path) -> None:
    limits = {"max_stored_events": 50}
    with server_with(tmp_path, "--workers", "2", engine="sqlite", alice=limits) as server:

        def append(_: int) -> int:
            with client_of(server, "alice") as alice:
                return [alice.post("/events", json=EVENT).status_code for _ in range(10)].count(200)

        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(append, range(16))) == 50
        with client_of(server, "alice") as alice:
            assert alice.get("/position").json() == {"position": 50}


def test_a_quota_holds_after_a_restart(tmp_path: Path) -> None:
    for expected in ([200, 200], [200, 507], [507, 507]):
        with (
            server_with(tmp_path, engine="sqlite", alice={"max_stored_events": 3}) as server,
            client_of(server, "alice") as alice,
        ):
            assert [alice.post("/events", json=EVENT).status_code for _ in range(2)] == expected
