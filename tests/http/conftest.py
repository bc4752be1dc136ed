"""A server of each engine, with more tenants than there are tests: each takes a fresh one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from tests import in_memory
from tests.live_server import LiveServer, serving

tmp_path_factory = in_memory.tmp_path_factory

TENANTS = 3_000


class TenantClient(httpx.Client):
    """Speaks for one tenant. `bystander` speaks for another, who must not notice anything."""

    def __init__(self, server: LiveServer, number: int) -> None:
        self.server = server
        self.name = f"tenant-{number}"
        self.key = f"key-of-tenant-{number}-{'x' * 20}"
        # There is no TLS here, and to load every authority for it would take 20 ms a client.
        headers = {"X-API-Key": self.key}
        super().__init__(base_url=server.url, headers=headers, timeout=60, verify=False)

    def append(self, type: str = "OrderPlaced", data: object = None) -> httpx.Response:
        event = {"type": type, "data": data, "timestamp": "2024-01-01T00:00:00Z"}
        return self.post("/events", json=event)

    def position(self) -> int:
        position = self.get("/position").json()["position"]
        assert isinstance(position, int)
        return position


@pytest.fixture(scope="session", params=["memory", "sqlite"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp(request.param)
    tenants = [
        {"name": f"tenant-{number}", "api_key": f"key-of-tenant-{number}-{'x' * 20}"}
        for number in range(TENANTS)
    ]
    write_config(directory / "tenants.yaml", {"engine": request.param, "tenants": tenants})
    with serving(["--config", "tenants.yaml"], cwd=directory) as server:
        yield server
    assert "internal" not in server.log
    assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def client(server: LiveServer, numbers: Iterator[int]) -> Iterator[TenantClient]:
    """A client of a tenant that is new."""
    with TenantClient(server, next(numbers)) as client:
        yield client


@pytest.fixture
def bystander(server: LiveServer, numbers: Iterator[int]) -> Iterator[TenantClient]:
    """A client of another tenant that is new."""
    with TenantClient(server, next(numbers)) as client:
        yield client


def write_config(path: Path, config: object) -> None:
    """JSON is YAML."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    path.chmod(0o600)
