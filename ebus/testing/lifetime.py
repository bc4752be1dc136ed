"""Lifetimes: opening, closing, reopening, listing and dropping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any

import pytest

from ebus.core.engine import Engine, SupportsDurability, SupportsSettle, SupportsTrash
from ebus.core.errors import StoreClosed
from ebus.core.store import (
    Append,
    Appended,
    SupportsGaps,
    SupportsIdLookup,
    SupportsPutAway,
    SupportsQuota,
    SupportsTrim,
    SupportsWatch,
    SupportsWireRead,
    TenantStore,
)
from ebus.core.tenant import TenantName
from ebus.testing.events import numbered
from ebus.testing.observation import NEW_TENANT, observe, read_through, stored
from ebus.testing.place import NOTHING_STORED, Place
from ebus.testing.racing import Written, batch_of, check_written, race
from ebus.testing.suite import ALICE, Suite


def every_method(store: TenantStore) -> dict[str, Callable[[], Any]]:
    """Every call that a closed store refuses, by name."""
    calls: dict[str, Callable[[], Any]] = {
        "append": partial(store.append, numbered(1)),
        "commit": partial(store.commit, [Append(numbered(1))]),
        "read": partial(store.read, 1),
        "head": store.head,
        "count": store.count,
        "checkpoint": partial(store.checkpoint, "mailer"),
        "save_checkpoint": partial(store.save_checkpoint, "mailer", 1),
        "delete_checkpoint": partial(store.delete_checkpoint, "mailer"),
        "checkpoints": store.checkpoints,
        "streams": store.streams,
        "stream_version": partial(store.stream_version, "s"),
        "subscription": partial(store.subscription, "mailer"),
        "wait": partial(store.wait, 1, 0.0),
        "lease": partial(store.lease, "mailer"),
        "acknowledge": partial(store.acknowledge, "mailer", "x"),
    }
    if isinstance(store, SupportsWireRead):
        calls["read_wire"] = partial(store.read_wire, 1)
    if isinstance(store, SupportsTrim):
        calls["trim"] = partial(store.trim, 0)
    if isinstance(store, SupportsWatch):
        calls["watch"] = partial(store.watch, lambda: None)
    if isinstance(store, SupportsDurability):
        calls["set_durability"] = partial(store.set_durability, "full")
    return calls


def check_closed(store: TenantStore) -> None:
    for name, call in every_method(store).items():
        with pytest.raises(StoreClosed):
            answer = call()
            pytest.fail(f"{name} of a closed store answers {answer!r}")


def fill(store: TenantStore) -> None:
    store.append(numbered(2))
    store.append(numbered(3, first=3))
    store.save_checkpoint("mailer", 4)
    store.save_checkpoint("printer", 0)
    store.save_checkpoint("gone", 1)
    store.delete_checkpoint("gone")


class Lifetime(Suite):
    def test_a_store_has_the_powers_its_author_names(
        self, engine: Engine, store: TenantStore
    ) -> None:
        known = (
            SupportsWireRead,
            SupportsWatch,
            SupportsTrim,
            SupportsGaps,
            SupportsIdLookup,
            SupportsQuota,
            SupportsDurability,
            SupportsPutAway,
            SupportsSettle,
            SupportsTrash,
        )
        powers = {power for power in known if isinstance(store, power) or isinstance(engine, power)}
        assert powers == self.powers, (
            f"the store has the powers {powers}: let {type(self).__name__}.powers say so"
        )

    def test_everything_is_still_there_after_reopening(self, place: Place) -> None:
        with place.open() as engine:
            store = engine.open(ALICE)
            fill(store)
            before = observe(place, ALICE, store)
        assert place.peek(ALICE) == before.peeked
        for _ in range(2):
            with place.open() as engine:
                assert observe(place, ALICE, engine.open(ALICE)) == before
        assert before.events == stored(numbered(5))
        assert before.checkpoints == [("mailer", 4), ("printer", 0)]

    def test_what_trimming_left_is_still_there_after_reopening(self, place: Place) -> None:
        with place.open() as engine:
            store = engine.open(ALICE)
            if not isinstance(store, SupportsTrim):
                pytest.skip("SupportsTrim is not among the powers of this engine")
            fill(store)
            store.trim(3)
            before = observe(place, ALICE, store)
        with place.open() as engine:
            assert observe(place, ALICE, engine.open(ALICE)) == before
        assert before.events == stored(numbered(5))[3:]

    def test_a_closed_store_can_be_opened_again(self, place: Place, engine: Engine) -> None:
        store = engine.open(ALICE)
        fill(store)
        before = observe(place, ALICE, store)
        store.close()
        assert observe(place, ALICE, engine.open(ALICE)) == before

    def test_an_open_tenant_opened_again_is_the_same_log(self, engine: Engine) -> None:
        first, second = engine.open(ALICE), engine.open(ALICE)
        first.append(numbered(2))
        second.append(numbered(1, first=3))
        first.save_checkpoint("mailer", 3)
        assert read_through(first) == read_through(second) == stored(numbered(3))
        assert second.checkpoint("mailer") == 3

    def test_a_closed_store_refuses_everything(self, place: Place, engine: Engine) -> None:
        store = engine.open(ALICE)
        fill(store)
        store.close()
        before = place.peek(ALICE)
        check_closed(store)
        assert place.peek(ALICE) == before

    def test_a_closed_store_refuses_everything_while_another_is_open(self, engine: Engine) -> None:
        closed = engine.open(ALICE)
        closed.close()
        store = engine.open(ALICE)
        check_closed(closed)
        assert store.head() == 0

    def test_a_closed_engine_closes_its_stores(self, place: Place) -> None:
        engine = place.open()
        stores = [engine.open(name) for name in ("alice", "bob")]
        engine.close()
        for store in stores:
            check_closed(store)
        with pytest.raises(StoreClosed):
            engine.open("alice")
        with pytest.raises(StoreClosed):
            engine.open("carol")

    def test_closing_a_store_twice_is_fine(self, engine: Engine) -> None:
        store = engine.open(ALICE)
        store.append(numbered(1))
        store.close()
        store.close()
        assert read_through(engine.open(ALICE)) == stored(numbered(1))
        store.close()
        assert engine.open(ALICE).head() == 1

    def test_closing_an_engine_twice_is_fine(self, place: Place) -> None:
        engine = place.open()
        store = engine.open(ALICE)
        engine.close()
        engine.close()
        store.close()

    def test_the_end_of_a_with_block_closes(self, place: Place) -> None:
        with place.open() as engine:
            with engine.open("alice") as store:
                store.append(numbered(1))
            check_closed(store)
            left_open = engine.open("bob")
        check_closed(left_open)

    def test_closing_one_store_leaves_the_others_open(self, engine: Engine) -> None:
        alice, bob = engine.open("alice"), engine.open("bob")
        alice.close()
        assert bob.append(numbered(1)) == Appended(1, 1)

    def test_tenants_are_listed_in_the_order_of_their_names(self, place: Place) -> None:
        names = ["b", "a", "C", "a-", "_", "-", "0", "10", "9", "ab", "z" * 100]
        with place.open() as engine:
            assert list(engine.tenants()) == []
            for number, name in enumerate(names, 1):
                engine.open(name)
                assert list(engine.tenants()) == sorted(names[:number])
        with place.open() as engine:
            assert list(engine.tenants()) == sorted(names)
            assert all(isinstance(name, TenantName) for name in engine.tenants())
            engine.drop("a-")
            engine.open("9").close()
            names.remove("a-")
            assert list(engine.tenants()) == sorted(names)
        with place.open() as engine:
            assert list(engine.tenants()) == sorted(names)

    def test_asking_for_tenants_makes_none(self, place: Place) -> None:
        with place.open() as engine:
            engine.tenants()
            engine.drop("bob")
            assert list(engine.tenants()) == []

    def test_a_dropped_tenant_is_gone_for_good(self, place: Place) -> None:
        with place.open() as engine:
            fill(engine.open(ALICE))
            engine.drop(ALICE)
            assert list(engine.tenants()) == []
        assert place.peek(ALICE) == NOTHING_STORED
        with place.open() as engine:
            assert list(engine.tenants()) == []
            assert observe(place, ALICE, engine.open(ALICE)) == NEW_TENANT

    def test_dropping_closes_the_store(self, engine: Engine) -> None:
        store = engine.open(ALICE)
        engine.drop(ALICE)
        check_closed(store)

    def test_dropping_what_is_closed_or_was_never_opened_is_fine(self, place: Place) -> None:
        with place.open() as engine:
            fill(engine.open("alice"))
            fill(engine.open("bob"))
        with place.open() as engine:
            engine.open("bob").close()
            for name in ("alice", "bob", "bob", "carol"):
                engine.drop(name)
            assert list(engine.tenants()) == []
            assert engine.open("alice").head() == 0

    @pytest.mark.parametrize("what", ["store", "engine"])
    def test_closing_under_writers_keeps_exactly_what_they_were_told(
        self, place: Place, what: str
    ) -> None:
        engine = place.open()
        store = engine.open(ALICE)
        under_way, closed = Event(), Event()

        def write_until_closed(writer: int) -> Written:
            written = Written()
            try:
                while True:
                    too_late = closed.is_set()
                    batch = batch_of(writer, len(written), 2)
                    try:
                        appended = store.append(batch)
                    except StoreClosed:
                        return written
                    written.append((appended, batch))
                    assert not too_late, "an append was taken after close had returned"
                    if len(written) == 10:
                        under_way.set()
            finally:
                under_way.set()

        def read_until_closed() -> Written:
            while True:
                too_late = closed.is_set()
                try:
                    store.read(1, limit=10)
                    store.checkpoints()
                except StoreClosed:
                    return Written()
                assert not too_late, "a read was answered after close had returned"

        def close_amid() -> Written:
            under_way.wait()
            try:
                (store if what == "store" else engine).close()
            finally:
                closed.set()
            return Written()

        written = race(
            partial(write_until_closed, 1),
            partial(write_until_closed, 2),
            read_until_closed,
            close_amid,
        )
        engine.close()
        with place.open() as reopened:
            check_written(read_through(reopened.open(ALICE)), written)
