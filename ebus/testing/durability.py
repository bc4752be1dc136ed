"""Durability that changes while a store is open: what is stored, and what can be read, stays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import get_args

import pytest

from ebus.core.engine import Durability, SupportsDurability
from ebus.core.store import SaveCheckpoint, TenantStore
from ebus.testing.events import numbered
from ebus.testing.observation import observe, read_through, stored, unchanged
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import ALICE, Suite

DURABILITIES: Sequence[Durability] = get_args(Durability)


def changeable(store: TenantStore) -> SupportsDurability:
    if not isinstance(store, SupportsDurability):
        pytest.skip("SupportsDurability is not among the powers of this engine")
    return store


class Durabilities(Suite):
    @pytest.mark.parametrize("second", DURABILITIES)
    @pytest.mark.parametrize("first", DURABILITIES)
    def test_a_change_of_durability_changes_nothing_that_is_stored(
        self, place: Place, store: TenantStore, first: Durability, second: Durability
    ) -> None:
        changeable(store).set_durability(first)
        store.append(numbered(2))
        store.save_checkpoint("mailer", 1)
        with unchanged(place, ALICE, store):
            changeable(store).set_durability(second)
        assert store.append(numbered(1, first=3)).first_position == 3
        assert read_through(store) == stored(numbered(3))

    @pytest.mark.parametrize("durability", DURABILITIES)
    def test_what_was_written_on_either_side_of_a_change_is_there_after_reopening(
        self, place: Place, durability: Durability
    ) -> None:
        with place.open() as engine:
            store = engine.open(ALICE)
            store.append(numbered(2))
            changeable(store).set_durability(durability)
            store.append(numbered(2, first=3))
            store.save_checkpoint("mailer", 4)
            before = observe(place, ALICE, store)
        assert before.events == stored(numbered(4))
        with place.open() as engine:
            assert observe(place, ALICE, engine.open(ALICE)) == before

    def test_a_tenant_that_was_opened_with_one_durability_takes_the_other(
        self, place: Place
    ) -> None:
        for opened, changed in (("normal", "full"), ("full", "normal")):
            with place.open() as engine:
                store = engine.open(ALICE, durability=opened)  # type: ignore[arg-type]
                head = store.head()
                changeable(store).set_durability(changed)  # type: ignore[arg-type]
                assert store.append(numbered(1)).first_position == head + 1

    def test_a_change_harms_no_write_that_is_under_way(self, store: TenantStore) -> None:
        changing = changeable(store)

        def change() -> None:
            for durability in (*DURABILITIES, *DURABILITIES):
                changing.set_durability(durability)

        def write(name: str) -> None:
            for position in range(1, 9):
                store.append(numbered(1))
                store.commit([SaveCheckpoint(name, position)])

        race(change, partial(write, "a"), partial(write, "b"), change)
        assert (store.head(), store.count()) == (16, 16)
        assert store.checkpoints() == {"a": 8, "b": 8}
