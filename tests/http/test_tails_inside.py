"""Those who follow a tenant with a real store, without sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ebus.backends.memory import MemoryEngine
from ebus.config import KeyConfig
from ebus.core.aio import AsyncTenantStore
from ebus.core.event import NewEvent
from ebus.core.filter import Filter
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName
from ebus.http import live as live_module
from ebus.http.framing import FRAMINGS, NDJSON, Frame
from ebus.http.live import Live, Tail
from ebus.http.news import Commits
from ebus.http.tenant import Tenant
from tests.http.test_server_limits_inside import in_a_loop, until

PATIENCE_S = 30


class Lines:
    """A sink that always has room."""

    is_full = False
    is_gone = False

    def __init__(self) -> None:
        self.body = b""

    def write(self, frame: Frame) -> None:
        self.body += frame.body

    def write_if_room(self, frame: Frame) -> bool:
        self.write(frame)
        return True

    async def drain(self) -> None: ...

    def when_left(self, left: Callable[[], None]) -> None: ...

    async def until(self, count: int) -> None:
        """Return when so many events have come."""
        await until(lambda: self.body.count(b'"position"') >= count)


class Served:
    """A tenant on a server without connections."""

    def __init__(self, live: Live, tenant: Tenant, store: TenantStore) -> None:
        self.live = live
        self.tenant = tenant
        self.store = store
        """Whoever writes to it the server does not know of."""

    async def append(self, *types: str) -> None:
        await self.tenant.store.append([NewEvent.of(kind, 1) for kind in types])

    @asynccontextmanager
    async def follow(self, **options: Any) -> AsyncIterator[tuple[Tail, Lines, asyncio.Task[None]]]:
        tail = Tail(self.live, self.tenant, FRAMINGS[NDJSON], start=1, follow=True, **options)
        lines = Lines()
        with tail.waiting():
            running = asyncio.create_task(tail.run(lines))
            try:
                yield tail, lines, running
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def until_joined(self, tail: Tail) -> None:
        await until(lambda: tail in self.live.hub(self.tenant).tails)


@asynccontextmanager
async def served(expires_at_s: float | None = None) -> AsyncIterator[Served]:
    with ThreadPoolExecutor(2) as threads, MemoryEngine() as engine:
        store = engine.open("alice")
        shared = AsyncTenantStore(store, writes=threads, reads=threads)
        key = KeyConfig(digest=b"", expires_at_s=expires_at_s)
        tenant = Tenant(TenantName("alice"), shared, key=key)
        yield Served(Live(Commits(1, 1).of(0), max_tails=9), tenant, store)
        await shared.aclose()


@in_a_loop
async def test_a_hub_that_breaks_breaks_its_tails_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else they would say that they are there, and never say anything again."""
    async with served() as alice, alice.follow() as (tail, _, running):
        await alice.until_joined(tail)
        monkeypatch.setattr(live_module, "events_of", lambda page: 1 / 0)
        await alice.append("A")
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(running, PATIENCE_S)


@in_a_loop
async def test_a_tail_of_what_is_recorded_since_then_shares_what_the_hub_reads() -> None:
    async with served() as alice:
        await alice.append("A")
        past = Filter(since="2020-01-01T00:00:00Z")
        async with alice.follow(filter=past) as (tail, lines, _):
            await lines.until(1)
            await alice.until_joined(tail)
            reads: list[int] = []
            read_wire = tail._store.read_wire
            tail._store.read_wire = lambda start, *args, **more: (  # type: ignore[method-assign]
                reads.append(start) or read_wire(start, *args, **more)  # type: ignore[func-returns-value]
            )
            for count in range(2, 5):
                await alice.append("B")
                await lines.until(count)
            assert tail in alice.live.hub(alice.tenant).tails
            # The hub looks once for each event, and once more whether there is another.
            assert len(reads) <= 6


@in_a_loop
async def test_a_since_that_is_yet_to_come_stays_with_the_tail() -> None:
    async with served() as alice:
        later = Filter(since="2199-01-01T00:00:00Z")
        async with alice.follow(filter=later) as (_, late, _), alice.follow() as (_, every, _):
            await alice.append("A", "B")
            await every.until(2)
            await asyncio.sleep(0.05)
            assert late.body == b""


@in_a_loop
async def test_what_others_write_is_found_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that open the same file tell the server nothing."""
    monkeypatch.setattr(live_module, "HEARTBEAT_S", 0.05)
    async with served() as alice, alice.follow() as (tail, lines, _):
        await alice.until_joined(tail)
        alice.store.append([NewEvent.of("A", 1)])
        await lines.until(1)


@in_a_loop
async def test_a_tail_ends_with_the_key_that_it_came_with() -> None:
    async with served(expires_at_s=time.time() + 0.2) as alice, alice.follow() as (_, _, running):
        await asyncio.wait_for(running, PATIENCE_S)
