"""An engine of the name `nats` that has no cluster: all about its addresses is the real one's."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

import pytest

from ebus.backends.jetstream.address import NatsSettings, parse
from ebus.backends.memory import MemoryEngine
from ebus.core import engine as registry
from ebus.core.engine import (
    Acknowledgement,
    Durability,
    Engine,
    SupportsAcknowledgement,
    SupportsHealth,
)
from ebus.core.errors import StoreUnavailable
from ebus.core.limits import Limits

AWAY = "away"
"""The name of a server that cannot be reached."""


class PretendedCluster(MemoryEngine, SupportsHealth, SupportsAcknowledgement):
    """Tenants in memory, which says what a cluster would."""

    def __init__(self, location: str, *, secure: bool, limits: Limits) -> None:
        super().__init__(limits=limits)
        self._options = parse(location, secure=secure)

    def check_health(self) -> None:
        if any(server.startswith(AWAY) for server in self._options.servers):
            raise StoreUnavailable(f"{self._options.named()} cannot be reached")

    def acknowledgement(self, durability: Durability | None = None) -> Acknowledgement:
        self.check_health()
        replicas = self._options.replicas
        warnings = () if replicas > 1 else ("replicas: 1 is lost with its only server",)
        return Acknowledgement(f"stored by {replicas} servers", None, warnings)


class PretendedFactory(NatsSettings):
    def __init__(self, *, secure: bool) -> None:
        super().__init__(secure=secure)
        self._secure = secure

    def __call__(self, location: str, *, durability: Durability, limits: Limits) -> Engine:
        return PretendedCluster(location, secure=self._secure, limits=limits)


open_nats = PretendedFactory(secure=False)
open_tls = PretendedFactory(secure=True)


def without_driver() -> EntryPoint:
    """An engine `cluster` of ebus itself, whose extra is not installed."""
    entry = EntryPoint("cluster", "no_such_driver:open_it [cluster]", registry.ENTRY_POINT_GROUP)
    [ours] = entry_points(group=registry.ENTRY_POINT_GROUP, name="memory")
    vars(entry)["dist"] = ours.dist  # the extra of another package would be that one's
    return entry


_ENTRIES = [
    EntryPoint("nats", f"{__name__}:open_nats", registry.ENTRY_POINT_GROUP),
    EntryPoint("tls", f"{__name__}:open_tls", registry.ENTRY_POINT_GROUP),
    without_driver(),
]


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `nats` and `tls` be pretended, and `cluster` lack its driver, for one test."""
    names = {entry.name for entry in _ENTRIES}

    def pretended(**wanted: Any) -> EntryPoints:
        found = EntryPoints(entry_points(group=wanted["group"]))
        others = [entry for entry in found if entry.name not in names]
        return EntryPoints([*others, *_ENTRIES]).select(**wanted)

    monkeypatch.setattr(registry, "entry_points", pretended)
    monkeypatch.setattr(registry, "_load_factory", registry._load_factory.__wrapped__)
