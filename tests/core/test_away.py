"""An engine that does not come back: what waits for it, for how long, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from ebus import NewEvent
from ebus.core import aio
from ebus.core import lane as lane_module
from ebus.core.aio import AsyncEngine, AsyncTenantStore
from ebus.core.errors import StoreOverloaded, StoreUnavailable, StoreUnreachable
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from tests.breaking import BreakingEngine, Switch

ALICE, BOB, CAROL = TenantName("alice"), TenantName("bob"), TenantName("carol")
PATIENCE_S = 30
EVENT = NewEvent.of("T", 1)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * PATIENCE_S))

    return run


@asynccontextmanager
async def opened(
    directory: Path, limits: Limits | None = None
) -> AsyncIterator[tuple[AsyncEngine, Switch]]:
    switch = Switch(directory)
    engine = AsyncEngine(BreakingEngine(switch, limits=limits), limits=limits)
    try:
        yield engine, switch
    finally:
        await engine.aclose()


async def hanging(switch: Switch, calls: int = 1, who: str = "_") -> None:
    await asyncio.to_thread(switch.until_hanging, calls, who)


async def failure_of(asked: asyncio.Future[Any]) -> BaseException | None:
    await asyncio.wait([asked])
    return asked.exception()


@in_a_loop
async def test_reads_that_each_ask_somebody_far_away_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (engine, switch):
        alice = await engine.borrow(ALICE)
        with switch.hanging(ALICE):
            reads = [asyncio.create_task(alice.head()) for _ in range(4)]
            await hanging(switch, 4, ALICE)
        assert await asyncio.gather(*reads) == [0, 0, 0, 0]


@in_a_loop
async def test_who_waits_behind_calls_that_were_in_vain_is_refused_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "IN_VAIN_S", 0.0)
    async with opened(tmp_path, Limits(max_tenant_reads=1)) as (engine, switch):
        alice = await engine.borrow(ALICE)
        with switch.hanging(ALICE) as mend:
            reads = [asyncio.create_task(alice.head()) for _ in range(50)]
            first = asyncio.create_task(alice.append([EVENT]))
            await hanging(switch, 2, ALICE)
            others = [asyncio.create_task(alice.append([EVENT])) for _ in range(50)]
            await asyncio.sleep(0)
            with switch.unreachable(ALICE):
                mend()  # the calls that hang now come back, and the next ones fail
                assert not await failure_of(first)
                await asyncio.wait([*reads, *others])
        failures = [await failure_of(one) for one in (*reads[1:], *others)]
        assert all(isinstance(failure, StoreUnavailable) for failure in failures)
        assert sum(isinstance(failure, StoreUnreachable) for failure in failures) == 51
        assert (await alice.append([EVENT])).first_position == 2


@in_a_loop
async def test_the_health_is_asked_once_for_all_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "HEALTH_PATIENCE_S", 0.05)
    async with opened(tmp_path) as (engine, switch):
        await engine.check_health()
        with switch.hanging():
            checks = [asyncio.create_task(engine.check_health()) for _ in range(20)]
            for check in checks:
                assert isinstance(await failure_of(check), StoreUnavailable)
            assert switch.hanging_calls() == 1
        with switch.unreachable():
            while not isinstance(await failure_of(check_of(engine)), StoreUnreachable):
                pass  # the one that hung has not come back yet
        await check_of(engine)


def check_of(engine: AsyncEngine) -> asyncio.Task[None]:
    return asyncio.create_task(engine.check_health())


@in_a_loop
async def test_sizes_are_those_that_could_be_had_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (engine, switch):
        for name in (ALICE, BOB, CAROL):
            await engine.borrow(name)
        assert set(await engine.sizes([ALICE, BOB])) == {ALICE, BOB}
        with switch.unreachable(BOB):
            assert set(await engine.sizes([ALICE, BOB, CAROL])) == {ALICE}
        monkeypatch.setattr(aio, "SIZES_PATIENCE_S", 0.05)
        with switch.hanging(BOB):
            assert set(await engine.sizes([ALICE, BOB, CAROL])) == {ALICE}
            await engine.check_health()  # does not wait behind that


@in_a_loop
async def test_who_waits_too_long_for_a_turn_to_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "OPENING_TURN_S", 0.05)
    async with opened(tmp_path) as (engine, switch):
        slow = [TenantName(f"slow{number}") for number in range(aio.OPENING_THREADS)]
        with switch.hanging():
            openings = [asyncio.create_task(engine.borrow(name)) for name in slow]
            await hanging(switch, len(slow))
            with pytest.raises(StoreOverloaded):
                await engine.borrow(ALICE)
        assert all(isinstance(it, AsyncTenantStore) for it in await asyncio.gather(*openings))
        await engine.borrow(ALICE)  # it is tried again


@in_a_loop
async def test_closing_closes_what_can_be_and_gives_up_what_cannot(tmp_path: Path) -> None:
    switch = Switch(tmp_path)
    inner = BreakingEngine(switch)
    engine = AsyncEngine(inner)
    alice, bob = await engine.borrow(ALICE), await engine.borrow(BOB)
    await bob.append([EVENT])
    with switch.hanging(ALICE):
        hangs = asyncio.create_task(alice.head())
        await hanging(switch, 1, ALICE)
        assert not await engine.aclose(patience_s=0.05)
        assert inner.open(BOB) is not bob._store
        assert not hangs.done()
    assert await hangs == 0
    assert await engine.aclose(patience_s=PATIENCE_S)


@pytest.mark.parametrize("call", ["health", "sizes", "opening"])
@in_a_loop
async def test_closing_gives_up_a_call_of_the_engine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(aio, "HEALTH_PATIENCE_S", 0.01)
    monkeypatch.setattr(aio, "SIZES_PATIENCE_S", 0.01)
    switch = Switch(tmp_path)
    engine = AsyncEngine(BreakingEngine(switch))
    await engine.borrow(ALICE)
    with switch.hanging():
        asked: asyncio.Task[Any]
        if call == "health":
            asked = check_of(engine)
        elif call == "sizes":
            asked = asyncio.create_task(engine.sizes([ALICE]))
        else:
            asked = asyncio.create_task(engine.borrow(BOB))
        await hanging(switch)
        assert not await engine.aclose(patience_s=0.05)
    await asyncio.wait([asked])
    assert await engine.aclose(patience_s=PATIENCE_S)
