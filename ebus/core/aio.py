"""The one place where asyncio meets blocking stores.

Writes run in threads, one commit at a time for a tenant; those that arrive meanwhile gather
and share the next commit. Small reads share a thread's turn in the same way. Reads have
threads of their own, so that nobody's reads hold up anybody's writes. Every queue is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import msgspec

from ebus.core.consumers import Change, Subscription
from ebus.core.engine import (
    Acknowledgement,
    Durability,
    Engine,
    SupportsAbsent,
    SupportsAcknowledgement,
    SupportsDurability,
    SupportsHealth,
    SupportsSettle,
    SupportsTrash,
    look_at,
)
from ebus.core.errors import (
    EbusError,
    EngineError,
    StoreBusy,
    StoreClosed,
    StoreOverloaded,
    StoreUnavailable,
)
from ebus.core.event import NewEvent, encode_event, event_bytes
from ebus.core.filter import Filter
from ebus.core.lane import Lane, LaneBounds
from ebus.core.limits import Limits
from ebus.core.observing import Sizes, StoreObserver, SupportsObserver, SupportsSizes
from ebus.core.shared_call import SharedCall
from ebus.core.store import (
    NO_QUOTA,
    Append,
    Appended,
    ChangeSubscription,
    Expectation,
    QuickReads,
    Quota,
    SaveCheckpoint,
    StreamInfo,
    SupportsPutAway,
    SupportsQuickCommit,
    SupportsQuickReads,
    SupportsQuota,
    SupportsWatch,
    SupportsWireRead,
    TenantStore,
    WirePage,
    Write,
    Written,
    check_range,
)
from ebus.core.tenant import TenantName
from ebus.core.watching import StoreWatch

logger = logging.getLogger("ebus.engine")

T = TypeVar("T")

OPENING_THREADS = 4

OPENING_TURN_S = 10.0
"""So long who opens a tenant waits for a thread; others that are being opened may take minutes."""

HEALTH_PATIENCE_S = 2.0
"""An engine that has not said for so long that it is well is not well."""

SIZES_PATIENCE_S = 2.0
"""What an engine has not measured in that time is left out."""

LOOK_AGAIN_S = 0.1
"""How often it is looked whether a tenant that is to be closed is in use no more."""

QUICK_READ_EVENTS = 256
QUICK_READ_BYTES = 64 * 1024
"""A read of at most so much is tried on the event loop itself, where the store is quick."""

QUICK_COMMIT_EVENTS = 64
QUICK_COMMIT_BYTES = 64 * 1024
"""And a commit of at most so much, where it needs no sync."""

SLOW_S = 0.01
REST_S = 10.0

_Read = Callable[[], object]


class AsyncTenantStore:
    """One tenant's store, for callers on an event loop. Use it from that loop only.

    Writes happen in the order in which they were asked for. Methods raise what the store's own
    raise, `StoreOverloaded` when too much waits, and `StoreClosed` once closing has begun. A
    caller that is cancelled while its write waits finds it done once or not at all.
    """

    def __init__(self, store: TenantStore, *, writes: Executor, reads: Executor) -> None:
        self._store = store
        self._limits = limits = store.limits
        self._threads = writes
        self._closed = False
        self._writes: Lane[Write] = Lane(
            store.commit,
            writes,
            places=1,
            bounds=LaneBounds(
                max_jobs=limits.max_queue_appends,
                max_bytes=limits.max_queue_bytes,
                max_group_weight=limits.max_group_events,
                max_group_bytes=limits.max_group_bytes,
                max_now_weight=QUICK_COMMIT_EVENTS,
                max_now_bytes=QUICK_COMMIT_BYTES,
            ),
            run_now=partial(self._commit_quickly, store.commit_quickly)
            if isinstance(store, SupportsQuickCommit)
            else None,
            done=self._written,
        )
        self._reads: Lane[_Read] = Lane(
            partial(_read_group, max_bytes=limits.max_page_bytes),
            reads,
            places=min(limits.max_tenant_reads, max(1, limits.max_read_threads // 2)),
            bounds=LaneBounds(
                max_jobs=limits.max_queue_reads,
                max_bytes=0,
                # A turn is shared where reading is quicker than a turn. Elsewhere reads that
                # each ask somebody far away would wait for each other.
                max_group_weight=limits.max_group_events
                if isinstance(store, SupportsQuickReads)
                else 1,
                max_group_bytes=0,
            ),
            may_stop_early=True,
        )
        self._read_wire = wire_reader(store)
        self._quick_reads: QuickReads | None = None
        self._quick_reads_asked = not isinstance(store, SupportsQuickReads)
        self._rests_until_s = 0.0
        self._watchers: dict[Callable[[], None], None] = {}
        self._subscription_watchers: dict[str, dict[Callable[[], None], None]] = {}
        self._tell_is_due = False
        self._store_watch: StoreWatch | None = None
        """Of what others write, where the store tells of that."""
        if isinstance(store, SupportsWatch):
            self._store_watch = StoreWatch(store, self._reads, self._tell_of_others)
        self.on_written: Callable[[], None] | None = None
        """Called on the loop after each commit: for who has to tell other processes."""

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self._writes.idle and self._reads.idle

    @property
    def queue(self) -> Queue:
        """What waits."""
        writes, reads = self._writes, self._reads
        return Queue(writes.waiting_jobs, writes.waiting_bytes, reads.waiting_jobs)

    def observe(self, observer: StoreObserver) -> None:
        """Tell this one from now on how long commits take."""
        self._writes.observed = observer.committed
        if isinstance(self._store, SupportsObserver):
            self._store.observe(observer)

    async def append(
        self,
        events: Sequence[NewEvent],
        *,
        expect: Expectation | None = None,
        held_bytes: int | None = None,
    ) -> Appended:
        """Like `TenantStore.append`; shares a commit with other writes that wait.

        `held_bytes` is what the events keep in memory, when that is more than their size: data
        that was decoded keeps the whole of what it was decoded from.
        """
        size_bytes = _size(events, self._limits) if held_bytes is None else held_bytes
        appended: Appended = await self._writes.put(
            Append(events, expect), weight=len(events), size_bytes=size_bytes
        )
        return appended

    async def save_checkpoint(
        self, name: str, position: int, *, expected: int | None = None
    ) -> None:
        """Like `TenantStore.save_checkpoint`; shares a commit with other writes that wait."""
        await self._writes.put(SaveCheckpoint(name, position, expected))
        self._tell_of(name)

    async def change_subscription(self, name: str, change: Change) -> Any:
        """What `ebus.core.consumers` does with leases; shares a commit with other writes."""
        has_changed = False

        def noted(before: Subscription, head: int) -> tuple[Subscription, object]:
            nonlocal has_changed
            has_changed = False
            after, answer = change(before, head)
            has_changed = after != before
            return after, answer

        answer = await self._writes.put(ChangeSubscription(name, noted))
        if has_changed:
            self._tell_of(name)
        return answer

    async def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        """Like `TenantStore.delete_checkpoint`."""
        delete = partial(self._store.delete_checkpoint, name, expected=expected)
        existed: bool = await self._reads.put(delete)
        if existed:
            self._tell_of(name)
            self._written()
        return existed

    def watch(self, moved: Callable[[], None]) -> Callable[[], None]:
        """Have `moved` called on the loop after every commit. Returns what ends that.

        It is called after the commit's callers have their answers. For what others write it is
        called where the store tells of that (`SupportsWatch`), or else when somebody `tell`s.
        """
        self._watchers[moved] = None
        self._want_store_watch()

        def end() -> None:
            self._watchers.pop(moved, None)
            self._want_store_watch()

        return end

    def watch_subscription(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called on the loop when it was changed here. Returns what ends that.

        And where the store tells of what others write, when they wrote anything. Else what
        another process changes is not told, nor ever what a caller does who is cancelled: who
        has to know that looks again some time after a commit, see `watch`.
        """
        watchers = self._subscription_watchers.setdefault(name, {})
        watchers[changed] = None
        self._want_store_watch()

        def end() -> None:
            watchers.pop(changed, None)
            if not watchers and self._subscription_watchers.get(name) is watchers:
                del self._subscription_watchers[name]
            self._want_store_watch()

        return end

    def _want_store_watch(self) -> None:
        if self._store_watch is not None:
            self._store_watch.want(bool(self._watchers or self._subscription_watchers))

    def _tell_of_others(self) -> None:
        """Others have written, or may have: whatever it was."""
        for name in list(self._subscription_watchers):
            self._tell_of(name)
        self.tell()

    def _tell_of(self, name: str) -> None:
        for changed in list(self._subscription_watchers.get(name, ())):
            changed()

    def tell(self) -> None:
        """Call those who watch, soon: the log may have grown."""
        if self._watchers and not self._tell_is_due:
            self._tell_is_due = True
            # Behind the callers, whose answers are due in the loop's next turn.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._tell)

    def _tell(self) -> None:
        self._tell_is_due = False
        for moved in list(self._watchers):
            moved()

    def _written(self) -> None:
        if self.on_written is not None:
            self.on_written()
        if self._watchers:
            self.tell()

    async def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> WirePage:
        """Like `SupportsWireRead.read_wire`, on every engine."""
        check_range(start, stop, limit, max_bytes, self._limits, filter)
        at_most = limit or self._limits.max_read_events
        if stop is not None:
            at_most = min(at_most, max(1, stop - start + 1))
        is_plain = filter is None and not backwards
        if at_most <= QUICK_READ_EVENTS and max_bytes is None and is_plain:
            quick_page = self._read_quickly(
                lambda quick: quick.read_wire(
                    start, stop, limit=at_most, max_bytes=QUICK_READ_BYTES
                )
            )
            if quick_page and (quick_page.next is None or quick_page.count == at_most):
                return quick_page
        work = partial(self._read_wire, start, stop, limit=limit, max_bytes=max_bytes)
        if not is_plain:
            work = partial(work, filter=filter, backwards=backwards)
        page: WirePage = await self._reads.put(work, weight=at_most)
        return page

    async def head(self) -> int:
        head = self._read_quickly(_head)
        if head is None:
            head = await self._reads.put(self._store.head)
        return head

    async def count(self) -> int:
        count: int = await self._reads.put(self._store.count)
        return count

    async def outline(self) -> Outline:
        """Where the log and its readers are, at about the same moment."""
        store = self._store
        outline: Outline = await self._reads.put(lambda: Outline(store.head(), store.checkpoints()))
        return outline

    async def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        """Like `TenantStore.streams`."""
        work = partial(self._store.streams, prefix, after=after, limit=limit)
        found: list[StreamInfo] = await self._reads.put(work, weight=limit or 1)
        return found

    async def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        """Like `TenantStore.checkpoints`."""
        work = partial(self._store.checkpoints, prefix, after=after, limit=limit)
        found: Mapping[str, int] = await self._reads.put(work, weight=limit or 1)
        return found

    async def subscription(self, name: str) -> Subscription | None:
        """Like `TenantStore.subscription`."""
        if self._quick_reads is not None:
            quickly = self._read_quickly(lambda quick: (quick.subscription(name),))
            if quickly is not None:
                return quickly[0]
        found: Subscription | None = await self._reads.put(partial(self._store.subscription, name))
        return found

    async def checkpoint(self, name: str) -> int | None:
        if self._quick_reads is not None:
            found = self._read_quickly(lambda quick: (quick.checkpoint(name),))
            if found is not None:
                return found[0]
        position: int | None = await self._reads.put(partial(self._store.checkpoint, name))
        return position

    def _read_quickly(self, read: Callable[[QuickReads], T]) -> T | None:
        """A small read, here and now, where a thread would cost more; None to use a thread.

        A disk that has been slow, or another process that was in the way, may be so again: the
        loop, which everybody shares, then keeps away from this tenant's file for a while.
        """
        quick = self._quick_reads
        if quick is None:
            self._ask_for_quick_reads()
            return None
        begun_s = time.monotonic()
        if begun_s < self._rests_until_s or self._reads.closing:
            return None
        try:
            return read(quick)
        except (StoreBusy, StoreClosed):
            return None
        finally:
            self._rest_if_slow(begun_s)

    def _commit_quickly(
        self, commit: Callable[[Sequence[Write]], list[Written] | None], writes: Sequence[Write]
    ) -> Sequence[Written] | None:
        """A small commit, here and now, on the same terms as a small read."""
        begun_ns = time.monotonic_ns()
        if begun_ns < self._rests_until_s * 1e9:
            return None
        results: Sequence[Written] | None = ()
        try:
            results = commit(writes)
        finally:
            duration_ns = time.monotonic_ns() - begun_ns
            if duration_ns > SLOW_S * 1e9:
                self._rests_until_s = time.monotonic() + REST_S
            if results is not None and self._writes.observed is not None:
                self._writes.observed(len(writes), duration_ns)
        return results

    def _rest_if_slow(self, begun_s: float) -> None:
        now_s = time.monotonic()
        if now_s - begun_s > SLOW_S:
            self._rests_until_s = now_s + REST_S

    def _ask_for_quick_reads(self) -> None:
        """Open them in a thread: that touches the disk. What fails is tried again later."""
        if self._quick_reads_asked or time.monotonic() < self._rests_until_s:
            return
        assert isinstance(self._store, SupportsQuickReads)
        try:
            opening = self._reads.put(self._store.quick_reads)
        except StoreOverloaded:
            return
        self._quick_reads_asked = True
        opening.add_done_callback(self._take_quick_reads)

    def _take_quick_reads(self, opening: asyncio.Future[QuickReads]) -> None:
        if opening.exception() is None:
            self._quick_reads = opening.result()
        else:
            self._quick_reads_asked = False
            self._rests_until_s = time.monotonic() + REST_S

    async def bound(self, terms: Terms) -> None:
        """Have these terms hold from the next write on. Raises what the store raises.

        A durability that the store cannot change holds when it is opened the next time.
        """
        store = self._store
        if isinstance(store, SupportsQuota):
            store.set_quota(terms.quota)
        elif terms.quota != NO_QUOTA:
            raise _no_quota()
        if terms.durability is not None and isinstance(store, SupportsDurability):
            # It waits for the write that is under way, as writes do.
            change = partial(store.set_durability, terms.durability)
            await asyncio.get_running_loop().run_in_executor(self._threads, change)
        if terms.quota.is_read_only:  # whoever is told so may count on it
            await self._writes.drained()

    async def aclose(self) -> None:
        """Refuse what is new, finish what waits, close the store. Twice is fine."""
        await self._aclose(self._store.close)

    async def put_away(self) -> None:
        """Like `aclose`, for a tenant that is likely to be opened again."""
        store = self._store
        await self._aclose(store.put_away if isinstance(store, SupportsPutAway) else store.close)

    async def _aclose(self, close: Callable[[], None]) -> None:
        if self._store_watch is not None:
            self._store_watch.close()
        self._writes.close()
        self._reads.close()
        await self._writes.drained()
        await self._reads.drained()
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._threads, close)


class Outline(msgspec.Struct, frozen=True):
    """The head of a log, and the checkpoints of its subscriptions by name."""

    head: int
    checkpoints: Mapping[str, int]

    def lag(self, name: str) -> int:
        """How many positions a subscription is behind."""
        return max(0, self.head - self.checkpoints[name])


class Queue(msgspec.Struct, frozen=True):
    """What waits of one tenant."""

    writes: int
    write_bytes: int
    reads: int


class Terms(msgspec.Struct, frozen=True):
    """On what terms a tenant is open."""

    durability: Durability | None = None
    """None is the engine's own."""

    quota: Quota = NO_QUOTA


def _head(quick: QuickReads) -> int:
    return quick.head()


def _size(events: Sequence[NewEvent], limits: Limits) -> int:
    """The size of an append; 0 for one that the store will refuse anyway."""
    try:
        return sum(map(event_bytes, events)) if len(events) <= limits.max_batch_events else 0
    except (TypeError, AttributeError):
        return 0


def _read_group(reads: Sequence[_Read], *, max_bytes: int) -> list[object]:
    """Results in order, up to the one with which the pages pass `max_bytes` together."""
    results: list[object] = []
    size = 0
    for read in reads:
        try:
            result = read()
        except StoreUnavailable as failure:
            if not results:
                raise
            results.append(failure)
            break  # there is no need that those behind wait for as long
        except Exception as failure:
            results.append(failure)
            continue
        results.append(result)
        if isinstance(result, WirePage):
            size += sum(map(len, result.chunks))
            if size >= max_bytes:
                break
    return results


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
    filter: Filter | None = None,
    backwards: bool = False,
) -> WirePage:
    page = store.read(
        start, stop, limit=limit, max_bytes=max_bytes, filter=filter, backwards=backwards
    )
    chunks = [encode_event(event, event.position, "", event.version) for event in page.events]
    first_position = page.events[0].position if page.events else 0
    return WirePage(chunks, len(chunks), first_position, page.next)


def _find_sizes(
    engine: SupportsSizes,
    names: Sequence[TenantName],
    until_s: float,
    found: dict[TenantName, Sizes],
) -> None:
    """Of those that there is time for, and up to the first that cannot be had."""
    for name in names:
        if time.monotonic() > until_s:
            break
        try:
            sizes = engine.sizes(name)
        except EbusError:  # the health tells why
            break
        if sizes is not None:
            found[name] = sizes


def open_bounded(
    engine: Engine, name: TenantName, durability: Durability | None, quota: Quota
) -> TenantStore:
    """Open a tenant that may store so much. Raises what `Engine.open` raises, and `EngineError`."""
    store = engine.open(name, durability=durability)
    if isinstance(store, SupportsQuota):
        store.set_quota(quota)
    elif quota != NO_QUOTA:
        store.close()
        raise _no_quota()
    return store


def _no_quota() -> EngineError:
    return EngineError("this engine cannot bound what a tenant stores")


class _Place:
    """One tenant among those that are open, and how many use it at the moment."""

    def __init__(self, opening: asyncio.Task[AsyncTenantStore], terms: Terms) -> None:
        self.opening = opening
        self.terms = terms
        self.store: AsyncTenantStore | None = None
        self.users = 0


class AsyncEngine:
    """An engine and its open tenants, for callers on an event loop. It owns the engine.

    A tenant is opened when it is first asked for. When more than `limits.max_open_tenants` are
    open, those that were not asked for the longest are closed again, but none while somebody
    uses it: while all are in use there are more.
    """

    def __init__(self, engine: Engine, *, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._engine = engine
        self._writes = ThreadPoolExecutor(limits.max_write_threads, "ebus-write")
        self._reads = ThreadPoolExecutor(limits.max_read_threads, "ebus-read")
        # Opening may take minutes, and a look at the health must not wait for anything.
        self._openings = ThreadPoolExecutor(OPENING_THREADS, "ebus-open")
        self._checks = ThreadPoolExecutor(1, "ebus-check")
        self._measures = ThreadPoolExecutor(1, "ebus-measure")
        self._check: SharedCall | None = None
        if isinstance(engine, SupportsHealth):
            self._check = SharedCall(partial(self._begin, self._checks, engine.check_health))
        self._calls: set[asyncio.Future[Any]] = set()
        """What the engine has been asked and has not answered yet, beside what stores are."""
        self._max_open = limits.max_open_tenants
        self._places: OrderedDict[TenantName, _Place] = OrderedDict()
        self._closings: dict[TenantName, asyncio.Task[None]] = {}
        self._retired: set[TenantName] = set()
        """Tenants that are to be closed once nobody uses them."""
        self._retiring: asyncio.Task[None] | None = None
        self._closing = False
        self.on_open: Callable[[TenantName, AsyncTenantStore], None] | None = None
        """Called on the loop when a tenant has been opened, before anybody uses it."""

    @property
    def open_tenants(self) -> int:
        """How many tenants are open, or about to be."""
        return len(self._places)

    def open_stores(self) -> Iterator[tuple[TenantName, AsyncTenantStore]]:
        """The tenants that are open. Looking at them does not count as using them."""
        for name, place in self._places.items():
            if place.store is not None:
                yield name, place.store

    async def sizes(self, names: Sequence[TenantName]) -> dict[TenantName, Sizes]:
        """How large tenants are that have anything stored. None where the engine cannot say.

        It is asked for a bounded time: those are left out that it could not say by then.
        """
        if not isinstance(self._engine, SupportsSizes):
            return {}
        until_s = time.monotonic() + SIZES_PATIENCE_S
        found: dict[TenantName, Sizes] = {}
        looking = self._begin(
            self._measures, partial(_find_sizes, self._engine, names, until_s, found)
        )
        await asyncio.wait([looking], timeout=SIZES_PATIENCE_S)
        if looking.done():
            looking.result()
        return found.copy()  # the engine may still be asked for one

    @asynccontextmanager
    async def tenant(
        self,
        name: TenantName,
        *,
        durability: Durability | None = None,
        quota: Quota = NO_QUOTA,
    ) -> AsyncIterator[AsyncTenantStore]:
        """The tenant's store, for as long as it is used: it is not closed meanwhile.

        A failed opening is tried again next time. Raises what `Engine.open` raises, and
        `EngineError` where there is a quota and the engine knows none.
        """
        store = await self.borrow(name, durability=durability, quota=quota)
        try:
            yield store
        finally:
            self.give_back(name)

    async def borrow(
        self,
        name: TenantName,
        *,
        durability: Durability | None = None,
        quota: Quota = NO_QUOTA,
    ) -> AsyncTenantStore:
        """What `tenant` does, in two steps: `give_back` must follow, exactly once."""
        if self._closing:
            raise StoreClosed("the engine is closing")
        place = self._places.get(name)
        if place is None:
            opening = asyncio.create_task(self._open(name, durability, quota))
            place = _Place(opening, Terms(durability, quota))
            self._places[name] = place
        place.users += 1
        if place.store is not None:
            self._places.move_to_end(name)
            return place.store
        try:
            # Shielded: who came first may leave without failing those who wait too.
            return await asyncio.shield(place.opening)
        except BaseException:
            place.users -= 1
            raise

    def borrow_at_once(self, name: TenantName) -> AsyncTenantStore | None:
        """Like `borrow`, but None, and nothing to give back, unless the tenant is open."""
        place = self._places.get(name)
        if place is None or place.store is None or self._closing:
            return None
        place.users += 1
        self._places.move_to_end(name)
        return place.store

    def borrow_open(self, name: TenantName) -> AsyncTenantStore | None:
        """Like `borrow`, for who only looks: None, and nothing to give back, unless it is open.

        The tenant does not count as asked for.
        """
        place = self._places.get(name)
        if self._closing or place is None or place.store is None:
            return None
        place.users += 1
        return place.store

    def give_back(self, name: TenantName) -> None:
        place = self._places.get(name)
        if place is not None:  # what is closing is nobody's any more
            place.users -= 1
            if len(self._places) > self._max_open:
                self._close_unused()

    async def _open(
        self, name: TenantName, durability: Durability | None, quota: Quota
    ) -> AsyncTenantStore:
        try:
            self._close_unused()
            while self._closings and (
                name in self._closings or len(self._places) + len(self._closings) > self._max_open
            ):
                await asyncio.wait(self._closings.values(), return_when=asyncio.FIRST_COMPLETED)
            open_store = partial(open_bounded, self._engine, name, durability, quota)
            store = await self._in_turn(open_store)
        except BaseException:
            del self._places[name]
            raise
        opened = AsyncTenantStore(store, writes=self._writes, reads=self._reads)
        if self.on_open is not None:
            self.on_open(name, opened)
        self._places[name].store = opened
        self._places.move_to_end(name)
        return opened

    async def _in_turn(self, open_store: Callable[[], TenantStore]) -> TenantStore:
        """Open a tenant once a thread is free. Raises `StoreOverloaded` if none is for long."""
        opening = self._openings.submit(open_store)
        opened = asyncio.wrap_future(opening)
        done, _ = await asyncio.wait([opened], timeout=OPENING_TURN_S)
        if not done and opening.cancel():  # which it cannot be once it has begun
            raise StoreOverloaded("too many other tenants are being opened")
        return await opened

    def _begin(self, threads: Executor | None, do: Callable[[], T]) -> asyncio.Future[T]:
        """Ask the engine something in a thread. Closing waits for that, whoever leaves."""
        call = asyncio.get_running_loop().run_in_executor(threads, do)
        self._calls.add(call)
        call.add_done_callback(self._end)
        return call

    def _end(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # which may be nobody's any more

    async def _ask(self, do: Callable[[], T]) -> T:
        return await asyncio.shield(self._begin(self._openings, do))

    def _close_unused(self) -> None:
        """Begin to close what was not asked for the longest, down to the bound.

        A few fewer than may be stay open, so that the next opening finds room.
        """
        spare = min(OPENING_THREADS, self._max_open // 8)
        excess = len(self._places) - (self._max_open - spare)
        if excess <= 0 or self._closing:
            return
        unused = (name for name, place in self._places.items() if _is_unused(place))
        for name in [name for name, _ in zip(unused, range(excess), strict=False)]:
            store = self._places.pop(name).store
            assert store is not None
            is_retired = name in self._retired
            self._retired.discard(name)
            # Without the context of the request that needs the room: it is another tenant's.
            closing = asyncio.get_running_loop().create_task(
                self._close(name, store, for_good=is_retired), context=Context()
            )
            self._closings[name] = closing

    async def look_at(self, names: Iterable[TenantName]) -> list[str]:
        """Why which of these tenants could not be opened; changes nothing.

        Those that are open need no look.
        """
        closed = [name for name in names if name not in self._places]
        findings = await self._ask(partial(look_at, self._engine, closed))
        return findings.refusals

    async def hold_to(
        self, terms: Mapping[TenantName, Terms], *, max_open: int | None = None
    ) -> None:
        """Have these terms hold for the tenants that are open, and no more be open than that.

        Who is not among them is closed once nobody uses it. Returns when what is under way has
        ended that new terms have to wait for; closing is not waited for.
        """
        self._max_open = max_open or self._max_open
        self._retired = {name for name in self._places if name not in terms}
        if self._retired and self._retiring is None and not self._closing:
            self._retiring = asyncio.create_task(self._close_retired())
        changes = [
            self._change(name, place, terms[name])
            for name, place in self._places.items()
            if name in terms and place.terms != terms[name]
        ]
        self._close_unused()
        await asyncio.gather(*changes)

    async def _change(self, name: TenantName, place: _Place, terms: Terms) -> None:
        try:
            store = await asyncio.shield(place.opening)
        except Exception:  # who waits for the opening is told, and the next is on the new terms
            return
        try:
            await store.bound(terms)
            place.terms = terms
        except StoreClosed:
            pass  # it will be opened on the new terms
        except EbusError as error:
            logger.warning("tenant %s: its new terms do not hold yet: %s", name, error)

    async def settle(self, names: Iterable[TenantName]) -> None:
        """Finish what was left to do for tenants that were put away, where they are not open.

        Those that are being opened or closed are waited for: from then on each is either open, and
        nobody else can take its place, or is left alone.
        """
        names = list(names)
        if under_way := [*self._under_way(names)]:
            await asyncio.wait(under_way)
        closed = [name for name in names if name not in self._places]
        if isinstance(self._engine, SupportsSettle) and closed and not self._closing:
            settle = partial(_settle_all, self._engine, closed)
            await self._ask(settle)

    def _under_way(self, names: Iterable[TenantName]) -> Iterator[asyncio.Task[Any]]:
        for name in names:
            if name in self._closings:
                yield self._closings[name]
            place = self._places.get(name)
            if place is not None and place.store is None:
                yield place.opening

    async def holds_nothing_of(self, name: TenantName) -> bool:
        """Whether nothing at all is stored under this name, nor under one that is like it."""
        engine = self._engine

        def look() -> bool:
            if isinstance(engine, SupportsAbsent):
                return bool(engine.absent([name]))
            return name not in engine.tenants()

        return await self._ask(look)

    async def discard(self, name: TenantName, trash: str) -> int:
        """Like `SupportsTrash.discard`, of a tenant that nobody is to use any more."""
        assert isinstance(self._engine, SupportsTrash)
        if name in self._places:
            raise StoreBusy(f"tenant {name} is in use")
        if name in self._closings:
            await asyncio.wait([self._closings[name]])
        discard = partial(self._engine.discard, name, trash)
        return await self._ask(discard)

    async def purge(self, trash: str) -> None:
        """Like `SupportsTrash.purge`."""
        assert isinstance(self._engine, SupportsTrash)
        purge = partial(self._engine.purge, trash)
        await self._ask(purge)

    async def _close_retired(self) -> None:
        """Close for good who is to be closed, each once nobody uses it."""
        try:
            # All workers are told at once, and of processes that close a file at the same moment
            # none is the last one, which would have removed the WAL.
            await asyncio.sleep(random.uniform(0, LOOK_AGAIN_S))  # noqa: S311 - no secret
            while self._retired and not self._closing:
                for name in list(self._retired):
                    place = self._places.get(name)
                    if place is None:
                        self._retired.discard(name)
                    elif _is_unused(place) and place.store is not None:
                        self._retired.discard(name)
                        del self._places[name]
                        closing = self._close(name, place.store, for_good=True)
                        self._closings[name] = asyncio.create_task(closing)
                await asyncio.sleep(LOOK_AGAIN_S)
        finally:
            self._retiring = None

    async def _close(
        self, name: TenantName, store: AsyncTenantStore, *, for_good: bool = False
    ) -> None:
        try:
            await (store.aclose() if for_good else store.put_away())
            if for_good and isinstance(self._engine, SupportsSettle):
                # A WAL that is in doubt stays even then.
                settle = partial(self._engine.settle, name)
                await self._ask(settle)
        except EbusError as error:  # nobody waits for it
            logger.warning("a tenant could not be closed: %s", error)
        finally:
            del self._closings[name]

    async def check_health(self) -> None:
        """Return when the engine can be used; raise `StoreUnavailable` when it cannot.

        Or when it does not say for so long that nobody would wait for it.
        """
        if self._check is None:
            return
        try:
            await self._check.result(HEALTH_PATIENCE_S)
        except TimeoutError:
            raise StoreUnavailable(
                f"the storage engine has not answered for {HEALTH_PATIENCE_S:g} s"
            ) from None

    async def acknowledgement(self, durability: Durability) -> Acknowledgement | None:
        """What the answers to appends are worth; None where the engine cannot say.

        Not in the threads of anybody else: it may take as long as a cluster that is away.
        """
        if not isinstance(self._engine, SupportsAcknowledgement):
            return None
        asking = self._begin(None, partial(self._engine.acknowledgement, durability))
        return await asyncio.shield(asking)

    async def aclose(self, *, patience_s: float | None = None) -> bool:
        """Finish every tenant's writes, then close everything. Twice is fine.

        What fails to close does not keep the rest from being closed; it is raised at the end.
        Where an engine does not come back, and no tenant more has been closed for `patience_s`,
        that is given up, and False returned: threads wait for the engine then, and it is open.
        """
        self._closing = True
        if self._retiring is not None:
            self._retiring.cancel()
        closings = [
            *(asyncio.create_task(_close_opened(place)) for place in self._places.values()),
            *self._closings.values(),
        ]
        if await _until_stuck([*closings, *self._calls], patience_s):
            still_open = sum(not closing.done() for closing in closings)
            logger.error("the storage engine does not answer: %d tenants are left open", still_open)
            return False
        failures: list[Any] = await asyncio.gather(*closings, return_exceptions=True)
        failures += await asyncio.gather(
            asyncio.to_thread(self._close_engine), return_exceptions=True
        )
        self._places.clear()
        for failure in failures:
            if isinstance(failure, BaseException):
                raise failure
        return True

    def _close_engine(self) -> None:
        try:
            self._engine.close()
        finally:
            for threads in (
                self._writes,
                self._reads,
                self._openings,
                self._checks,
                self._measures,
            ):
                threads.shutdown()


def _settle_all(engine: SupportsSettle, names: Iterable[TenantName]) -> None:
    for name in names:
        engine.settle(name)


async def _close_opened(place: _Place) -> None:
    try:
        store = await place.opening
    except Exception:  # who asked for it was told
        return
    await store.aclose()


async def _until_stuck(calls: Iterable[asyncio.Future[Any]], patience_s: float | None) -> bool:
    """Wait for all, or until none has ended for so long. Says whether it came to that."""
    pending = set(calls)
    while pending:
        done, pending = await asyncio.wait(
            pending, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            return True
    return False


def _is_unused(place: _Place) -> bool:
    return place.users == 0 and place.store is not None and place.store.idle
