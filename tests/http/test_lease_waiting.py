"""Who waits for a lease sleeps until there may be one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ebus.backends.memory import Log, MemoryStore
from ebus.core import consumers
from ebus.core.aio import AsyncTenantStore
from ebus.core.consumers import Change, Lease, Subscription
from ebus.core.errors import TooManyParked
from ebus.core.event import NewEvent
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from ebus.http import subscription_watch
from ebus.http.live import Live
from ebus.http.news import Commits
from ebus.http.routes.leases import LeaseIn, next_lease
from ebus.http.tenant import Tenant

LONG_S = 60.0
SOON_S = 20.0
LIMITS = Limits(max_leases=2, max_parked=1)


class Store(AsyncTenantStore):
    """Counts how often it is looked at and asked."""

    asked = 0
    looked = 0

    async def change_subscription(self, name: str, change: Change) -> Any:
        self.asked += 1
        return await super().change_subscription(name, change)

    async def subscription(self, name: str) -> Subscription | None:
        found = await super().subscription(name)
        self.looked += 1
        return found


class Desk:
    """A tenant with five events, of which the subscription `s` has a lease of the first two."""

    def __init__(self, log: Log, threads: ThreadPoolExecutor) -> None:
        self.log = log
        self.threads = threads
        self.store = self.another_store()
        self.end: Callable[[], None] = lambda: None
        self._live = Live(Commits(1, 1).of(0), max_tails=9)
        self._tenant = Tenant(TenantName("alice"), self.store)

    def another_store(self) -> Store:
        """As another process would have it."""
        return Store(MemoryStore(self.log, LIMITS), writes=self.threads, reads=self.threads)

    async def lease(self, wait_s: float = 0.0, **asked: Any) -> Lease | None:
        wanted = LeaseIn(**{"max_events": 2} | asked)

        def when_left(end: Callable[[], None]) -> None:
            self.end = end

        return await next_lease(self._live, self._tenant, "s", wanted, wait_s, when_left=when_left)

    async def change(self, change: Change) -> None:
        await self.store.change_subscription("s", change)

    async def waiting(self, wait_s: float = LONG_S) -> asyncio.Task[Lease | None]:
        """One who waits, and has fallen asleep."""
        looked = self.store.looked
        waits = asyncio.create_task(self.lease(wait_s))
        for _ in range(1_000):
            if self.store.looked > looked or waits.done():
                break
            await asyncio.sleep(0.01)
        await self.quiet()
        return waits

    async def quiet(self) -> None:
        """Return when nothing is under way."""
        quiet = 0
        while quiet < 20:
            await asyncio.sleep(0.001)
            quiet = quiet + 1 if self.store.idle else 0


@asynccontextmanager
async def a_desk(*, full: bool = False, **asked: Any) -> AsyncIterator[tuple[Desk, Lease]]:
    """With everything leased; or, when it is `full`, as much of it as there may be."""
    with ThreadPoolExecutor(4) as threads:
        desk = Desk(Log(), threads)
        await desk.store.append([NewEvent.of("T", number) for number in range(5 if full else 2)])
        first = await desk.lease(**asked)
        assert first is not None
        if full:
            assert await desk.lease() is not None
        yield desk, first
        await desk.store.aclose()


def run(check: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(check, LONG_S / 2)

    asyncio.run(bounded())


def first_of(lease: Lease | None) -> int | None:
    return None if lease is None else lease.first_position


async def _append(desk: Desk, lease: Lease) -> None:
    await desk.store.append([NewEvent.of("T", 1)])


async def _release(desk: Desk, lease: Lease) -> None:
    await desk.change(consumers.release(lease.id, failed=False))


async def _release_later(desk: Desk, lease: Lease) -> None:
    await desk.change(consumers.release(lease.id, delay_s=0.05))


async def _shorten(desk: Desk, lease: Lease) -> None:
    await desk.change(consumers.extend(lease.id, 0.05))


async def _rewind(desk: Desk, lease: Lease) -> None:
    await desk.store.save_checkpoint("s", 0)


async def _delete(desk: Desk, lease: Lease) -> None:
    await desk.store.delete_checkpoint("s")


async def _acknowledge(desk: Desk, lease: Lease) -> None:
    await desk.change(consumers.acknowledge(lease.id))


@pytest.mark.parametrize(
    ("happens", "first"),
    [(_append, 3), (_release, 1), (_release_later, 1), (_shorten, 1), (_rewind, 1), (_delete, 1)],
)
def test_who_waits_gets_what_becomes_free(
    happens: Callable[[Desk, Lease], Awaitable[None]], first: int
) -> None:
    async def check() -> None:
        async with a_desk() as (desk, lease):
            waits = await desk.waiting()
            assert not waits.done()
            await happens(desk, lease)
            assert first_of(await asyncio.wait_for(waits, SOON_S)) == first

    run(check())


@pytest.mark.parametrize(
    ("happens", "first"), [(_acknowledge, 5), (_release, 1), (_rewind, 1), (_delete, 1)]
)
def test_who_waits_while_as_much_is_leased_as_may_be_gets_what_becomes_free(
    happens: Callable[[Desk, Lease], Awaitable[None]], first: int
) -> None:
    async def check() -> None:
        async with a_desk(full=True) as (desk, lease):
            waits = await desk.waiting()
            assert not waits.done()
            await happens(desk, lease)
            assert first_of(await asyncio.wait_for(waits, SOON_S)) == first

    run(check())


def test_with_too_much_parked_nobody_waits() -> None:
    async def check() -> None:
        async with a_desk(max_events=1, max_attempts=1) as (desk, first):
            assert await desk.lease() is not None
            await desk.change(consumers.release(first.id))
            with pytest.raises(TooManyParked):
                await desk.lease(LONG_S)

    run(check())


def test_who_waits_gets_what_runs_out() -> None:
    async def check() -> None:
        async with a_desk(seconds=0.2) as (desk, _):
            waits = await desk.waiting()
            assert first_of(await asyncio.wait_for(waits, SOON_S)) == 1

    run(check())


def test_what_runs_out_too_often_is_parked_while_somebody_waits() -> None:
    async def check() -> None:
        async with a_desk(max_events=1, max_attempts=1) as (desk, first):
            second = await desk.lease()
            assert second is not None
            await desk.change(consumers.acknowledge(second.id))
            waits = await desk.waiting()
            await desk.change(consumers.extend(first.id, 0.05))
            with pytest.raises(TooManyParked):
                await asyncio.wait_for(waits, SOON_S)

    run(check())


@pytest.mark.parametrize("full", [False, True])
def test_who_waits_in_vain_does_next_to_nothing(full: bool) -> None:
    async def check() -> None:
        async with a_desk(full=full) as (desk, _):
            asked, looked = desk.store.asked, desk.store.looked
            assert await desk.lease(0.3) is None
            assert desk.store.asked == asked + 1
            assert desk.store.looked <= looked + 5

    run(check())


@pytest.mark.parametrize("full", [False, True])
def test_what_has_nothing_to_do_with_him_makes_nobody_ask(full: bool) -> None:
    async def check() -> None:
        async with a_desk(full=full) as (desk, _):
            waits = [await desk.waiting(), await desk.waiting()]
            asked, looked = desk.store.asked, desk.store.looked
            for position in range(50):
                await desk.store.save_checkpoint("other", position)
                if full:
                    await desk.store.append([NewEvent.of("T", 1)])
            await desk.quiet()
            assert desk.store.asked == asked
            assert desk.store.looked <= looked + 2
            for one in waits:
                one.cancel()

    run(check())


def test_what_another_process_changes_is_noticed_soon_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription_watch, "LOOK_AGAIN_S", 0.05)

    async def check() -> None:
        async with a_desk() as (desk, lease):
            waits = await desk.waiting()
            other = desk.another_store()
            await other.change_subscription("s", consumers.release(lease.id, failed=False))
            desk.store.tell()  # which a worker does who sees that another one has written
            assert first_of(await asyncio.wait_for(waits, SOON_S)) == 1

    run(check())


def test_a_subscription_that_is_deleted_is_told_to_other_processes() -> None:
    async def check() -> None:
        async with a_desk() as (desk, _):
            told = 0

            def tell() -> None:
                nonlocal told
                told += 1

            desk.store.on_written = tell
            assert await desk.store.delete_checkpoint("s") is True
            assert await desk.store.delete_checkpoint("s") is False
            assert told == 1

    run(check())


def test_who_has_left_gets_nothing() -> None:
    async def check() -> None:
        async with a_desk() as (desk, lease):
            waits = await desk.waiting()
            desk.end()
            await _release(desk, lease)
            assert await asyncio.wait_for(waits, SOON_S) is None
            assert first_of(await desk.lease()) == 1

    run(check())


def test_nobody_watches_who_does_not_wait() -> None:
    async def check() -> None:
        async with a_desk() as (desk, _):
            assert await desk.lease(0.01) is None
            assert not desk.store._watchers
            assert not desk.store._subscription_watchers

    run(check())
