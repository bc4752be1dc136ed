"""The one place where asyncio meets blocking stores.

Commits run in threads, at most one at a time for a tenant; appends that arrive meanwhile
gather and share the next commit. Reads have threads of their own, a bounded number for each
tenant, so that nobody's reads hold up anybody's appends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec

from ebus.core.engine import Durability, Engine, SupportsHealth
from ebus.core.errors import EbusError, StoreClosed, StoreOverloaded
from ebus.core.event import NewEvent, encode_event, event_bytes
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, SupportsWireRead, TenantStore, WirePage
from ebus.core.tenant import TenantName

T = TypeVar("T")

COMMIT_THREADS = 8
READ_THREADS = 8


class _Waiting(msgspec.Struct, frozen=True):
    """An append on its way to a commit."""

    append: Append
    size_bytes: int
    answer: asyncio.Future[Appended]


class AsyncTenantStore:
    """One tenant's store, for callers on an event loop. Use it from that loop only.

    Methods raise what the store's own raise, `StoreOverloaded` when the tenant's queue is
    full, and `StoreClosed` once closing has begun. A caller that is cancelled while its
    append waits finds it stored once or not at all.
    """

    def __init__(self, store: TenantStore, *, commits: Executor, reads: Executor) -> None:
        self._store = store
        self._limits = store.limits
        self._commits = commits
        self._reads = reads
        self._read_places = asyncio.Semaphore(self._limits.max_tenant_reads)
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._committing = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._read_wire = (
            store.read_wire
            if isinstance(store, SupportsWireRead)
            else partial(_encoded_read, store)
        )

    @property
    def limits(self) -> Limits:
        return self._limits

    async def append(self, events: Sequence[NewEvent]) -> Appended:
        """Like `TenantStore.append`; shares a commit with other appends that wait."""
        if self._closing:
            raise StoreClosed("the store is closing")
        size_bytes = sum(map(event_bytes, events))
        limits = self._limits
        if (
            len(self._queue) >= limits.max_queue_appends
            or self._queue_bytes + size_bytes > limits.max_queue_bytes
        ):
            raise StoreOverloaded(f"{len(self._queue)} appends are waiting already")
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(Append(events), size_bytes, answer))
        self._queue_bytes += size_bytes
        if not self._committing:
            self._commit_group()
        return await answer

    def _commit_group(self) -> None:
        """Hand the appends that wait to a thread, as many as one commit may hold."""
        group: list[_Waiting] = []
        room = self._limits.max_group_events
        while self._queue and (not group or len(self._queue[0].append.events) <= room):
            waiting = self._queue.popleft()
            self._queue_bytes -= waiting.size_bytes
            room -= len(waiting.append.events)
            group.append(waiting)
        self._committing = True
        self._idle.clear()
        commit = partial(self._store.commit, [waiting.append for waiting in group])
        done = asyncio.get_running_loop().run_in_executor(self._commits, commit)
        done.add_done_callback(partial(self._answer_group, group))

    def _answer_group(
        self, group: list[_Waiting], done: asyncio.Future[list[Appended | EbusError]]
    ) -> None:
        if self._queue:
            self._commit_group()  # first, so that the thread works while the answers go out
        else:
            self._committing = False
            self._idle.set()
        failure = asyncio.CancelledError() if done.cancelled() else done.exception()
        results = [failure] * len(group) if failure else done.result()
        for waiting, result in zip(group, results, strict=True):
            if waiting.answer.done():
                continue  # its caller was cancelled and no longer listens
            if isinstance(result, Appended):
                waiting.answer.set_result(result)
            else:
                assert result is not None
                waiting.answer.set_exception(result)

    async def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> WirePage:
        """Like `SupportsWireRead.read_wire`, on every engine."""
        return await self._read(
            partial(self._read_wire, start, stop, limit=limit, max_bytes=max_bytes)
        )

    async def head(self) -> int:
        return await self._read(self._store.head)

    async def count(self) -> int:
        return await self._read(self._store.count)

    async def checkpoint(self, name: str) -> int | None:
        return await self._read(partial(self._store.checkpoint, name))

    async def save_checkpoint(self, name: str, position: int) -> None:
        await self._write(partial(self._store.save_checkpoint, name, position))

    async def _read(self, work: Callable[[], T]) -> T:
        async with self._read_places:
            return await self._run(self._reads, work)

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._run(self._commits, work)

    async def _run(self, threads: Executor, work: Callable[[], T]) -> T:
        if self._closing:
            raise StoreClosed("the store is closing")
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def aclose(self) -> None:
        """Refuse what is new, finish what waits, close the store. Twice is fine."""
        self._closing = True
        await self._idle.wait()
        await asyncio.get_running_loop().run_in_executor(self._commits, self._store.close)


def _encoded_read(
    store: TenantStore,
    start: int,
    stop: int | None = None,
    *,
    limit: int | None = None,
    max_bytes: int | None = None,
) -> WirePage:
    """`read_wire` for a store that has not got it."""
    page = store.read(start, stop, limit=limit, max_bytes=max_bytes)
    chunks = [encode_event(event, event.position, "") for event in page.events]
    first_position = page.events[0].position if page.events else 0
    return WirePage(chunks, len(chunks), first_position, page.next)


class AsyncEngine:
    """An engine and its open tenants, for callers on an event loop. It owns the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commits = ThreadPoolExecutor(COMMIT_THREADS, "ebus-commit")
        self._reads = ThreadPoolExecutor(READ_THREADS, "ebus-read")
        self._tenants: dict[TenantName, asyncio.Task[AsyncTenantStore]] = {}
        self._closing = False

    async def tenant(
        self, name: TenantName, *, durability: Durability | None = None
    ) -> AsyncTenantStore:
        """The tenant's store, opened at first use. A failed opening is tried again next time."""
        opening = self._tenants.get(name)
        if opening is None:
            if self._closing:
                raise StoreClosed("the engine is closing")
            opening = asyncio.create_task(self._open(name, durability))
            self._tenants[name] = opening
        # Shielded: the caller that came first may leave without failing those who wait too.
        return await asyncio.shield(opening)

    async def _open(self, name: TenantName, durability: Durability | None) -> AsyncTenantStore:
        open_store = partial(self._engine.open, name, durability=durability)
        try:
            store = await asyncio.get_running_loop().run_in_executor(self._reads, open_store)
        except BaseException:
            del self._tenants[name]
            raise
        return AsyncTenantStore(store, commits=self._commits, reads=self._reads)

    async def check_health(self) -> None:
        """Return when the engine can be used; raise `StoreUnavailable` when it cannot."""
        if isinstance(self._engine, SupportsHealth):
            check = self._engine.check_health
            await asyncio.get_running_loop().run_in_executor(self._reads, check)

    async def aclose(self) -> None:
        """Finish every tenant's appends, then close everything. Twice is fine."""
        self._closing = True
        openings = await asyncio.gather(*self._tenants.values(), return_exceptions=True)
        tenants = [tenant for tenant in openings if isinstance(tenant, AsyncTenantStore)]
        await asyncio.gather(*(tenant.aclose() for tenant in tenants))
        self._tenants.clear()
        await asyncio.to_thread(self._engine.close)
        self._commits.shutdown()
        self._reads.shutdown()
