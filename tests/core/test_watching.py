"""Who waits on one event loop hears of what is written through another engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest

from ebus import EbusError, NewEvent
from ebus.core import consumers, watching
from ebus.core.aio import AsyncEngine, AsyncTenantStore
from ebus.core.errors import StoreUnavailable
from ebus.core.tenant import TenantName
from tests.shared_memory import SharedEngine, SharedLog, SharedStore

ALICE = TenantName("alice")
PATIENCE_S = 30


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * PATIENCE_S))

    return run


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0.001)


class FrailStore(SharedStore):
    """Counts how often it was to be watched. The first `failures` times it cannot be."""

    failures = 0
    asked = 0
    gate: threading.Event | None = None

    def watch(self, moved: Callable[[], None]) -> Callable[[], None]:
        self.asked += 1
        if self.gate is not None:
            self.gate.wait(PATIENCE_S)
        if self.asked <= self.failures:
            raise StoreUnavailable("there is nobody to ask")
        return super().watch(moved)


class FrailEngine(SharedEngine):
    def new_store(self, name: TenantName, log: SharedLog) -> FrailStore:
        return FrailStore(log, self._limits)


class Pair:
    """Alice's store through two engines, of which the first is used by those who wait."""

    def __init__(
        self, engine: AsyncEngine, first: AsyncTenantStore, store: FrailStore, second: SharedStore
    ) -> None:
        self.engine = engine
        self.first = first
        self.store = store
        """What `first` is made of."""
        self.second = second
        self.told = asyncio.Event()
        self.times = 0

    def tell(self) -> None:
        self.times += 1
        self.told.set()

    @property
    def watchers(self) -> int:
        return len(self.store.log.watchers)

    async def until_watched(self, watchers: int = 1) -> None:
        await until(lambda: self.watchers == watchers)
        await self.settled()

    async def settled(self) -> None:
        """Those who watch are told once when that has begun; afterwards there are no news."""
        for _ in range(10):
            await asyncio.sleep(0)
            await until(lambda: self.first.idle)
        self.told.clear()

    async def until_told(self) -> None:
        await asyncio.wait_for(self.told.wait(), PATIENCE_S)
        self.told.clear()

    def append_elsewhere(self) -> None:
        self.second.append([NewEvent.of("T", 1)])


@asynccontextmanager
async def a_pair() -> AsyncIterator[Pair]:
    logs: dict[str, SharedLog] = {}
    with SharedEngine(logs) as other:
        inner = FrailEngine(logs)
        engine = AsyncEngine(inner)
        try:
            first = await engine.borrow(ALICE)
            store = inner.open(ALICE)
            assert isinstance(store, FrailStore)
            yield Pair(engine, first, store, other.open(ALICE))
        finally:
            await engine.aclose()


@in_a_loop
async def test_who_watches_hears_of_what_another_engine_appends() -> None:
    async with a_pair() as pair:
        pair.first.watch(pair.tell)
        await pair.until_watched()
        for head in (1, 2, 3):
            await asyncio.to_thread(pair.append_elsewhere)
            await pair.until_told()
            assert await pair.first.head() == head


@in_a_loop
async def test_who_waits_for_a_lease_hears_of_what_another_engine_does_with_it() -> None:
    async with a_pair() as pair:
        pair.append_elsewhere()
        pair.first.watch_subscription("mailer", pair.tell)
        await pair.until_watched()
        lease = await asyncio.to_thread(pair.second.lease, "mailer")
        await pair.until_told()
        assert lease is not None
        await asyncio.to_thread(pair.second.acknowledge, "mailer", lease.id)
        await pair.until_told()
        await asyncio.to_thread(pair.second.delete_checkpoint, "mailer")
        await pair.until_told()
        assert await pair.first.subscription("mailer") is None


@in_a_loop
async def test_what_came_while_watching_began_is_told_too() -> None:
    async with a_pair() as pair:
        pair.store.gate = threading.Event()
        pair.first.watch(pair.tell)
        await asyncio.to_thread(pair.append_elsewhere)
        assert pair.watchers == 0
        assert not pair.told.is_set()
        pair.store.gate.set()
        await pair.until_told()


@in_a_loop
async def test_a_store_is_watched_while_anybody_waits_and_not_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "LINGER_S", 0.01)
    async with a_pair() as pair:
        await pair.first.append([NewEvent.of("T", 1)])
        assert pair.store.asked == 0
        ends = [pair.first.watch(pair.tell), pair.first.watch_subscription("mailer", pair.tell)]
        await pair.until_watched()
        for end in ends:
            assert pair.watchers == 1
            end()
            end()
        await pair.until_watched(0)
        assert pair.store.asked == 1
        pair.first.watch(pair.tell)
        await pair.until_watched()
        assert pair.store.asked == 2


@in_a_loop
async def test_who_polls_does_not_have_the_store_watched_anew_each_time() -> None:
    async with a_pair() as pair:
        for _ in range(5):
            end = pair.first.watch(pair.tell)
            await pair.until_watched()
            end()
        assert pair.store.asked == 1


@in_a_loop
async def test_who_leaves_while_watching_begins_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "LINGER_S", 0.0)
    async with a_pair() as pair:
        pair.store.gate = threading.Event()
        pair.first.watch(pair.tell)()
        await asyncio.sleep(0.01)
        pair.store.gate.set()
        await pair.settled()
        await pair.until_watched(0)
        assert pair.store.asked == 1


@in_a_loop
async def test_closing_ends_it() -> None:
    async with a_pair() as pair:
        pair.first.watch(pair.tell)
        await pair.until_watched()
        await pair.first.aclose()
        assert pair.watchers == 0
        pair.append_elsewhere()
        await asyncio.sleep(0)
        assert not pair.told.is_set()
        pair.first.watch(pair.tell)()  # too late, and no harm


@in_a_loop
async def test_closing_while_watching_begins_ends_it_too() -> None:
    async with a_pair() as pair:
        pair.store.gate = threading.Event()
        pair.first.watch(pair.tell)
        await until(lambda: pair.store.asked)
        closing = asyncio.create_task(pair.first.aclose())
        await asyncio.sleep(0)
        pair.store.gate.set()
        await closing
        assert pair.watchers == 0


@in_a_loop
async def test_a_store_that_cannot_be_watched_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "AGAIN_S", 0.01)
    async with a_pair() as pair:
        pair.store.failures = 3
        pair.first.watch(pair.tell)
        await pair.until_told()
        assert pair.store.asked == 4
        await asyncio.to_thread(pair.append_elsewhere)
        await pair.until_told()


@in_a_loop
async def test_news_that_come_together_are_told_together() -> None:
    async with a_pair() as pair:
        pair.first.watch(pair.tell)
        await pair.until_watched()
        before = pair.times
        for _ in range(200):
            pair.append_elsewhere()
        await pair.until_told()
        await pair.settled()
        assert pair.times == before + 1
        assert await pair.first.head() == 200
        pair.append_elsewhere()
        await pair.until_told()


def test_news_for_a_loop_that_is_closed_harm_nobody() -> None:
    logs: dict[str, SharedLog] = {}
    inner = FrailEngine(logs)

    async def wait_and_leave() -> None:
        engine = AsyncEngine(inner)
        first = await engine.borrow(ALICE)
        first.watch(lambda: None)
        await until(lambda: logs["alice"].watchers)

    asyncio.run(wait_and_leave())
    with inner, SharedEngine(logs) as other:
        for _ in range(2):
            other.open(ALICE).append([NewEvent.of("T", 1)])


@in_a_loop
async def test_a_change_that_is_refused_is_no_harm_to_who_watches() -> None:
    async with a_pair() as pair:
        pair.first.watch(pair.tell)
        await pair.until_watched()
        with pytest.raises(EbusError):
            await pair.first.change_subscription("mailer", consumers.acknowledge("x"))
        await asyncio.to_thread(pair.append_elsewhere)
        await pair.until_told()
