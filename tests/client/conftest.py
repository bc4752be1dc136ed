"""Servers with many tenants: each test takes fresh ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ebus.core.limits import Limits
from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

TENANTS = 2_000
SINGLE_KEY = "a-key-of-a-single-tenant-" + "x" * 20


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

    def fresh_tenant(self, limits: Limits | None = None) -> FreshTenant:
        limits = limits or Limits()
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
            for tenant in range(TENANTS):
                yield FreshTenant(server.url, f"tenant-{tenant}", key_of(tenant), directory / "db")


def key_of(tenant: int) -> str:
    return f"key-of-tenant-{tenant}-{'x' * 20}"


def configured(directory: Path, limits: Limits | None = None) -> Path:
    """The directory, with a config file for a server of many tenants."""
    limits = limits or Limits()
    changed = {
        name: value
        for name, value in msgspec.structs.asdict(limits).items()
        if value != getattr(Limits(), name)
    }
    tenants = [{"name": f"tenant-{number}", "api_key": key_of(number)} for number in range(TENANTS)]
    config = {
        "engine": "sqlite",
        "data_dir": "db",
        "durability": "normal",
        "limits": changed,
        "tenants": tenants,
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


__all__ = ["FreshTenant", "LiveServer", "Servers"]
