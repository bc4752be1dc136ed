"""Watching: to be told that somebody else has written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Condition

import pytest

from ebus.core.errors import StoreClosed
from ebus.core.store import SupportsWatch, TenantStore
from ebus.testing.events import numbered
from ebus.testing.place import Place
from ebus.testing.suite import Suite

SOON_S = 30.0
"""By then at the latest news have come."""


class Told:
    """Counts how often it was called."""

    def __init__(self) -> None:
        self._called = Condition()
        self.times = 0

    def __call__(self) -> None:
        with self._called:
            self.times += 1
            self._called.notify_all()

    def wait(self, times: int) -> None:
        """Return when it was called more often than so many times."""
        with self._called:
            told = self._called.wait_for(lambda: self.times > times, SOON_S)
        assert told, "nothing was told of what another has written"

    def wait_until(self, holds: Callable[[], bool], times: int = 0) -> None:
        """Return when this holds, which is looked at after each call and at no other time.

        Of the first so many calls none counts. Whoever calls does not wait for
        it: the store may need the thread that calls.
        """
        while True:
            self.wait(times)
            times = self.times
            if holds():
                return


def watched(store: TenantStore, told: Told) -> Callable[[], None]:
    if not isinstance(store, SupportsWatch):
        pytest.skip("SupportsWatch is not among the powers of this engine")
    return store.watch(told)


def is_at(store: TenantStore, position: int) -> bool:
    return store.head() == position


def write(store: TenantStore, told: Told) -> None:
    """Append, and return when somebody was told after that."""
    before = told.times
    store.append(numbered(1))
    told.wait(before)


class Watching(Suite):
    def test_who_watches_is_told_when_another_engine_appends(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            told = Told()
            watched(first, told)
            for position in (1, 2, 3):
                before = told.times
                second.append(numbered(1, first=position))
                told.wait_until(partial(is_at, first, position), before)

    def test_who_looks_after_each_call_misses_nothing(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            told = Told()
            watched(first, told)
            for position in range(1, 11):
                second.append(numbered(1, first=position))
            told.wait_until(lambda: first.head() == 10)
            assert len(first.read(1).events) == 10

    @pytest.mark.parametrize("change", ["save", "lease", "acknowledge", "delete"])
    def test_who_watches_is_told_when_another_engine_changes_a_subscription(
        self, place: Place, change: str
    ) -> None:
        with self.open_stores(place, 2) as [first, second]:
            second.append(numbered(3))
            lease = None if change == "save" else second.lease("mailer", max_events=2)
            before = second.subscription("mailer")
            assert first.subscription("mailer") == before
            told = Told()
            watched(first, told)
            if change == "save":
                second.save_checkpoint("mailer", 2)
            elif change == "lease":
                second.lease("mailer", max_events=1)
            elif change == "acknowledge":
                assert lease is not None
                second.acknowledge("mailer", lease.id)
            else:
                second.delete_checkpoint("mailer")
            after = second.subscription("mailer")
            assert after != before
            told.wait_until(lambda: first.subscription("mailer") == after)

    def test_all_who_watch_are_told(self, place: Place) -> None:
        with self.open_stores(place, 3) as [first, second, third]:
            everybody = [Told(), Told(), Told()]
            for store, told in zip((first, first, second), everybody, strict=True):
                watched(store, told)
            third.append(numbered(1))
            for told in everybody:
                told.wait(0)

    def test_who_has_ended_it_is_not_told(self, place: Place) -> None:
        with self.open_stores(place, 2) as [first, second]:
            told, ended = Told(), Told()
            watched(first, told)
            end = watched(first, ended)
            write(second, ended)
            end()
            end()
            write(second, told)  # a call that was under way has come by then
            times = ended.times
            for _ in range(3):
                write(second, told)
            assert ended.times == times

    def test_closing_the_store_ends_it(self, place: Place) -> None:
        with self.open_stores(place, 3) as [first, second, third]:
            told, closed = Told(), Told()
            end = watched(first, closed)
            watched(second, told)
            first.close()
            write(third, told)
            times = closed.times
            for _ in range(3):
                write(third, told)
            assert closed.times == times
            end()

    def test_a_tenant_that_is_opened_again_can_be_watched(self, place: Place) -> None:
        with self.open_stores(place, 1) as [first]:
            watched(first, Told())
            first.close()
            with pytest.raises(StoreClosed):
                watched(first, Told())
        with self.open_stores(place, 2) as [first, second]:
            told = Told()
            watched(first, told)
            write(second, told)
