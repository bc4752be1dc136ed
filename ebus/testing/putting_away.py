"""Tenants that are put away, to be opened again soon, and what was left to do for them."""

from __future__ import annotations

import pytest

from ebus.core.engine import Engine, SupportsSettle
from ebus.core.errors import StoreClosed
from ebus.core.store import SupportsPutAway, TenantStore
from ebus.testing.events import numbered
from ebus.testing.observation import observe, read_through, stored
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite


def put_away(store: TenantStore) -> None:
    if not isinstance(store, SupportsPutAway):
        pytest.skip("SupportsPutAway is not among the powers of this engine")
    store.put_away()


def settling(engine: Engine) -> SupportsSettle:
    if not isinstance(engine, SupportsSettle):
        pytest.skip("SupportsSettle is not among the powers of this engine")
    return engine


def fill(store: TenantStore) -> None:
    store.append(numbered(3))
    store.save_checkpoint("mailer", 2)


class PuttingAway(Suite):
    def test_a_store_that_was_put_away_is_closed(self, store: TenantStore) -> None:
        fill(store)
        put_away(store)
        put_away(store)
        with pytest.raises(StoreClosed):
            store.append(numbered(1))
        with pytest.raises(StoreClosed):
            store.head()

    def test_a_tenant_that_was_put_away_goes_on_where_it_was(
        self, place: Place, engine: Engine, store: TenantStore
    ) -> None:
        fill(store)
        before = observe(place, ALICE, store)
        put_away(store)
        assert place.peek(ALICE) == before.peeked
        assert list(engine.tenants()) == [ALICE]
        again = engine.open(ALICE)
        assert observe(place, ALICE, again) == before
        assert again.append(numbered(1, first=4)).first_position == 4

    def test_what_is_settled_is_as_closing_would_have_left_it(self, place: Place) -> None:
        with place.open() as engine:
            settle = settling(engine).settle
            store = engine.open(ALICE)
            fill(store)
            before = observe(place, ALICE, store)
            put_away(store)
            for _ in range(2):
                settle(ALICE)
                assert place.peek(ALICE) == before.peeked
            assert observe(place, ALICE, engine.open(ALICE)) == before
        with place.open() as engine:
            assert observe(place, ALICE, engine.open(ALICE)) == before

    def test_nothing_happens_to_a_tenant_that_is_open_when_it_is_settled(
        self, engine: Engine, store: TenantStore
    ) -> None:
        settling(engine).settle(ALICE)
        fill(store)
        put_away(store)
        again = engine.open(ALICE)
        settling(engine).settle(ALICE)
        assert again.append(numbered(1, first=4)).first_position == 4
        assert read_through(again) == stored(numbered(4))

    def test_who_was_never_put_away_is_not_made_by_settling(
        self, place: Place, engine: Engine, store: TenantStore
    ) -> None:
        fill(store)
        before = observe(place, ALICE, store)
        store.close()
        for name in (ALICE, f"{ALICE}-2"):
            settling(engine).settle(name)
        assert list(engine.tenants()) == [ALICE]
        assert observe(place, ALICE, engine.open(ALICE)) == before

    def test_settling_brings_nothing_back_that_was_dropped(
        self, engine: Engine, store: TenantStore
    ) -> None:
        fill(store)
        put_away(store)
        engine.drop(ALICE)
        settling(engine).settle(ALICE)
        assert list(engine.tenants()) == []
        assert engine.open(ALICE).head() == 0
