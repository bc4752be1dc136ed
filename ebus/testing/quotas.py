"""Quotas: how much a tenant may store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebus.core.engine import Engine
from ebus.core.errors import QuotaExceeded, StoreReadOnly
from ebus.core.event import NewEvent
from ebus.core.store import Append, Appended, Quota, SaveCheckpoint, SupportsQuota, TenantStore
from ebus.testing.events import numbered
from ebus.testing.suite import ALICE, Suite

BIG_BYTES = 20_000


def big() -> NewEvent:
    """An event of some `BIG_BYTES`."""
    return NewEvent.of("Big", "x" * BIG_BYTES)


class Quotas(Suite):
    @pytest.fixture
    def bound(self, store: TenantStore) -> Callable[[Quota], None]:
        if not isinstance(store, SupportsQuota):
            pytest.skip("SupportsQuota is not among the powers of this engine")
        return store.set_quota

    def test_events_are_stored_up_to_the_quota(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        bound(Quota(max_events=3))
        store.append(numbered(2))
        with pytest.raises(QuotaExceeded):
            store.append(numbered(2))
        assert store.append(numbered(1)) == Appended(3, 3)
        with pytest.raises(QuotaExceeded):
            store.append(numbered(1))
        assert (store.head(), store.count()) == (3, 3)

    def test_what_is_over_the_quota_harms_no_neighbour(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        bound(Quota(max_events=3))
        first, over, last, checkpoint = store.commit(
            [
                Append(numbered(2)),
                Append(numbered(2)),
                Append(numbered(1)),
                SaveCheckpoint("mailer", 1),
            ]
        )
        assert isinstance(over, QuotaExceeded)
        assert (first, last, checkpoint) == (Appended(1, 2), Appended(3, 3), None)
        assert (store.head(), store.count(), store.checkpoint("mailer")) == (3, 3, 1)

    def test_bytes_are_stored_up_to_the_quota(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        assert isinstance(store, SupportsQuota)
        store.append([big()])
        room = 5 * BIG_BYTES
        bound(Quota(max_bytes=store.stored_bytes() + room))
        stored = 0
        with pytest.raises(QuotaExceeded):
            for _ in range(100):
                store.append([big()])
                stored += 1
        assert 2 <= stored <= 5
        assert store.head() == store.count() == stored + 1

    def test_one_commit_does_not_go_beyond_the_bytes_either(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        assert isinstance(store, SupportsQuota)
        bound(Quota(max_bytes=store.stored_bytes() + 5 * BIG_BYTES))
        results = store.commit([Append([big()]) for _ in range(100)])
        stored = [result for result in results if isinstance(result, Appended)]
        assert 2 <= len(stored) <= 5
        assert stored == results[: len(stored)]
        assert store.head() == len(stored)

    def test_where_the_bytes_are_used_up_no_new_name_is_saved(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        store.save_checkpoint("mailer", 1)
        bound(Quota(max_bytes=1))
        store.save_checkpoint("mailer", 2)
        with pytest.raises(QuotaExceeded):
            store.save_checkpoint("printer", 1)
        assert store.checkpoints() == {"mailer": 2}

    def test_the_stored_bytes_grow_with_what_is_stored(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        assert isinstance(store, SupportsQuota)
        before = store.stored_bytes()
        store.commit([Append([big()]) for _ in range(10)])
        grown = store.stored_bytes() - before
        assert 10 * BIG_BYTES <= grown <= 12 * BIG_BYTES

    def test_a_wider_quota_holds_from_the_next_write_on(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        bound(Quota(max_events=1))
        store.append(numbered(1))
        with pytest.raises(QuotaExceeded):
            store.append(numbered(1))
        bound(Quota(max_events=2))
        assert store.append(numbered(1)) == Appended(2, 2)
        bound(Quota())
        assert store.append(numbered(5)) == Appended(3, 7)

    def test_a_quota_below_what_is_stored_takes_nothing_away(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        store.append(numbered(3))
        bound(Quota(max_events=1, max_bytes=1))
        with pytest.raises(QuotaExceeded):
            store.append(numbered(1))
        assert (store.head(), len(store.read(1).events)) == (3, 3)

    def test_a_quota_is_one_tenants_own(
        self, engine: Engine, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        bound(Quota(max_events=1))
        store.append(numbered(1))
        other = engine.open(f"{ALICE}-2")
        assert other.append(numbered(5)) == Appended(1, 5)

    def test_what_is_read_only_takes_nothing_and_says_everything(
        self, store: TenantStore, bound: Callable[[Quota], None]
    ) -> None:
        store.append(numbered(2))
        store.save_checkpoint("mailer", 1)
        bound(Quota(is_read_only=True))
        refused = store.commit(
            [Append(numbered(1)), SaveCheckpoint("mailer", 2), SaveCheckpoint("new", 1)]
        )
        assert [type(it) for it in refused] == [StoreReadOnly] * 3
        with pytest.raises(StoreReadOnly):
            store.lease("mailer", max_events=1)
        assert (store.head(), store.checkpoints()) == (2, {"mailer": 1})
        assert len(store.read(1).events) == 2
        bound(Quota())
        assert store.append(numbered(1)) == Appended(3, 3)
