"""Small commits on the event loop: each is told once, whichever way it went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ebus import Limits
from ebus.backends.memory import Log, MemoryEngine, MemoryStore
from ebus.core import aio
from ebus.core.aio import AsyncEngine, AsyncTenantStore
from ebus.core.errors import StoreFull
from ebus.core.store import Write, Written
from tests.core.test_aio import ALICE, event


class QuickStore(MemoryStore):
    """Commits on the loop and says so, unless it is busy or fails."""

    def __init__(self) -> None:
        super().__init__(Log(), Limits())
        self.is_busy = False
        self.failure: StoreFull | None = None
        self.ways: list[str] = []

    def commit_quickly(self, writes: Sequence[Write]) -> list[Written] | None:
        if self.is_busy:
            return None
        if self.failure is not None:
            raise self.failure
        self.ways.append("loop")
        return super().commit(writes)

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        self.ways.append("thread")
        return super().commit(writes)


class Observer:
    """Remembers how many writes shared each commit."""

    def __init__(self) -> None:
        self.commits: list[int] = []

    def committed(self, writes: int, duration_ns: int) -> None:
        assert 0 < duration_ns < 60 * 10**9
        self.commits.append(writes)

    def synced(self, duration_ns: int) -> None:
        raise AssertionError

    written_back = synced


class QuickEngine(MemoryEngine):
    def __init__(self, store: QuickStore) -> None:
        super().__init__()
        self._store = store

    def open(self, name: str, *, durability: object = None) -> MemoryStore:
        return self._store


@asynccontextmanager
async def observed(
    store: QuickStore,
) -> AsyncIterator[tuple[AsyncTenantStore, Observer]]:
    engine, observer = AsyncEngine(QuickEngine(store)), Observer()
    tenant = await engine.borrow(ALICE)
    tenant.observe(observer)
    try:
        yield tenant, observer
    finally:
        await engine.aclose()


def test_each_commit_is_told_once_on_the_loop_and_in_a_thread() -> None:
    async def scenario() -> None:
        async with observed(store := QuickStore()) as (tenant, observer):
            await tenant.append([event()])
            await asyncio.gather(*(tenant.append([event()]) for _ in range(3)))
            store.is_busy = True
            await tenant.append([event()])
            store.is_busy = False
            await tenant.append([event()])
        assert store.ways == ["loop", "loop", "thread", "loop"]
        assert observer.commits == [1, 3, 1, 1]

    asyncio.run(scenario())


def test_a_commit_that_fails_is_told_as_one_that_fails_in_a_thread() -> None:
    async def scenario() -> None:
        async with observed(store := QuickStore()) as (tenant, observer):
            store.failure = StoreFull("the disk is full")
            with pytest.raises(StoreFull):
                await tenant.append([event()])
            assert observer.commits == [1]

    asyncio.run(scenario())


def test_after_a_slow_commit_the_loop_keeps_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with observed(store := QuickStore()) as (tenant, observer):
            monkeypatch.setattr(aio, "SLOW_S", 0.0)
            await tenant.append([event()])
            monkeypatch.setattr(aio, "SLOW_S", 60.0)
            await tenant.append([event()])
            tenant._rests_until_s -= aio.REST_S
            await tenant.append([event()])
        assert store.ways == ["loop", "thread", "loop"]
        assert observer.commits == [1, 1, 1]

    asyncio.run(scenario())
