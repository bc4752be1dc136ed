"""Tenants that are put into the trash, where they are gone and yet not lost."""

from __future__ import annotations

import pytest

from ebus.core.engine import Engine, SupportsTrash
from ebus.core.errors import InvalidInput, StoreBusy
from ebus.core.store import TenantStore
from ebus.testing.events import numbered
from ebus.testing.observation import observe, read_through, stored
from ebus.testing.place import Place
from ebus.testing.suite import ALICE, Suite

BOB = "bob"
TRASH = "alice-1"


def trash_of(engine: Engine) -> SupportsTrash:
    if not isinstance(engine, SupportsTrash):
        pytest.skip("SupportsTrash is not among the powers of this engine")
    return engine


class Discarding(Suite):
    def test_a_tenant_that_was_discarded_is_gone_and_begins_anew(
        self, engine: Engine, store: TenantStore
    ) -> None:
        trash = trash_of(engine)
        store.append(numbered(3))
        store.save_checkpoint("mailer", 2)
        store.close()
        assert trash.discard(ALICE, TRASH) > 0
        assert list(engine.tenants()) == []
        again = engine.open(ALICE)
        assert (again.head(), again.checkpoints()) == (0, {})
        assert again.append(numbered(1)).first_position == 1

    def test_what_is_open_is_not_discarded(self, engine: Engine, store: TenantStore) -> None:
        trash = trash_of(engine)
        store.append(numbered(3))
        with pytest.raises(StoreBusy):
            trash.discard(ALICE, TRASH)
        assert read_through(store) == stored(numbered(3))

    def test_what_another_engine_has_open_is_not_discarded(self, place: Place) -> None:
        with self.open_stores(place, 1) as [store], place.open() as other:
            trash = trash_of(other)
            if not self.shared:
                pytest.skip("this place has one engine at a time")
            store.append(numbered(3))
            with pytest.raises(StoreBusy):
                trash.discard(ALICE, TRASH)
            assert read_through(store) == stored(numbered(3))

    def test_other_tenants_notice_nothing(self, place: Place, engine: Engine) -> None:
        trash = trash_of(engine)
        bob = engine.open(BOB)
        bob.append(numbered(2))
        before = observe(place, BOB, bob)
        engine.open(ALICE).append(numbered(3))
        engine.open(ALICE).close()
        trash.discard(ALICE, TRASH)
        trash.purge(TRASH)
        assert observe(place, BOB, bob) == before
        assert list(engine.tenants()) == [BOB]

    def test_to_discard_and_to_purge_what_is_not_there_is_fine(self, engine: Engine) -> None:
        trash = trash_of(engine)
        assert trash.discard(ALICE, TRASH) == 0
        trash.purge(TRASH)
        trash.purge(TRASH)
        assert list(engine.tenants()) == []

    @pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a\0b", "é", "x" * 256])
    def test_an_id_that_is_none_is_refused(self, engine: Engine, bad: str) -> None:
        trash = trash_of(engine)
        with pytest.raises(InvalidInput):
            trash.discard(ALICE, bad)
        with pytest.raises(InvalidInput):
            trash.purge(bad)
