"""The border between asyncio and stores: grouping, order, bounds, closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ebus import Appended, EbusError, Limits, NewEvent
from ebus.backends.memory import Log, MemoryEngine, MemoryStore
from ebus.core.aio import AsyncEngine, AsyncTenantStore, Terms
from ebus.core.errors import (
    EngineError,
    InvalidEvent,
    StoreClosed,
    StoreOverloaded,
    StoreReadOnly,
    StoreUnavailable,
)
from ebus.core.store import Quota, WirePage, Write, Written
from ebus.core.tenant import TenantName

Test = Callable[[], Coroutine[None, None, None]]
ALICE, BOB = TenantName("alice"), TenantName("bob")


class GatedStore(MemoryStore):
    """Writes wait for the gate, so that a test can see what gathers meanwhile."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(Log(), limits)
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.groups: list[int] = []
        self.failure: EbusError | None = None

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        self.begun.set()
        self.gate.wait(60)
        self.groups.append(len(writes))
        if self.failure:
            raise self.failure
        return super().commit(writes)


class GatedEngine(MemoryEngine):
    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits=limits)
        self.gated: dict[str, GatedStore] = {}

    def open(self, name: str, *, durability: object = None) -> MemoryStore:
        return self.gated.setdefault(name, GatedStore(self._limits))


@asynccontextmanager
async def gated(
    limits: Limits | None = None,
) -> AsyncIterator[tuple[AsyncTenantStore, GatedStore, AsyncEngine]]:
    """A tenant whose first commit has begun and waits, so that further appends gather."""
    engine = GatedEngine(limits)
    async_engine = AsyncEngine(engine)
    tenant = await async_engine.borrow(ALICE)
    try:
        yield tenant, engine.gated["alice"], async_engine
    finally:
        for store in engine.gated.values():
            store.gate.set()
        await async_engine.aclose()


def event(type: str = "T") -> NewEvent:
    return NewEvent.of(type, 1, "2024-01-01T00:00:00Z")


async def begun(tenant: AsyncTenantStore, *batches: list[NewEvent]) -> list[asyncio.Task[Appended]]:
    """Appends that have been handed over, in this order."""
    tasks = []
    for batch in batches:
        tasks.append(asyncio.create_task(tenant.append(batch)))
        await asyncio.sleep(0)
    return tasks


def test_appends_that_come_during_a_commit_share_the_next_one() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            tasks = await begun(tenant, [event()], *[[event()]] * 5)
            store.gate.set()
            results = await asyncio.gather(*tasks)
        assert store.groups == [1, 5]
        assert [result.first_position for result in results] == [1, 2, 3, 4, 5, 6]

    asyncio.run(scenario())


def test_one_bad_append_harms_no_neighbour() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            tasks = await begun(tenant, [event()], [event()], [event("")], [event(), event()])
            store.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[2], InvalidEvent)
        assert [it for it in results if it is not results[2]] == [
            Appended(1, 1),
            Appended(2, 2),
            Appended(3, 4),
        ]

    asyncio.run(scenario())


def test_a_commit_that_fails_is_told_to_all_who_were_in_it_and_to_nobody_else() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            store.failure = StoreUnavailable("the disk is gone")
            tasks = await begun(tenant, [event()], [event()], [event()])
            store.gate.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, StoreUnavailable) for result in results)
            store.failure = None
            assert await tenant.append([event()]) == Appended(1, 1)

    asyncio.run(scenario())


def test_a_group_has_a_bound_but_always_room_for_one() -> None:
    async def scenario() -> None:
        async with gated(Limits(max_group_events=3)) as (tenant, store, _):
            tasks = await begun(tenant, [event()], [event()] * 2, [event()] * 2, [event()] * 5)
            store.gate.set()
            await asyncio.gather(*tasks)
        assert store.groups == [1, 1, 1, 1]

    asyncio.run(scenario())


@pytest.mark.parametrize("limits", [Limits(max_queue_appends=2), Limits(max_queue_bytes=50)])
def test_a_full_queue_refuses_and_loses_nothing(limits: Limits) -> None:
    async def scenario() -> None:
        async with gated(limits) as (tenant, store, _):
            tasks = await begun(tenant, *[[event()]] * 3)
            with pytest.raises(StoreOverloaded):
                await tenant.append([event()])
            store.gate.set()
            assert [result.last_position for result in await asyncio.gather(*tasks)] == [1, 2, 3]
            assert (await tenant.append([event()])).first_position == 4

    asyncio.run(scenario())


def test_an_append_whose_caller_leaves_while_it_waits_is_not_stored() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            first, second, third = await begun(tenant, [event()], [event("left")], [event()])
            second.cancel()
            store.gate.set()
            assert await first == Appended(1, 1)
            assert await third == Appended(2, 2)
            assert [it.type for it in store.read(1).events] == ["T", "T"]

    asyncio.run(scenario())


def test_an_append_whose_caller_leaves_while_it_is_committed_is_stored_once() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            first, second = await begun(tenant, [event("left")], [event()])
            first.cancel()
            store.gate.set()
            assert await second == Appended(2, 2)
            assert [it.type for it in store.read(1).events] == ["left", "T"]

    asyncio.run(scenario())


def test_writes_happen_in_the_order_in_which_they_were_asked_for() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            tasks = await begun(tenant, [event()])
            saves = [asyncio.create_task(tenant.save_checkpoint("s", at)) for at in range(5)]
            await asyncio.sleep(0)
            tasks += await begun(tenant, [event()], [event()])
            store.gate.set()
            await asyncio.gather(*tasks, *saves)
            assert store.groups == [1, 7]  # a checkpoint shares a commit with appends
            assert await tenant.checkpoint("s") == 4

    asyncio.run(scenario())


def test_many_slow_writes_of_one_tenant_do_not_hold_up_another() -> None:
    """A tenant takes one thread for writing, however many of its writes wait."""

    async def scenario() -> None:
        async with gated() as (alice, alices_store, engine):
            slow = await begun(alice, [event()])
            slow_saves = [
                asyncio.create_task(alice.save_checkpoint("s", at))
                for at in range(2 * Limits().max_write_threads)
            ]
            bob = await engine.borrow(BOB)
            bobs_store = bob._store
            assert isinstance(bobs_store, GatedStore)
            bobs_store.gate.set()
            assert await bob.append([event()]) == Appended(1, 1)
            alices_store.gate.set()
            await asyncio.gather(*slow, *slow_saves)

    asyncio.run(scenario())


def test_closing_finishes_what_waits_and_refuses_what_is_new() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, engine):
            tasks = await begun(tenant, [event()], [event()])
            closing = asyncio.create_task(engine.aclose())
            while not tenant._writes._closing:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
            with pytest.raises(StoreClosed):
                await tenant.append([event()])
            with pytest.raises(StoreClosed):
                await engine.borrow(BOB)
            store.gate.set()
            await asyncio.gather(*tasks)
            await closing
            assert store.closed
            for refused in (tenant.head, tenant.count):
                with pytest.raises(StoreClosed):
                    await refused()

    asyncio.run(scenario())


def test_a_tenant_is_opened_once_for_all_who_ask_at_the_same_time() -> None:
    async def scenario() -> None:
        engine = AsyncEngine(MemoryEngine())
        tenants = await asyncio.gather(*(engine.borrow(ALICE) for _ in range(10)))
        assert len(set(map(id, tenants))) == 1
        await engine.aclose()

    asyncio.run(scenario())


def test_an_opening_that_failed_is_tried_again() -> None:
    class Flaky(MemoryEngine):
        failures = 1

        def open(self, name: str, *, durability: object = None) -> MemoryStore:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("not yet")
            return super().open(name)

    async def scenario() -> None:
        engine = AsyncEngine(Flaky())
        with pytest.raises(StoreUnavailable):
            await engine.borrow(ALICE)
        assert await (await engine.borrow(ALICE)).head() == 0
        await engine.aclose()

    asyncio.run(scenario())


def test_every_engine_can_be_read_as_wire() -> None:
    """The memory engine has no `read_wire` of its own."""

    async def scenario() -> None:
        engine = AsyncEngine(MemoryEngine())
        tenant = await engine.borrow(ALICE)
        await tenant.append([event("A"), event("B")])
        expected = b'{"position":2,"type":"B","data":1,"timestamp":"2024-01-01T00:00:00Z"}'
        assert await tenant.read_wire(2) == WirePage([expected], 1, 2, None)
        assert await tenant.read_wire(3) == WirePage([], 0, 0, None)
        await engine.aclose()

    asyncio.run(scenario())


def test_one_tenant_that_does_not_close_leaves_no_other_open() -> None:
    async def scenario() -> None:
        async_engine = AsyncEngine(engine := MemoryEngine())
        await async_engine.borrow(ALICE)
        bob = await async_engine.borrow(BOB)

        def fail() -> None:
            raise StoreUnavailable("the disk is gone")

        engine.open("alice").close = fail  # type: ignore[method-assign]
        bobs_store = engine.open("bob")
        appending = asyncio.create_task(bob.append([event()]))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await async_engine.aclose()
        assert await appending == Appended(1, 1)
        assert bobs_store.closed

    asyncio.run(scenario())


def test_closing_a_tenant_again_after_its_engine_is_fine() -> None:
    async def scenario() -> None:
        engine = AsyncEngine(MemoryEngine())
        tenant = await engine.borrow(ALICE)
        await engine.aclose()
        await tenant.aclose()

    asyncio.run(scenario())


class SlowReads(MemoryStore):
    """Reads wait for the gate."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(Log(), limits)
        self.gate = threading.Event()
        self.running = 0

    def head(self) -> int:
        self.running += 1
        self.gate.wait(60)
        return 0


class SlowlyReadEngine(MemoryEngine):
    def open(self, name: str, *, durability: object = None) -> MemoryStore:
        return super().open(name) if name == "bob" else SlowReads(self._limits)


def test_the_slow_reads_of_many_tenants_hold_up_neither_openings_nor_health() -> None:
    async def scenario() -> None:
        engine = AsyncEngine(SlowlyReadEngine(), limits=Limits(max_read_threads=2))
        slow = [await engine.borrow(TenantName(f"slow-{at}")) for at in range(8)]
        reads = [asyncio.create_task(tenant.head()) for tenant in slow for _ in range(4)]
        await asyncio.sleep(0)
        bob = await engine.borrow(BOB)
        assert await bob.append([event()]) == Appended(1, 1)
        await engine.check_health()
        for tenant in slow:
            store = tenant._store
            assert isinstance(store, SlowReads)
            store.gate.set()
        await asyncio.gather(*reads)
        await engine.aclose()

    asyncio.run(scenario())


def test_too_many_reads_of_one_tenant_are_refused() -> None:
    async def scenario() -> None:
        limits = Limits(max_tenant_reads=1, max_queue_reads=2)
        engine = AsyncEngine(SlowlyReadEngine(limits=limits), limits=limits)
        tenant = await engine.borrow(ALICE)
        reads = [asyncio.create_task(tenant.head()) for _ in range(4)]
        await asyncio.sleep(0)
        refused = reads.pop()
        with pytest.raises(StoreOverloaded):
            await refused
        store = tenant._store
        assert isinstance(store, SlowReads)
        store.gate.set()
        assert await asyncio.gather(*reads) == [0, 0, 0]
        await engine.aclose()

    asyncio.run(scenario())


def test_a_caller_that_leaves_does_not_free_a_place_that_is_still_taken() -> None:
    async def scenario() -> None:
        limits = Limits(max_tenant_reads=1)
        engine = AsyncEngine(SlowlyReadEngine(limits=limits), limits=limits)
        tenant = await engine.borrow(ALICE)
        store = tenant._store
        assert isinstance(store, SlowReads)
        first = asyncio.create_task(tenant.head())
        while not store.running:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(tenant.head())
        for _ in range(100):
            await asyncio.sleep(0)
        assert store.running == 1
        store.gate.set()
        assert await second == 0
        await engine.aclose()

    asyncio.run(scenario())


def test_what_an_append_holds_in_memory_counts_for_the_queue() -> None:
    async def scenario() -> None:
        async with gated(Limits(max_queue_bytes=1_000)) as (tenant, store, _):
            tasks = await begun(tenant, [event()], [event()])
            with pytest.raises(StoreOverloaded):
                await tenant.append([event()], held_bytes=1_000)
            store.gate.set()
            await asyncio.gather(*tasks)
            assert (await tenant.append([event()], held_bytes=5_000)).first_position == 3

    asyncio.run(scenario())


def test_a_commit_with_too_few_answers_leaves_nobody_waiting() -> None:
    class Forgetful(MemoryStore):
        def commit(self, writes: Sequence[Write]) -> list[Written]:
            return []

    class ForgetfulEngine(MemoryEngine):
        def open(self, name: str, *, durability: object = None) -> MemoryStore:
            return Forgetful(Log(), self._limits)

    async def scenario() -> None:
        engine = AsyncEngine(ForgetfulEngine())
        with pytest.raises(EngineError):
            await (await engine.borrow(ALICE)).append([event()])
        await engine.aclose()

    asyncio.run(scenario())


def test_what_is_no_event_is_refused_as_the_store_does() -> None:
    async def scenario() -> None:
        engine = AsyncEngine(MemoryEngine())
        tenant = await engine.borrow(ALICE)
        nonsense: list[Any] = [5]
        with pytest.raises(InvalidEvent):
            await tenant.append(nonsense)
        with pytest.raises(InvalidEvent):
            await tenant.append([NewEvent("T", 5)])  # type: ignore[arg-type]
        await engine.aclose()

    asyncio.run(scenario())


def test_a_tenant_is_read_only_once_no_write_is_under_way_any_more() -> None:
    async def scenario() -> None:
        async with gated() as (tenant, store, _):
            [append] = await begun(tenant, [event()])
            await asyncio.to_thread(store.begun.wait, 60)
            bound = asyncio.create_task(tenant.bound(Terms(quota=Quota(is_read_only=True))))
            await asyncio.sleep(0)
            assert not bound.done()
            store.gate.set()
            await bound
            assert isinstance(append.exception(), StoreReadOnly)  # it came too late
            with pytest.raises(StoreReadOnly):
                await tenant.append([event()])
            await tenant.bound(Terms())
            await tenant.append([event()])

    asyncio.run(scenario())
