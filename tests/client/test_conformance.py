"""A client passes the conformance suite against a live server, as one more engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ebus.core import consumers
from ebus.core.engine import Durability, Engine, open_engine
from ebus.core.errors import EngineError, InvalidCheckpoint, StoreClosed
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import Append, ChangeSubscription, SupportsWireRead, TenantStore
from ebus.core.tenant import TenantName
from ebus.testing import NOTHING_STORED, EngineConformance, Peeked
from ebus.testing.events import HARD_TYPES, new_event, numbered
from ebus.testing.observation import check_filtered, read_through, unchanged
from ebus.testing.place import Place
from ebus.testing.stateful import TenantsMachine
from ebus.testing.suite import ALICE
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
    powers = frozenset({SupportsWireRead})
    any_name = False

    @pytest.fixture(autouse=True)
    def take_servers(self, servers: Servers) -> None:
        self.servers = servers

    def new_place(self, directory: Path) -> RemotePlace:
        return RemotePlace(self.servers)

    # What cannot be the same over HTTP.

    @pytest.mark.parametrize("name", HARD_TYPES.values(), ids=HARD_TYPES)
    def test_a_checkpoint_keeps_its_name_as_it_is(
        self, place: Place, store: TenantStore, name: str
    ) -> None:
        """A path holds few names unescaped; the others are refused."""
        if re.fullmatch(r"[A-Za-z0-9\-._~!$&'()*+,;=:@]+", name):
            super().test_a_checkpoint_keeps_its_name_as_it_is(place, store, name)
            return
        with unchanged(place, ALICE, store), pytest.raises(InvalidCheckpoint):
            store.save_checkpoint(name, 7)

    def test_checkpoints_do_not_touch_each_other(self, store: TenantStore) -> None:
        names = ["a", "A", "a'", "b", "a!", "a_", "ab", "1", "01", "...", "a:@"]
        for position, name in enumerate(names):
            store.save_checkpoint(name, position)
        assert store.checkpoints() == {name: position for position, name in enumerate(names)}
        assert store.delete_checkpoint("a")
        store.save_checkpoint("A", 99)
        assert [store.checkpoint(name) for name in names] == [None, 99, *range(2, len(names))]

    def test_checkpoints_come_in_the_order_of_their_names(self, store: TenantStore) -> None:
        names = ["b", "a", "Z", "~", "10", "9", "aa"]
        for name in names:
            store.save_checkpoint(name, 1)
        assert list(store.checkpoints()) == sorted(names)

    def test_leases_and_appends_of_one_commit_see_each_other(self, store: TenantStore) -> None:
        """A change is a function: it stays on this side."""
        change = ChangeSubscription("mailer", consumers.acknowledge("x"))
        with pytest.raises(EngineError):
            store.commit([Append(numbered(1)), change])
        assert store.head() == 0

    def test_a_filter_of_as_many_types_as_there_may_be_is_fine(self, store: TenantStore) -> None:
        """A query holds 100 parameters, and a filter shares it with the range of the read."""
        most = 95
        store.append([new_event(type=str(number)) for number in range(most + 1)])
        wanted = Filter(types=tuple(map(str, range(most))))
        sizes = dict.fromkeys(range(1, most + 2), 1)
        check_filtered(store, read_through(store), sizes, wanted)

    @pytest.mark.skip(reason="how long tenants' names may be is the server's to say")
    def test_the_length_of_a_tenant_name_can_be_limited(self, place: Place) -> None: ...

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
