"""A client passes the conformance suite against a live server, as one more engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ebus.core.engine import Durability, Engine, open_engine
from ebus.core.errors import StoreClosed
from ebus.core.limits import Limits
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName
from ebus.testing import NOTHING_STORED, EngineConformance, Peeked
from ebus.testing.stateful import TenantsMachine
from tests.backends.test_conformance_sqlite import SqlitePlace
from tests.client.conftest import FreshTenant, Servers


class KeyRing(Engine):
    """An engine of many tenants: one of a single key for each name.

    A name that is dropped stands for a fresh tenant from then on, for nobody drops over HTTP.
    """

    def __init__(self, place: RemotePlace, limits: Limits | None) -> None:
        self._place = place
        self._limits = limits or Limits()
        self._engines: dict[FreshTenant, Engine] = {}
        self._is_closed = False

    def open(self, name: str, *, durability: Durability | None = None) -> TenantStore:
        name = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        self._check_open()
        tenant = self._place.tenants.get(name)
        if tenant is None:
            fresh = self._place.servers.fresh_tenant(self._limits)
            tenant = self._place.tenants.setdefault(name, fresh)
        if tenant not in self._engines:
            address = tenant.url.replace("://", f"://{tenant.key}@")
            self._engines.setdefault(tenant, open_engine(address, limits=self._limits))
        return self._engines[tenant].open(tenant.name, durability=durability)

    def tenants(self) -> Sequence[TenantName]:
        self._check_open()
        return sorted(self._place.tenants)

    def drop(self, name: str) -> None:
        name = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        self._check_open()
        tenant = self._place.tenants.pop(name, None)
        if tenant in self._engines:
            self._engines.pop(tenant).close()

    def close(self) -> None:
        self._is_closed = True
        for engine in list(self._engines.values()):
            engine.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosed("the engine is closed")


class RemotePlace:
    """Tenants of live servers, by the names that the suite gives them."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.tenants: dict[TenantName, FreshTenant] = {}

    def open(self, *, limits: Limits | None = None) -> KeyRing:
        return KeyRing(self, limits)

    def peek(self, name: str) -> Peeked:
        tenant = self.tenants.get(TenantName(name))
        if tenant is None:
            return NOTHING_STORED
        return SqlitePlace(tenant.directory).peek(tenant.name)


class TestClientConformance(EngineConformance):
    any_name = False

    @pytest.fixture(autouse=True)
    def take_servers(self, servers: Servers) -> None:
        self.servers = servers

    def new_place(self, directory: Path) -> RemotePlace:
        return RemotePlace(self.servers)

    def test_any_sequence_of_operations_does_what_a_plain_model_says(self) -> None:
        class Tenants(TenantsMachine):
            suite = self

        run_state_machine_as_test(
            Tenants,
            settings=settings(
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
                max_examples=6,
                stateful_step_count=12,
            ),
        )
