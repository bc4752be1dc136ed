"""What the bus's tests share: a store of each engine, and some event classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebus import TenantStore, open_engine
from ebus.bus import following, running
from tests import in_memory

tmp_path_factory = in_memory.tmp_path_factory


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TenantStore]:
    location = tmp_path / "log" if request.param == "sqlite" else ""
    with open_engine(f"{request.param}:{location}", durability="normal") as engine:
        yield engine.open("shop")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops a follower waits for the end of its wait for events."""
    monkeypatch.setattr(following, "WAIT_S", 0.1)
    monkeypatch.setattr(running, "LOOK_S", 0.1)


@pytest.fixture
def memory_store() -> Iterator[TenantStore]:
    with open_engine("memory:") as engine:
        yield engine.open("shop")
