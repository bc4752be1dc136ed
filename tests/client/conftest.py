"""Servers with many tenants: each test takes fresh ones."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ebus.client import Retries
from ebus.core.limits import Limits
from tests import in_memory
from tests.client.both import KINDS
from tests.client.proxy import Proxy, proxy_before
from tests.http.conftest import write_config
from tests.live_server import serving

tmp_path_factory = in_memory.tmp_path_factory

TENANTS = 800
FEW_TENANTS = 50
"""Of a server with limits of its own: few tests need one, and each more costs time at its start."""


class FreshTenant(NamedTuple):
    """A tenant that nobody has used. `directory` holds its server's files."""

    url: str
    name: str
    key: str
    directory: Path


class Servers:
    """Live servers of the SQLite engine, one for each kind of limits, started when needed."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self._tenants: dict[Limits, Iterator[FreshTenant]] = {}
        self._lock = threading.Lock()

    def fresh_tenant(self, limits: Limits | None = None) -> FreshTenant:
        limits = limits or Limits()
        with self._lock:
            if limits not in self._tenants:
                self._tenants[limits] = self._fresh_tenants(limits)
            return next(self._tenants[limits])

    def _fresh_tenants(self, limits: Limits) -> Iterator[FreshTenant]:
        for number in itertools.count():
            directory = self._directory / f"{len(self._tenants)}-{number}"
            directory.mkdir()
            server = self._stack.enter_context(
                serving(["--config", "tenants.yaml"], cwd=configured(directory, limits))
            )
            for tenant in range(TENANTS if limits == Limits() else FEW_TENANTS):
                yield FreshTenant(server.url, f"tenant-{tenant}", key_of(tenant), directory / "db")


def key_of(tenant: int) -> str:
    return f"key-of-tenant-{tenant}-{'x' * 20}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def configured(directory: Path, limits: Limits | None = None, tenants: object = None) -> Path:
    """The directory, with a config file for a server of many tenants, or of these."""
    limits = limits or Limits()
    changed = {
        name: value
        for name, value in msgspec.structs.asdict(limits).items()
        if value != getattr(Limits(), name)
    }
    many = [
        {"name": f"tenant-{number}", "api_key": key_of(number)}
        for number in range(TENANTS if limits == Limits() else FEW_TENANTS)
    ]
    config = {
        "engine": "sqlite",
        "data_dir": "db",
        "durability": "normal",
        "limits": changed,
        "tenants": tenants or many,
    }
    write_config(directory / "tenants.yaml", config)
    return directory


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, tmp_path_factory.mktemp("servers"))


@pytest.fixture
def tenant(servers: Servers) -> FreshTenant:
    return servers.fresh_tenant()


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


Connect = Callable[..., Any]


@pytest.fixture
def connect(kind: str) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them after the test."""
    made: list[Any] = []

    def make(*arguments: Any, **options: Any) -> Any:
        options.setdefault("retries", Retries(attempts=5, first_pause_s=0.01))
        made.append(KINDS[kind](*arguments, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def proxy(tenant: FreshTenant) -> Iterator[Proxy]:
    """In front of the server of `tenant`."""
    with proxy_before(tenant.url) as proxy:
        yield proxy


@pytest.fixture
def client(connect: Connect, proxy: Proxy, tenant: FreshTenant) -> Any:
    """A client of `tenant`, through the proxy."""
    return connect(proxy.url, tenant.key)


@pytest.fixture
def direct(connect: Connect, tenant: FreshTenant) -> Any:
    """A client of `tenant` without anything between."""
    return connect(tenant.url, tenant.key)
