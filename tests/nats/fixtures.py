"""Fixtures of NATS servers, for the conftest of every package of tests that needs one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.in_memory import SHARED_MEMORY, has_room, own_directory
from tests.nats.namespaces import DividedCluster, NoNamespaces
from tests.nats.servers import NatsCluster, NatsServer


@pytest.fixture(scope="session")
def nats_directory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """In memory where there is room: these servers are for tests that are about no disk."""
    if not has_room(SHARED_MEMORY):
        yield tmp_path_factory.mktemp("nats")
        return
    with own_directory(SHARED_MEMORY) as directory:
        yield directory
        if not request.session.testsfailed:
            shutil.rmtree(directory)


@pytest.fixture(scope="session")
def nats_server(nats_directory: Path) -> Iterator[NatsServer]:
    """One server alone, which all tests of a process share: each has names of its own there."""
    with NatsServer(nats_directory / "alone", config="max_payload: 4MB") as server:
        yield server


@pytest.fixture(scope="session")
def nats_cluster(nats_directory: Path) -> Iterator[NatsCluster]:
    """Three servers, which all tests of a process share. Who breaks them makes them whole again
    (`NatsCluster.make_whole`)."""
    with NatsCluster(nats_directory / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def divided_cluster(nats_directory: Path) -> Iterator[DividedCluster]:
    """Three servers that can be cut off from each other, shared as `nats_cluster` is."""
    try:
        cluster = DividedCluster(nats_directory / "divided")
    except NoNamespaces as reason:
        pytest.skip(f"needs network namespaces: {reason}")
    with cluster:
        yield cluster
