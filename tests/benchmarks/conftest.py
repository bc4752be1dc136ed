"""Servers to put load on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.servers import Server, serving_bare, serving_ebus
from benchmarks.workload import make_tenants


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_bare(tmp_path_factory.mktemp("bare")) as server:
        yield server


@pytest.fixture(scope="session")
def ebus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the first tenant of the workload."""
    with serving_ebus(tmp_path_factory.mktemp("ebus"), make_tenants(1)) as server:
        yield server
