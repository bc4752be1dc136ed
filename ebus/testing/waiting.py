"""Waiting: to be told when there is something new."""

from __future__ import annotations

import time
from functools import partial

import pytest

from ebus.core.errors import StoreClosed
from ebus.core.store import TenantStore
from ebus.testing.events import numbered
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import Suite

LONG_S = 30.0
"""Nobody is to wait for so long."""


def append_later(store: TenantStore, times: int = 1) -> int:
    for _ in range(times):
        time.sleep(0.02)
        store.append(numbered(1))
    return store.head()


class Waiting(Suite):
    def test_who_waits_for_what_is_there_is_told_at_once(self, store: TenantStore) -> None:
        assert store.wait(0, LONG_S) == 0
        store.append(numbered(3))
        for position in (0, 1, 3):
            assert store.wait(position, LONG_S) == 3

    def test_when_the_time_is_over_the_head_is_told(self, store: TenantStore) -> None:
        store.append(numbered(3))
        for timeout_s in (0.0, 0.01):
            assert store.wait(4, timeout_s) == 3

    def test_who_waits_is_told_when_another_thread_appends(self, store: TenantStore) -> None:
        store.append(numbered(3))
        begun_s = time.monotonic()
        waited, _ = race(partial(store.wait, 4, LONG_S), partial(append_later, store))
        assert waited == 4
        assert time.monotonic() - begun_s < LONG_S / 2

    def test_who_waits_for_more_goes_on_waiting(self, store: TenantStore) -> None:
        waited, _ = race(partial(store.wait, 2, LONG_S), partial(append_later, store, 2))
        assert waited == 2

    def test_many_wait_at_once(self, store: TenantStore) -> None:
        waiting = [partial(store.wait, 1, LONG_S)] * 4
        assert race(*waiting, partial(append_later, store)) == [1] * 5

    def test_who_waits_is_told_when_another_engine_appends(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            waited, _ = race(partial(first.wait, 1, LONG_S), partial(append_later, second))
            assert waited == 1

    def test_who_waits_when_the_store_is_closed_is_told_so(self, store: TenantStore) -> None:
        def wait() -> bool:
            with pytest.raises(StoreClosed):
                store.wait(1, LONG_S)
            return True

        def close() -> bool:
            time.sleep(0.02)
            store.close()
            return True

        begun_s = time.monotonic()
        race(wait, close)
        assert time.monotonic() - begun_s < LONG_S / 2
