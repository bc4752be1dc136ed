"""Servers with two tenants each, who know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import in_memory
from tests.hostile.replies import check_log
from tests.hostile.tenants import Resident, let_out, write_tenants
from tests.live_server import LiveServer, serving

tmp_path_factory = in_memory.tmp_path_factory

HASTY = {"READ_TIMEOUT": "1s", "IDLE_TIMEOUT": "3s"}
"""So that what is never finished ends while a test can wait for it."""


class House(NamedTuple):
    """A server, and the two who live there."""

    server: LiveServer
    alice: Resident
    bob: Resident


@contextmanager
def house(directory: Path, *arguments: str, gzip: bool = True, **top: object) -> Iterator[House]:
    """At the end the log must be clean: of failures, and of what is the tenants' alone."""
    alice, bob = Resident("alice"), Resident("bob")
    write_tenants(directory, alice, bob, **top)
    with serving(
        ["--config", "tenants.yaml", *arguments],
        cwd=directory,
        environment={**HASTY, "ENABLE_GZIP": str(gzip)},
    ) as server:
        for resident in (alice, bob):
            resident.move_in(server)
        yield House(server, alice, bob)
    check_log(server.log)
    for resident in (alice, bob):
        found = let_out(resident, server.log.encode(), asked=resident.name.encode())
        assert not found, found


@pytest.fixture(scope="package", params=[1, 2], ids=["one worker", "two workers that compress"])
def lived_in(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    arguments = ["--workers", "2"] if request.param == 2 else []
    with house(directory, *arguments, gzip=request.param == 2) as found:
        yield found
