"""The one place where asyncio meets blocking stores.

Writes run in threads, at most one at a time for a tenant; appends that arrive meanwhile
gather and share the next commit. Reads have threads of their own, a bounded number for each
tenant, so that nobody's reads hold up anybody's appends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from ebus.core.engine import Durability, Engine, SupportsHealth
from ebus.core.errors import StoreClosed, StoreOverloaded
from ebus.core.event import NewEvent, encode_event, event_bytes
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, SupportsWireRead, TenantStore, WirePage
from ebus.core.tenant import TenantName

T = TypeVar("T")

WRITE_THREADS = 8
READ_THREADS = 8


class _Append(msgspec.Struct, frozen=True):
    """An append that waits for a commit, which it may share."""

    append: Append
    size_bytes: int
    answer: asyncio.Future[Any]


class _Write(msgspec.Struct, frozen=True):
    """Any other write that waits for its turn."""

    work: Callable[[], object]
    answer: asyncio.Future[Any]


class AsyncTenantStore:
    """One tenant's store, for callers on an event loop. Use it from that loop only.

    Writes happen in the order in which they were asked for. Methods raise what the store's own
    raise, `StoreOverloaded` when too many writes wait, and `StoreClosed` once closing has
    begun. A caller that is cancelled while its write waits finds it done once or not at all.
    """

    def __init__(self, store: TenantStore, *, writes: Executor, reads: Executor) -> None:
        self._store = store
        self._limits = store.limits
        self._writes = writes
        self._reads = reads
        self._read_places = asyncio.Semaphore(self._limits.max_tenant_reads)
        self._queue: deque[_Append | _Write] = deque()
        self._queue_bytes = 0
        self._writing = False
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
        size_bytes = sum(map(event_bytes, events))
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._enqueue(_Append(Append(events), size_bytes, answer), size_bytes)
        return await answer

    async def save_checkpoint(self, name: str, position: int) -> None:
        """Like `TenantStore.save_checkpoint`."""
        work = partial(self._store.save_checkpoint, name, position)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(_Write(work, answer), 0)
        await answer

    def _enqueue(self, waiting: _Append | _Write, size_bytes: int) -> None:
        if self._closing:
            raise StoreClosed("the store is closing")
        if (
            len(self._queue) >= self._limits.max_queue_appends
            or self._queue_bytes + size_bytes > self._limits.max_queue_bytes
        ):
            raise StoreOverloaded(f"{len(self._queue)} writes are waiting already")
        self._queue.append(waiting)
        self._queue_bytes += size_bytes
        if not self._writing:
            self._write_next()

    def _write_next(self) -> None:
        """Hand to a thread what is next: one write, or as many appends as a commit may hold."""
        self._writing = True
        self._idle.clear()
        answers: list[asyncio.Future[Any]]
        work: Callable[[], Sequence[object]]
        if isinstance(self._queue[0], _Write):
            write = self._queue.popleft()
            assert isinstance(write, _Write)
            answers = [write.answer]
            work = partial(_as_group, write.work)
        else:
            group = self._take_group()
            answers = [waiting.answer for waiting in group]
            work = partial(self._store.commit, [waiting.append for waiting in group])
        done = asyncio.get_running_loop().run_in_executor(self._writes, work)
        done.add_done_callback(partial(self._finish, answers))

    def _take_group(self) -> list[_Append]:
        group: list[_Append] = []
        room = self._limits.max_group_events
        while self._queue and isinstance(waiting := self._queue[0], _Append):
            room -= len(waiting.append.events)
            if group and room < 0:
                break
            self._queue.popleft()
            self._queue_bytes -= waiting.size_bytes
            group.append(waiting)
        return group

    def _finish(
        self, answers: list[asyncio.Future[Any]], done: asyncio.Future[Sequence[object]]
    ) -> None:
        if self._queue:
            self._write_next()  # first, so that the thread works while the answers go out
        else:
            self._writing = False
            self._idle.set()
        failure = done.exception()
        results = [failure] * len(answers) if failure else done.result()
        for answer, result in zip(answers, results, strict=True):
            if answer.done():
                continue  # its caller was cancelled and no longer listens
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)

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

    async def _read(self, work: Callable[[], T]) -> T:
        async with self._read_places:
            if self._closing:
                raise StoreClosed("the store is closing")
            return await asyncio.get_running_loop().run_in_executor(self._reads, work)

    async def aclose(self) -> None:
        """Refuse what is new, finish what waits, close the store. Twice is fine."""
        self._closing = True
        await self._idle.wait()
        await asyncio.get_running_loop().run_in_executor(self._writes, self._store.close)


def _as_group(work: Callable[[], object]) -> list[object]:
    return [work()]


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
        self._writes = ThreadPoolExecutor(WRITE_THREADS, "ebus-write")
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
        return AsyncTenantStore(store, writes=self._writes, reads=self._reads)

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
        self._writes.shutdown()
        self._reads.shutdown()
