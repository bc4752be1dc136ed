"""Those who follow a tenant, over a store whose reads wait until they are let go."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from ebus.backends.memory import MemoryEngine
from ebus.core.aio import AsyncTenantStore
from ebus.core.errors import StoreDamaged, StoreUnavailable
from ebus.core.store import WirePage
from ebus.core.tenant import TenantName
from ebus.http import live as live_module
from ebus.http import outage
from ebus.http.framing import FRAMINGS, NDJSON, Frame
from ebus.http.live import PAGE_EVENTS, Live, Tail
from ebus.http.news import Commits
from ebus.http.tenant import Tenant
from tests.http.test_server_limits_inside import in_a_loop, until


def test_a_tenant_that_nobody_follows_any_more_leaves_nothing_behind() -> None:
    async def follow_and_leave(live: Live, threads: ThreadPoolExecutor) -> weakref.ref[object]:
        with MemoryEngine() as engine:
            store = AsyncTenantStore(engine.open("alice"), writes=threads, reads=threads)
            tenant = Tenant(TenantName("alice"), store)
            with live.waiting(tenant, lambda: None):
                assert live.hub(tenant) is live.hub(tenant)
            await store.aclose()
            return weakref.ref(store)

    async def check() -> None:
        live = Live(Commits(1, 1).of(0), max_tails=2)
        with ThreadPoolExecutor(1) as threads:
            left = await follow_and_leave(live, threads)
        gc.collect()
        assert left() is None

    asyncio.run(check())


class Store:
    """A log whose hub reads through a gate; what tails read by themselves passes beside it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.hub_reads = 0
        """Those that have begun."""
        self.failure: Exception | None = None
        self._head = 0
        self._watching: list[Callable[[], object]] = []

    def append(self, count: int = 1) -> None:
        self._head += count
        for tell in list(self._watching):
            tell()

    def watch(self, tell: Callable[[], object]) -> Callable[[], None]:
        self._watching.append(tell)
        return lambda: self._watching.remove(tell)

    async def head(self) -> int:
        return self._head

    async def read_wire(
        self, start: int, stop: int | None = None, *, limit: int, **_: Any
    ) -> WirePage:
        last = min(self._head if stop is None else stop, self._head, start + limit - 1)
        if limit == PAGE_EVENTS:
            self.hub_reads += 1
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        events = [b'{"position":%d,"type":"T"}' % number for number in range(start, last + 1)]
        end = self._head if stop is None else min(stop, self._head)
        next_start = last + 1 if last < end else None
        return WirePage(events, len(events), start if events else 0, next_start)


class Client:
    """A tail, and what has come of it."""

    def __init__(self, live: Live, tenant: Tenant, start: int = 1) -> None:
        self.is_full = self.is_gone = False
        self.text = b""
        self.on_write: Callable[[], object] = lambda: None
        self._drained = asyncio.Event()
        self._left: Callable[[], None] = lambda: None
        self.tail = Tail(live, tenant, FRAMINGS[NDJSON], start=start, follow=True)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        with self.tail.waiting():
            await self.tail.run(self)

    @property
    def positions(self) -> list[int]:
        return [json.loads(line)["position"] for line in self.text.splitlines()]

    def write(self, frame: Frame) -> None:
        self.text += frame.body
        self.on_write()

    def write_if_room(self, frame: Frame) -> bool:
        if self.is_full or self.is_gone:
            return False
        self.write(frame)
        return True

    async def drain(self) -> None:
        while self.is_full and not self.is_gone:
            self._drained.clear()
            await self._drained.wait()

    def take_all(self) -> None:
        self.is_full = False
        self._drained.set()

    def when_left(self, left: Callable[[], None]) -> None:
        self._left = left

    def leave(self) -> None:
        self.is_gone = True
        self._drained.set()
        self._left()


class Followed:
    """A tenant with a hub that stays, and whoever follows it."""

    def __init__(self) -> None:
        self.store = Store()
        self.live = Live(Commits(1, 1).of(0), max_tails=100)
        self.tenant = Tenant(TenantName("alice"), cast(AsyncTenantStore, self.store))
        self._stays = self.live.waiting(self.tenant, lambda: None)
        self._stays.__enter__()
        self.hub = self.live.hub(self.tenant)

    async def joined(self, start: int = 1) -> Client:
        client = Client(self.live, self.tenant, start)
        await until(lambda: client.tail in self.hub.tails)
        return client

    async def reading(self) -> None:
        """Append, and return when the hub has begun to read it."""
        self.store.gate.clear()
        before = self.store.hub_reads
        self.store.append()
        await until(lambda: self.store.hub_reads > before)


@in_a_loop
async def test_who_joins_while_a_page_is_read_gets_it_once() -> None:
    followed = Followed()
    followed.store.append(3)
    first = await followed.joined()
    await followed.reading()
    second = await followed.joined()  # has read up to where the hub stands, which is before 4
    assert second.positions == [1, 2, 3]
    followed.store.gate.set()
    await until(lambda: len(second.positions) == 4)
    followed.store.append(2)
    await until(lambda: len(first.positions) == len(second.positions) == 6)
    assert first.positions == second.positions == [1, 2, 3, 4, 5, 6]


@in_a_loop
async def test_who_leaves_while_a_page_is_read_gets_nothing_of_it() -> None:
    followed = Followed()
    stays, leaves = await followed.joined(), await followed.joined()
    await followed.reading()
    leaves.leave()
    await leaves.task
    followed.store.gate.set()
    await until(lambda: stays.positions == [1])
    assert leaves.text == b""
    assert list(followed.hub.tails) == [stays.tail]


@in_a_loop
async def test_a_page_that_all_have_left_is_not_written_to_those_who_come_after() -> None:
    followed = Followed()
    followed.store.append(2)
    leaves = await followed.joined()
    await followed.reading()
    leaves.leave()
    await leaves.task
    followed.store.append(2)
    comes = await followed.joined()  # behind what the hub is still reading
    ahead = await followed.joined(start=7)
    followed.store.gate.set()
    followed.store.append(2)
    await until(lambda: len(comes.positions) >= 7 and len(ahead.positions) >= 1)
    assert comes.positions == [1, 2, 3, 4, 5, 6, 7]
    assert ahead.positions == [7]


@in_a_loop
async def test_who_leaves_while_a_page_is_written_gets_nothing_of_it() -> None:
    followed = Followed()
    first, second = await followed.joined(), await followed.joined()
    first.on_write = second.leave
    followed.store.append()
    await second.task
    assert (first.positions, second.text) == ([1], b"")
    followed.store.append()
    await until(lambda: first.positions == [1, 2])


def test_others_have_their_turn_while_a_page_is_written_and_nobody_misses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "TAILS_AT_A_TIME", 1)

    @in_a_loop
    async def test() -> None:
        followed = Followed()
        tails = [await followed.joined() for _ in range(4)]
        joining: list[Client] = []
        tails[0].on_write = lambda: joining.append(Client(followed.live, followed.tenant))
        for _ in range(3):
            followed.store.append()
        await until(lambda: all(len(it.positions) == 3 for it in [*tails, *joining]))
        followed.store.append()
        await until(lambda: all(len(it.positions) == 4 for it in [*tails, *joining]))
        assert joining
        assert all(it.positions == [1, 2, 3, 4] for it in [*tails, *joining])

    test()


@in_a_loop
async def test_who_is_slow_leaves_reads_on_by_itself_and_joins_again() -> None:
    followed = Followed()
    quick, slow = await followed.joined(), await followed.joined()
    slow.is_full = True
    followed.store.append(2)
    await until(lambda: quick.positions == [1, 2])
    assert list(followed.hub.tails) == [quick.tail]
    assert slow.text == b""
    followed.store.append()
    slow.take_all()
    await until(lambda: slow.tail in followed.hub.tails)
    followed.store.append()
    await until(lambda: len(slow.positions) == 4)
    assert slow.positions == quick.positions == [1, 2, 3, 4]


@in_a_loop
async def test_a_read_that_fails_breaks_all_off_and_the_next_one_starts_anew() -> None:
    followed = Followed()
    clients = [await followed.joined() for _ in range(3)]
    followed.store.failure = StoreDamaged("nobody can read that")
    followed.store.append()
    for client in clients:
        with pytest.raises(StoreDamaged):
            await client.task
    followed.store.failure = None
    again = await followed.joined()
    followed.store.append()
    await until(lambda: again.positions == [1, 2])


@in_a_loop
async def test_tails_wait_for_a_store_that_is_away_and_miss_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.01)
    followed = Followed()
    clients = [await followed.joined() for _ in range(3)]
    followed.store.failure = StoreUnavailable("the cluster is on fire")
    followed.store.append(2)
    await until(lambda: followed.store.hub_reads >= 5)  # it is asked again, and none has left
    assert len(followed.hub.tails) == 3
    followed.store.failure = None
    await until(lambda: all(it.positions == [1, 2] for it in clients))
    followed.store.append()
    await until(lambda: all(it.positions == [1, 2, 3] for it in clients))


@in_a_loop
async def test_who_waits_for_a_store_can_leave_and_be_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(outage, "LONGEST_PAUSE_S", 60.0)
    followed = Followed()
    leaves, stays = await followed.joined(), await followed.joined()
    followed.store.failure = StoreUnavailable("the cluster is on fire")
    followed.store.append()
    await until(lambda: followed.store.hub_reads)
    leaves.leave()
    await leaves.task
    followed.live.close()
    await stays.task
    await until(lambda: not followed.hub.tails)
