"""Tenants are opened when they are used, and closed again when too many are open."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus import Limits, NewEvent
from ebus.backends.memory import Log, MemoryEngine, MemoryStore
from ebus.backends.sqlite import SqliteEngine
from ebus.core.aio import AsyncEngine
from ebus.core.errors import StoreClosed, StoreUnavailable
from ebus.core.store import Write, Written
from ebus.core.tenant import TenantName
from tests.http.conftest import write_config
from tests.live_server import serving

BOUND = 8
LIMITS = Limits(max_open_tenants=BOUND)
EVENT = NewEvent.of("T", 1, "2024-01-01T00:00:00Z")


def tenant(number: int) -> TenantName:
    return TenantName(f"tenant-{number}")


class CountedStore(MemoryStore):
    """Says when it closes. Its commits wait for `gate`, which is open unless a test shuts it."""

    def __init__(self, name: str, log: Log, limits: Limits, gate: threading.Event) -> None:
        super().__init__(log, limits)
        self.name = name
        self._gate = gate

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        self._gate.wait(60)
        return super().commit(writes)


class CountedEngine(MemoryEngine):
    """Knows how many stores are open at the most. Opening `failing` tenants fails."""

    def __init__(self) -> None:
        super().__init__(limits=LIMITS)
        self.gates: dict[str, threading.Event] = {}
        self.failing: set[str] = set()
        self.opened: list[CountedStore] = []
        self.most_open = 0

    def open(self, name: str, *, durability: object = None) -> MemoryStore:
        with self._lock:
            if self._closed:
                raise StoreClosed("the engine is closed")
            if name in self.failing:
                raise StoreUnavailable("the disk is gone")
            if name not in self.gates:
                self.gates[name] = threading.Event()
                self.gates[name].set()
            log = self._logs.setdefault(name, Log())
            self.opened.append(CountedStore(name, log, self._limits, self.gates[name]))
            self.most_open = max(self.most_open, len(self.open_stores()))
            return self.opened[-1]

    def open_stores(self) -> list[CountedStore]:
        return [store for store in self.opened if not store.closed]

    def times_opened(self, name: str) -> int:
        return sum(store.name == name for store in self.opened)

    def stored(self, name: str) -> int:
        return self._logs[name].head


def on_a_loop(scenario: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    @wraps(scenario)
    def test(*args: Any, **kwargs: Any) -> None:
        asyncio.run(scenario(*args, **kwargs))

    return test


@asynccontextmanager
async def counted() -> AsyncIterator[tuple[AsyncEngine, CountedEngine]]:
    engine = CountedEngine()
    async_engine = AsyncEngine(engine, limits=LIMITS)
    try:
        yield async_engine, engine
    finally:
        for gate in engine.gates.values():
            gate.set()
        await async_engine.aclose()
        assert engine.open_stores() == []


async def use(engine: AsyncEngine, name: TenantName) -> int:
    async with engine.tenant(name) as store:
        return (await store.append([EVENT])).last_position


async def use_others(engine: AsyncEngine, *, count: int = 3 * BOUND) -> None:
    """Enough of them for every tenant that is not in use to be closed."""
    for number in range(1_000, 1_000 + count):
        await use(engine, tenant(number))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


# The bound


@on_a_loop
async def test_of_hundreds_of_tenants_used_one_after_the_other_few_are_open() -> None:
    async with counted() as (async_engine, engine):
        for number in range(300):
            await use(async_engine, tenant(number))
        assert engine.most_open <= BOUND


@on_a_loop
async def test_what_is_borrowed_at_once_is_open_already_and_in_use_until_it_is_given_back() -> None:
    async with counted() as (async_engine, engine):
        name = tenant(1)
        assert async_engine.borrow_at_once(name) is None
        await use(async_engine, name)
        store = async_engine.borrow_at_once(name)
        assert store is not None
        await use_others(async_engine)
        assert engine.times_opened(name) == 1
        assert (await store.append([EVENT])).last_position == 2
        async_engine.give_back(name)
        await use_others(async_engine)
        await until(lambda: name not in [it.name for it in engine.open_stores()])
        assert async_engine.borrow_at_once(name) is None


@on_a_loop
async def test_who_is_borrowed_at_once_counts_as_asked_for() -> None:
    async with counted() as (async_engine, engine):
        name = tenant(1)
        await use(async_engine, name)
        for number in range(100, 100 + 3 * BOUND):
            await use(async_engine, tenant(number))
            assert async_engine.borrow_at_once(name) is not None
            async_engine.give_back(name)
        assert engine.times_opened(name) == 1


@on_a_loop
async def test_nothing_is_borrowed_at_once_while_the_engine_closes() -> None:
    async with counted() as (async_engine, engine):
        name = tenant(1)
        await use(async_engine, name)
        engine.gates[name].clear()
        under_way = asyncio.create_task(use(async_engine, name))
        await asyncio.sleep(0)
        closing = asyncio.create_task(async_engine.aclose())
        await asyncio.sleep(0)
        assert async_engine.borrow_at_once(name) is None
        engine.gates[name].set()
        await asyncio.gather(under_way, closing)


@on_a_loop
async def test_of_hundreds_of_tenants_used_by_a_few_at_once_few_are_open() -> None:
    async with counted() as (async_engine, engine):

        async def use_many(first: int) -> None:
            for number in range(first, first + 50):
                await use(async_engine, tenant(number))

        await asyncio.gather(*(use_many(50 * at) for at in range(BOUND)))
        assert engine.most_open <= BOUND


@on_a_loop
async def test_while_more_are_in_use_more_are_open_and_afterwards_few_again() -> None:
    async with counted() as (async_engine, engine):
        names = [tenant(number) for number in range(3 * BOUND)]
        await asyncio.gather(*(async_engine.borrow(name) for name in names))
        assert len(engine.open_stores()) == 3 * BOUND
        for name in names:
            async_engine.give_back(name)
        await until(lambda: len(engine.open_stores()) <= BOUND)


@on_a_loop
async def test_the_tenants_used_last_stay_open() -> None:
    async with counted() as (async_engine, engine):
        for number in range(3 * BOUND):
            await use(async_engine, tenant(0))
            await use(async_engine, tenant(number))
        await use(async_engine, tenant(0))
        assert engine.times_opened(tenant(0)) == 1


@on_a_loop
async def test_hundreds_of_sqlite_tenants_take_few_files(tmp_path: Path) -> None:
    limits = Limits(max_open_tenants=BOUND)
    engine = SqliteEngine(tmp_path, durability="normal", limits=limits)
    async_engine = AsyncEngine(engine, limits=limits)
    most_files = most_stores = 0

    async def use_many(first: int) -> None:
        nonlocal most_files, most_stores
        for number in range(first, first + 40):
            async with async_engine.tenant(tenant(number)) as store:
                await store.append([EVENT])
                assert (await store.read_wire(1)).count == 1
                most_files = max(most_files, len(open_databases("self", tmp_path)))
                most_stores = max(most_stores, len(engine._stores))

    await asyncio.gather(*(use_many(40 * at) for at in range(4)))
    await async_engine.aclose()
    assert most_files <= BOUND
    assert most_stores <= BOUND  # the engine forgets those that were closed
    assert open_databases("self", tmp_path) == set()


@on_a_loop
async def test_a_tenant_that_had_to_make_room_keeps_its_wal_until_the_stop(tmp_path: Path) -> None:
    limits = Limits(max_open_tenants=BOUND)
    engine = SqliteEngine(tmp_path, durability="normal", limits=limits)
    async_engine = AsyncEngine(engine, limits=limits)
    for turn in (1, 2):
        for number in range(3 * BOUND):
            assert await use(async_engine, tenant(number)) == turn
        assert {f"{tenant(number)}.db-wal" for number in range(3 * BOUND)} < files_in(tmp_path)
    await async_engine.aclose()
    assert files_in(tmp_path) == {f"{tenant(number)}.db" for number in range(3 * BOUND)}


def files_in(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def open_databases(process: int | str, directory: Path) -> set[str]:
    """The databases in this directory that a process has open."""
    found = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(descriptor)
            if target.startswith(str(directory)) and target.endswith(".db"):
                found.add(target)
    return found


# What is in use stays open


@on_a_loop
async def test_a_tenant_that_is_borrowed_is_not_closed() -> None:
    async with counted() as (async_engine, engine):
        async with async_engine.tenant(tenant(0)) as store:
            await use_others(async_engine)
            assert engine.opened[0] in engine.open_stores()
            assert (await store.append([EVENT])).first_position == 1
        await use_others(async_engine)
        assert engine.opened[0] not in engine.open_stores()


@on_a_loop
async def test_a_tenant_that_is_borrowed_twice_is_not_closed_when_one_gives_it_back() -> None:
    async with counted() as (async_engine, engine):
        for _ in range(2):
            await async_engine.borrow(tenant(0))
        async_engine.give_back(tenant(0))
        await use_others(async_engine)
        assert engine.opened[0] in engine.open_stores()


@on_a_loop
async def test_a_tenant_that_is_written_to_is_not_closed_though_its_caller_has_left() -> None:
    async with counted() as (async_engine, engine):
        await use(async_engine, tenant(0))
        engine.gates[tenant(0)].clear()
        leaving = asyncio.create_task(use(async_engine, tenant(0)))
        for _ in range(3):  # until a thread has it: one that only waits would be dropped
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await use_others(async_engine)
        assert engine.opened[0] in engine.open_stores()
        engine.gates[tenant(0)].set()
        await until(lambda: engine.stored(tenant(0)) == 2)
        await use_others(async_engine)
        assert engine.opened[0] not in engine.open_stores()


@on_a_loop
async def test_a_tenant_that_is_opened_again_goes_on_where_it_was() -> None:
    async with counted() as (async_engine, engine):
        for expected in range(1, 5):
            assert await use(async_engine, tenant(0)) == expected
            await use_others(async_engine)
        assert engine.times_opened(tenant(0)) == 4


@on_a_loop
async def test_a_tenant_is_opened_again_only_when_it_has_been_closed() -> None:
    """What is asked for while it closes waits: two stores of a tenant are never open."""
    async with counted() as (async_engine, engine):
        doubles: Counter[int] = Counter()

        async def use_few(first: int) -> None:
            for number in range(200):
                await use(async_engine, tenant((first + 7 * number) % (BOUND + 3)))
                names = Counter(store.name for store in engine.open_stores())
                doubles.update(count for count in names.values() if count > 1)

        await asyncio.gather(*(use_few(3 * at) for at in range(4)))
        assert not doubles


# Openings that fail, or that nobody waits for any more


@on_a_loop
async def test_an_opening_that_fails_fails_for_all_who_wait_and_takes_no_place() -> None:
    async with counted() as (async_engine, engine):
        engine.failing.add(tenant(0))
        results = await asyncio.gather(
            *(use(async_engine, tenant(0)) for _ in range(3)), return_exceptions=True
        )
        assert list(map(type, results)) == [StoreUnavailable] * 3
        assert async_engine.open_tenants == 0
        engine.failing.clear()
        assert await use(async_engine, tenant(0)) == 1


@on_a_loop
async def test_openings_that_fail_do_not_keep_others_from_being_closed() -> None:
    async with counted() as (async_engine, engine):
        engine.failing |= {tenant(number) for number in range(0, 300, 2)}
        for number in range(300):
            with suppress(StoreUnavailable):
                await use(async_engine, tenant(number))
        assert engine.most_open <= BOUND


@on_a_loop
async def test_who_came_first_may_leave_and_those_who_wait_too_get_the_tenant() -> None:
    async with counted() as (async_engine, _):
        first = asyncio.create_task(async_engine.borrow(tenant(0)))
        second = asyncio.create_task(use(async_engine, tenant(0)))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1


@on_a_loop
async def test_a_tenant_that_nobody_waited_for_to_open_is_closed_like_another() -> None:
    async with counted() as (async_engine, engine):
        leaving = asyncio.create_task(async_engine.borrow(tenant(0)))
        await asyncio.sleep(0)
        leaving.cancel()
        await until(lambda: len(engine.opened) == 1)
        await use_others(async_engine)
        assert engine.opened[0] not in engine.open_stores()


# The end


@on_a_loop
async def test_closing_in_the_middle_finishes_or_refuses_each_and_leaves_nothing_open() -> None:
    engine = CountedEngine()
    async_engine = AsyncEngine(engine, limits=LIMITS)
    answered: Counter[str] = Counter()

    async def use_until_refused(first: int) -> None:
        number = first
        while True:
            name = tenant(number % (2 * BOUND))
            try:
                await use(async_engine, name)
            except StoreClosed:
                return
            answered[name] += 1
            number += 1

    users = [asyncio.create_task(use_until_refused(at)) for at in range(BOUND)]
    await until(lambda: answered.total() > 100)
    await async_engine.aclose()
    await asyncio.gather(*users)
    assert engine.open_stores() == []
    assert {name: engine.stored(name) for name in answered} == answered


@on_a_loop
async def test_closing_waits_for_a_tenant_that_was_being_closed_already() -> None:
    async with counted() as (async_engine, engine):
        names = [tenant(number) for number in range(2 * BOUND)]
        await asyncio.gather(*(async_engine.borrow(name) for name in names))
        for name in names:
            async_engine.give_back(name)  # which begins to close some
        await async_engine.aclose()
        assert engine.open_stores() == []


# Whatever happens

USE = st.tuples(
    st.integers(0, 11),  # which tenant
    st.sampled_from(["append", "read", "nothing", "leave"]),
    st.integers(0, 3),  # turns of the loop for which it is kept
)


@given(plans=st.lists(st.lists(USE, max_size=12), min_size=1, max_size=4))
def test_whoever_uses_tenants_finds_them_open_and_with_all_that_was_appended(
    plans: list[list[tuple[int, str, int]]],
) -> None:
    async def scenario() -> None:
        limits = Limits(max_open_tenants=4)
        engine = CountedEngine()
        async_engine = AsyncEngine(engine, limits=limits)
        appended: Counter[str] = Counter()

        async def follow(plan: list[tuple[int, str, int]]) -> None:
            for number, what, turns in plan:
                name = tenant(number)
                if what == "leave":
                    borrowing = asyncio.create_task(use(async_engine, name))
                    await asyncio.sleep(0)
                    if not borrowing.cancel():
                        appended[name] += 1
                    with suppress(asyncio.CancelledError):
                        await borrowing
                    continue
                async with async_engine.tenant(name) as store:
                    if what == "append":
                        await store.append([EVENT])
                        appended[name] += 1
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if what != "nothing":
                        assert await store.head() >= appended[name]

        await asyncio.gather(*map(follow, plans))
        if all(what != "leave" for plan in plans for _, what, _ in plan):
            assert engine.most_open <= 4
            assert {name: engine.stored(name) for name in appended} == appended
        await async_engine.aclose()
        assert engine.open_stores() == []

    asyncio.run(scenario())


# Over HTTP


def test_a_server_serves_hundreds_of_tenants_with_few_of_them_open(tmp_path: Path) -> None:
    tenants = [
        {"name": f"tenant-{number}", "api_key": f"key-{number:040}"} for number in range(300)
    ]
    settings = {"durability": "normal", "limits": {"max_open_tenants": BOUND}}
    write_config(tmp_path / "tenants.yaml", {"tenants": tenants, **settings})
    most = 0
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        with httpx.Client(base_url=server.url, timeout=60, verify=False) as client:
            for turn in (1, 2):
                for number in range(300):
                    key = {"X-API-Key": f"key-{number:040}"}
                    event = {"type": "T", "data": [number, turn]}
                    answer = client.post("/events", headers=key, json=event)
                    assert answer.json()["position"] == turn
                    databases = open_databases(server.process.pid, tmp_path / "data")
                    most = max(most, len(databases))
            for number in range(0, 300, 10):
                key = {"X-API-Key": f"key-{number:040}"}
                events = client.get("/events?from=1", headers=key).json()
                assert [event["data"] for event in events] == [[number, 1], [number, 2]]
    assert most <= BOUND
