"""The one place where asyncio meets blocking stores.

Writes run in threads, at most one at a time for a tenant; appends that arrive meanwhile
gather and share the next commit. Reads have threads of their own, a few for each tenant, so
that nobody's reads hold up anybody's appends. Every queue is bounded.
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
from ebus.core.errors import EngineError, StoreClosed, StoreOverloaded
from ebus.core.event import NewEvent, encode_event, event_bytes
from ebus.core.limits import Limits
from ebus.core.store import Append, Appended, SupportsWireRead, TenantStore, WirePage
from ebus.core.tenant import TenantName

T = TypeVar("T")

OPENING_THREADS = 4


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
        places = min(self._limits.max_tenant_reads, max(1, self._limits.max_read_threads // 2))
        self._read_places = asyncio.Semaphore(places)
        self._waiting_reads = 0
        self._queue: deque[_Append | _Write] = deque()
        self._queue_bytes = 0
        self._writing = False
        self._closing = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._read_wire = wire_reader(store)

    @property
    def limits(self) -> Limits:
        return self._limits

    async def append(
        self, events: Sequence[NewEvent], *, held_bytes: int | None = None
    ) -> Appended:
        """Like `TenantStore.append`; shares a commit with other appends that wait.

        `held_bytes` is what the events keep in memory, when that is more than their size: data
        that was decoded keeps the whole of what it was decoded from.
        """
        size_bytes = _size(events, self._limits) if held_bytes is None else held_bytes
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
        if self._queue and (  # which always has room for one
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
        room_events = self._limits.max_group_events
        room_bytes = self._limits.max_group_bytes
        while self._queue and isinstance(waiting := self._queue[0], _Append):
            room_events -= len(waiting.append.events)
            room_bytes -= waiting.size_bytes
            if group and (room_events < 0 or room_bytes < 0):
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
        results: Sequence[object]
        if failure := done.exception():
            results = [failure] * len(answers)
        else:
            results = done.result()
            if len(results) != len(answers):
                broken = EngineError(f"a commit of {len(answers)} gave {len(results)} answers")
                results = [broken] * len(answers)
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
        if self._waiting_reads >= self._limits.max_queue_reads:
            raise StoreOverloaded(f"{self._waiting_reads} reads are waiting already")
        self._waiting_reads += 1
        try:
            await self._read_places.acquire()
        finally:
            self._waiting_reads -= 1
        if self._closing:
            self._read_places.release()
            raise StoreClosed("the store is closing")
        reading = self._reads.submit(work)
        # The place is free when the thread is, which a caller that was cancelled does not know.
        loop = asyncio.get_running_loop()
        reading.add_done_callback(lambda _: loop.call_soon_threadsafe(self._read_places.release))
        return await asyncio.wrap_future(reading)

    async def aclose(self) -> None:
        """Refuse what is new, finish what waits, close the store. Twice is fine."""
        self._closing = True
        await self._idle.wait()
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._writes, self._store.close)


def _size(events: Sequence[NewEvent], limits: Limits) -> int:
    """The size of an append; 0 for one that the store will refuse anyway."""
    try:
        return sum(map(event_bytes, events)) if len(events) <= limits.max_batch_events else 0
    except (TypeError, AttributeError):
        return 0


def _as_group(work: Callable[[], object]) -> list[object]:
    return [work()]


def wire_reader(store: TenantStore) -> Callable[..., WirePage]:
    """The store's own `read_wire`, or what does the same for one that has not got it."""
    return store.read_wire if isinstance(store, SupportsWireRead) else partial(_encode_read, store)


def _encode_read(
    store: TenantStore,
    start: int,
    stop: int | None = None,
    *,
    limit: int | None = None,
    max_bytes: int | None = None,
) -> WirePage:
    page = store.read(start, stop, limit=limit, max_bytes=max_bytes)
    chunks = [encode_event(event, event.position, "") for event in page.events]
    first_position = page.events[0].position if page.events else 0
    return WirePage(chunks, len(chunks), first_position, page.next)


class AsyncEngine:
    """An engine and its open tenants, for callers on an event loop. It owns the engine."""

    def __init__(self, engine: Engine, *, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._engine = engine
        self._writes = ThreadPoolExecutor(limits.max_write_threads, "ebus-write")
        self._reads = ThreadPoolExecutor(limits.max_read_threads, "ebus-read")
        # Opening may take minutes, and a look at the health must not wait for anything.
        self._openings = ThreadPoolExecutor(OPENING_THREADS, "ebus-open")
        self._checks = ThreadPoolExecutor(1, "ebus-check")
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
            store = await asyncio.get_running_loop().run_in_executor(self._openings, open_store)
        except BaseException:
            del self._tenants[name]
            raise
        return AsyncTenantStore(store, writes=self._writes, reads=self._reads)

    async def check_health(self) -> None:
        """Return when the engine can be used; raise `StoreUnavailable` when it cannot."""
        if isinstance(self._engine, SupportsHealth):
            check = self._engine.check_health
            await asyncio.get_running_loop().run_in_executor(self._checks, check)

    async def aclose(self) -> None:
        """Finish every tenant's writes, then close everything. Twice is fine.

        What fails to close does not keep the rest from being closed; it is raised at the end.
        """
        self._closing = True
        openings = await asyncio.gather(*self._tenants.values(), return_exceptions=True)
        tenants = [tenant for tenant in openings if isinstance(tenant, AsyncTenantStore)]
        closings = [tenant.aclose() for tenant in tenants]
        failures = await asyncio.gather(*closings, return_exceptions=True)
        failures += await asyncio.gather(
            asyncio.to_thread(self._close_engine), return_exceptions=True
        )
        self._tenants.clear()
        for failure in failures:
            if isinstance(failure, BaseException):
                raise failure

    def _close_engine(self) -> None:
        try:
            self._engine.close()
        finally:
            for threads in (self._writes, self._reads, self._openings, self._checks):
                threads.shutdown()
