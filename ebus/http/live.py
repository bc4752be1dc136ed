"""Events as they come: tails that begin in the history and go on with what is appended.

A tail reads on by itself until it has caught up. From then on the tenant's hub, which reads each
new event once, writes to all of its tails. One whose client does not keep up leaves the hub and
reads the history from where it stands, so that nothing waits for it in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from typing import Protocol

import msgspec
from litestar.types import Receive, Scope, Send

from ebus.config import KeyConfig
from ebus.core.aio import AsyncTenantStore
from ebus.core.errors import StoreClosed, StoreError
from ebus.core.filter import Filter
from ebus.http.framing import Frame, Framing, WireEvent, events_of
from ebus.http.leaving import Leaving
from ebus.http.news import LOOK_AGAIN_S, WorkerCommits
from ebus.http.outage import Outage
from ebus.http.problems import Problem
from ebus.http.tenant import Tenant

HEARTBEAT_S = 15.0
"""After so much silence a tail says that it is there: proxies close what is silent for longer."""

PAGE_EVENTS = 256
PAGE_BYTES = 64 * 1024
"""What a hub reads, and writes to every tail, at a time."""

MAX_TIMER_S = 24 * 3600.0
"""A key that ends later is looked at by the next request of its client."""

LONGEST_COMMIT_NS = 60 * 10**9
"""No commit becomes visible so long after the time that it is recorded with."""

TAILS_AT_A_TIME = 64
"""After so many the hub lets others have the loop."""


class _Head(msgspec.Struct):
    type: str
    stream: str | None = None
    version: int | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


class Sink(Protocol):
    """Where a tail's answer goes."""

    @property
    def is_full(self) -> bool:
        """Whether the client is behind with what it was sent."""
        ...

    @property
    def is_gone(self) -> bool: ...

    def write(self, frame: Frame) -> None: ...

    def write_if_room(self, frame: Frame) -> bool:
        """Write unless it is full or gone; says whether it did."""
        ...

    async def drain(self) -> None:
        """Return when it is not full, or gone."""
        ...

    def when_left(self, left: Callable[[], None]) -> None:
        """Have this called when the client leaves."""
        ...


class Live:
    """The tails and the long polls of one server process."""

    def __init__(
        self,
        commits: WorkerCommits,
        *,
        max_tails: int,
        key_of: Callable[[Tenant], KeyConfig | None] = attrgetter("key"),
    ) -> None:
        self._commits = commits
        self._max_tails = max_tails
        self._key_of = key_of
        self._waiting: dict[int, int] = {}
        """Tenant's number → its requests that wait."""
        self._hubs: dict[int, Hub] = {}
        self._stores: dict[int, AsyncTenantStore] = {}
        """Tenant's number → its store, while anybody waits."""
        self._seen: dict[int, int] = {}
        """Tenant's number → what other workers had written to it when they were told of it."""
        self._seen_in_all = 0
        self._tells_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[_Waiter] = set()
        self.is_closing = False

    @contextmanager
    def waiting(self, tenant: Tenant, end: Callable[[], None]) -> Iterator[None]:
        """Count a request that waits for events; `end` is called when its time is over.

        That is when the server stops, or when the key ends that it came with. Raises `Problem`
        503 for one too many. Meanwhile what others write is looked for: at once for other workers,
        every `HEARTBEAT_S` for programs that know nothing of the server.
        """
        number = tenant.number
        if self._waiting.get(number, 0) >= self._max_tails:
            raise Problem(
                503,
                "too_many_tails",
                f"{self._max_tails} requests of this tenant wait for events already",
                {"Retry-After": "5"},
            )
        self._waiting[number] = self._waiting.get(number, 0) + 1
        waiter = _Waiter(tenant, end)
        self._waiters.add(waiter)
        waiter.look_at(self._key_of(tenant))
        if self.is_closing:
            end()
        if number not in self._stores:
            self._stores[number] = tenant.store
            self._seen[number] = self._commits.seen(number)
            if self._timer is None:
                self._tells_at_s = asyncio.get_running_loop().time() + HEARTBEAT_S
                self._look_again()
        try:
            yield
        finally:
            waiter.stop_timer()
            self._waiters.discard(waiter)
            self._waiting[number] -= 1
            if not self._waiting[number]:
                del self._waiting[number]
                self._stores.pop(number, None)
                self._hubs.pop(number, None)  # or else it would keep a store that is closed

    @property
    def waiting_requests(self) -> dict[int, int]:
        """Tenant's number → its requests that wait."""
        return self._waiting

    def hub(self, tenant: Tenant) -> Hub:
        """The tenant's hub, for one who is `waiting`."""
        hub = self._hubs.get(tenant.number)
        if hub is None:
            hub = self._hubs[tenant.number] = Hub(tenant.store)
        return hub

    def _look_again(self) -> None:
        """Look whether others have written. Nobody looks while nobody waits."""
        self._timer = None
        if not self._stores:
            return
        loop = asyncio.get_running_loop()
        if self._commits.are_shared:
            self._tell_of_workers()
        if loop.time() >= self._tells_at_s:
            self._tells_at_s = loop.time() + HEARTBEAT_S
            for store in self._stores.values():
                store.tell()
        pause_s = LOOK_AGAIN_S if self._commits.are_shared else HEARTBEAT_S
        self._timer = loop.call_later(pause_s, self._look_again)

    def _tell_of_workers(self) -> None:
        seen_in_all = self._commits.seen_in_all()
        if seen_in_all == self._seen_in_all:
            return
        self._seen_in_all = seen_in_all
        for number, store in self._stores.items():
            seen = self._commits.seen(number)
            if seen != self._seen[number]:
                self._seen[number] = seen
                store.tell()

    def close(self) -> None:
        """End every answer that waits."""
        self.is_closing = True
        for waiter in list(self._waiters):
            waiter.end()

    def look_at_keys(self) -> None:
        """The keys may have changed: end what waits with one that does not allow it any more."""
        for waiter in list(self._waiters):
            waiter.look_at(self._key_of(waiter.tenant))


class _Waiter:
    """A request that waits for events, for as long as its key is good for that."""

    def __init__(self, tenant: Tenant, end: Callable[[], None]) -> None:
        self.tenant = tenant
        self.end = end
        self._expires_at_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def look_at(self, key: KeyConfig | None) -> None:
        """Wait as long as this key allows it, which is the one that it came with as it is now."""
        came_with = self.tenant.key
        if came_with is None:
            return
        if key is None or key.scope not in {"both", came_with.scope}:
            self.end()
        elif key.expires_at_s != self._expires_at_s:
            self.stop_timer()
            self._expires_at_s = key.expires_at_s
            if key.expires_at_s is not None:
                left_s = min(key.expires_at_s - time.time(), MAX_TIMER_S)
                self._timer = asyncio.get_running_loop().call_later(left_s, self.end)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Hub:
    """Reads what is appended to one tenant, once, and writes it to all tails that are up to date.

    A tail joins exactly where the hub stands: what lies before it has read itself, what comes
    after the hub writes to it. So there is no gap and no repeat between the two. While the store
    cannot be had the tails stay, and go on when it is back.
    """

    def __init__(self, store: AsyncTenantStore) -> None:
        self.store = store
        self.position = 0
        """The last position that was written to the tails; of no meaning without any."""
        self.tails: dict[Tail, None] = {}
        self.now_s = 0.0
        """When the page that is being written was read, by the loop's clock."""

        self._news = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._next_beat: asyncio.TimerHandle | None = None
        self._next_try: asyncio.TimerHandle | None = None

    @property
    def is_active(self) -> bool:
        return bool(self.tails)

    def join(self, tail: Tail, head: int) -> bool:
        """Take a tail that has everything up to the hub's position; False for another one.

        A hub without tails stands at `head`, where the tail has found the end of the log.
        """
        if not self.tails:
            self.position = head
        if tail.next <= self.position:
            return False
        self.tails[tail] = None
        self._news.set()  # something may have come since the tail has looked
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return True

    def leave(self, tail: Tail) -> None:
        self.tails.pop(tail, None)
        if not self.tails:
            self._news.set()  # so that the work ends

    async def _run(self) -> None:
        end_watch = self.store.watch(self._news.set)
        self._beat()
        outage = Outage()
        try:
            while self.tails:
                await self._news.wait()
                self._news.clear()
                try:
                    while self.tails and await self._write_next():
                        pass
                except StoreError as error:
                    self._try_again_in(outage.pause_s(error))
                else:
                    outage.is_over()
        except Exception as error:
            for tail in list(self.tails):
                tail.fail(error)
            self.tails.clear()
        finally:
            end_watch()
            for timer in (self._next_beat, self._next_try):
                if timer is not None:
                    timer.cancel()

    def _try_again_in(self, seconds: float) -> None:
        if self._next_try is not None:
            self._next_try.cancel()
        self._next_try = asyncio.get_running_loop().call_later(seconds, self._news.set)

    def _beat(self) -> None:
        for tail in list(self.tails):
            tail.beat()
        self._next_beat = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)

    async def _write_next(self) -> bool:
        """Write the next page to every tail, if there is one; says whether there may be more."""
        start = self.position + 1
        page = await self.store.read_wire(start, limit=PAGE_EVENTS)
        if self.position + 1 != start:  # all have left meanwhile, and others begin elsewhere
            return True
        if not page.count:
            return False
        events = events_of(page)
        through = self.position = events[-1].position
        self.now_s = asyncio.get_running_loop().time()
        heads: list[_Head] = []
        frames: dict[tuple[int, Filter | None], Frame | None] = {}
        for at, tail in enumerate(list(self.tails)):
            kind = (id(tail.framing), tail.filter)
            if kind not in frames:
                wanted = events
                if tail.filter is not None:
                    heads = heads or [_decode_head(event.json) for event in events]
                    wanted = _matching(events, heads, tail.filter)
                frames[kind] = Frame(tail.framing.frame(wanted), len(wanted)) if wanted else None
            tail.take(frames[kind], start, through)
            if at % TAILS_AT_A_TIME == TAILS_AT_A_TIME - 1:
                await asyncio.sleep(0)
        return page.next is not None


def _matching(events: list[WireEvent], heads: list[_Head], wanted: Filter) -> list[WireEvent]:
    pairs = zip(events, heads, strict=True)
    return [event for event, head in pairs if wanted.matches(head, head.version)]


class Tail:
    """An answer that is written as events come, or only up to the end that there was.

    `start` is the first position; with `follow` the answer goes on. `filter` has no end in time
    when it follows. An answer that has an end and does not get there is broken off: only without
    an end may the server, or a client that has no more to say, end it as if it were whole. One
    that follows waits for a store that cannot be had for a while.
    """

    status = 200

    def __init__(
        self,
        live: Live,
        tenant: Tenant,
        framing: Framing,
        *,
        start: int,
        follow: bool,
        filter: Filter | None = None,
        stop: int | None = None,
        batch_events: int = 1_000,
    ) -> None:
        self._live = live
        self._tenant = tenant
        self._store = tenant.store
        self.framing = framing
        self.filter = filter
        self.next = max(1, start)
        """The first position that has not been written."""
        self._follow = follow
        self._stop = stop
        self._batch_events = batch_events
        self._sink: Sink | None = None
        self._is_first = True
        self._ended = False
        self._failure: Exception | None = None
        self._woken: asyncio.Future[None] | None = None
        self._hub: Hub | None = None
        self._next_beat: asyncio.TimerHandle | None = None
        """While it reads by itself; else its hub has it beat."""
        self._written_s = 0.0
        self._sent_bytes = self._sent_events = 0
        self.on_sent: Callable[[int, int], None] | None = None
        """Called now and then: with the bytes and the events that were sent since."""
        self.fields = [
            (b"content-type", framing.media_type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]

    def waiting(self) -> AbstractContextManager[None]:
        """Its place among those that wait, to be taken before the answer begins.

        Who does not follow waits for nothing, and takes none. Raises `Problem` 503 when there is
        none left.
        """
        if not self._follow:
            return nullcontext()
        return self._live.waiting(self._tenant, self._end)

    async def run(self, sink: Sink) -> None:
        """Write the whole answer. Raises what reading raises, and when it was not all of it."""
        self._sink = sink
        self._written_s = self._now_s()
        try:
            if self.framing.begin:
                self._write(Frame(self.framing.begin))
            if self._follow:
                await self._follow_on(sink)
            else:
                end = await self._store.head()
                end = end if self._stop is None else min(end, self._stop)
                while not sink.is_gone and await self._read_on(sink, end):
                    pass
            if self.framing.end and not sink.is_gone:
                self._write(Frame(self.framing.end))
        finally:
            self._tell_what_was_sent()

    async def _follow_on(self, sink: Sink) -> None:
        hub = self._hub = self._live.hub(self._tenant)
        sink.when_left(self._end)
        try:
            await self._run(sink, hub)
        finally:
            self._stop_beating()
            hub.leave(self)
        if self._stop is not None and self.next <= self._stop and not sink.is_gone:
            raise StoreClosed("the answer was ended before its last position")

    async def _run(self, sink: Sink, hub: Hub) -> None:
        end = self._stop
        outage = Outage()
        self._beat_by_itself()
        while not (sink.is_gone or self._ended or (end is not None and self.next > end)):
            try:
                await self._go_on(sink, hub)
            except StoreError as error:
                await self._rest(outage.pause_s(error))
            else:
                outage.is_over()

    async def _go_on(self, sink: Sink, hub: Hub) -> None:
        """Write a page of the history; or at its end what the hub has, for as long as it has it."""
        end = self._stop
        head = hub.position if hub.is_active else await self._store.head()
        if await self._read_on(sink, head if end is None else min(head, end)):
            return
        if end is not None and self.next > end:
            return
        self._look_at_since()
        if not hub.join(self, head):
            await asyncio.sleep(0)
            return
        self._stop_beating()
        await self._until_woken()
        hub.leave(self)
        self._beat_by_itself()
        if self._failure is not None:
            raise self._failure
        await sink.drain()

    async def _rest(self, seconds: float) -> None:
        """Return after so long, or when it is to end."""
        timer = asyncio.get_running_loop().call_later(seconds, self._wake)
        try:
            await self._until_woken()
        finally:
            timer.cancel()

    def _beat_by_itself(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_beat = loop.call_later(HEARTBEAT_S, self._beat_again)

    def _beat_again(self) -> None:
        self.beat()
        self._beat_by_itself()

    def _stop_beating(self) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()

    async def _read_on(self, sink: Sink, stop: int) -> bool:
        """Write the next page of the history; False at its end."""
        if self.next > stop:
            return False
        page = await self._store.read_wire(
            self.next, stop, limit=self._batch_events, filter=self.filter
        )
        if page.count:
            self._write(self._joined(Frame(self.framing.frame(events_of(page)), page.count)))
            self._tell_what_was_sent()
            self._is_first = False
            await sink.drain()
        elif self._now_s() - self._written_s > HEARTBEAT_S:
            self._write(Frame(self.framing.heartbeat))
        self.next = stop + 1 if page.next is None else page.next
        await asyncio.sleep(0)  # small pages are read on the loop, which others wait for
        return True

    def take(self, frame: Frame | None, first: int, through: int) -> None:
        """Write what the hub has read, from and up to these positions.

        Or leave the hub, to read it by itself: when the sink is full, or it begins half way.
        """
        sink, hub = self._sink, self._hub
        if hub is None or self not in hub.tails or sink is None:
            return
        if self.next > through:  # it begins later, or had left and read this by itself
            return
        if self.next == first and not self._reads_by_itself(through):
            if frame is None:
                self.next = through + 1
                return
            if sink.write_if_room(self._joined(frame)):
                self._sent_bytes += len(frame.body)
                self._sent_events += frame.events
                self.next = through + 1
                self._is_first = False
                self._written_s = hub.now_s
                return
        hub.leave(self)
        self._wake()

    def _look_at_since(self) -> None:
        """Drop a `since` that is long over: what comes is recorded later."""
        wanted = self.filter
        if wanted is None or wanted.since_ns is None:
            return
        if wanted.since_ns <= time.time_ns() - LONGEST_COMMIT_NS:
            self.filter = msgspec.structs.replace(wanted, since=None)

    def _reads_by_itself(self, through: int) -> bool:
        """Whether what the hub has read is not simply to be written.

        When events were recorded only the store knows.
        """
        has_since = self.filter is not None and self.filter.since is not None
        return has_since or (self._stop is not None and through >= self._stop)

    def _tell_what_was_sent(self) -> None:
        if self.on_sent is not None and self._sent_bytes:
            self.on_sent(self._sent_bytes, self._sent_events)
            self._sent_bytes = self._sent_events = 0

    def beat(self) -> None:
        """Say that the answer goes on, unless it has said something lately."""
        self._tell_what_was_sent()
        sink = self._sink
        quiet_s = self._now_s() - self._written_s
        if sink is not None and not sink.is_full and quiet_s > HEARTBEAT_S / 2:
            self._write(Frame(self.framing.heartbeat))

    def fail(self, error: Exception) -> None:
        """Break the answer off."""
        self._failure = error
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    async def _until_woken(self) -> None:
        if self._ended or (self._sink is not None and self._sink.is_gone):
            return
        self._woken = asyncio.get_running_loop().create_future()
        await self._woken

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _joined(self, frame: Frame) -> Frame:
        """Events as they stand in this answer: nothing separates the first from what is before."""
        if self._is_first and self.framing.separates:
            return Frame(frame.body[1:], frame.events)
        return frame

    def _write(self, frame: Frame) -> None:
        if self._sink is not None and not self._sink.is_gone:
            self._sink.write(frame)
            self._sent_bytes += len(frame.body)
            self._sent_events += frame.events
            self._written_s = self._now_s()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer by ASGI, where a writer of its own sends what there is."""
        with self.waiting():
            await self._answer(receive, send)

    async def _answer(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.fields})
        sink = _AsgiSink(send, receive)
        writer = asyncio.ensure_future(sink.send_all())
        try:
            await self.run(sink)
        finally:
            sink.close()
            await writer
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _AsgiSink:
    """Frames that wait for the writer."""

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send = send
        self._frames: list[bytes] = []
        self._bytes = 0
        self._left: Callable[[], None] | None = None
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = False
        self.is_gone = False
        self._leaving = Leaving(receive)
        self._leaving.when_left(self._go)

    @property
    def is_full(self) -> bool:
        return self._bytes > PAGE_BYTES

    def write(self, frame: Frame) -> None:
        self._frames.append(frame.body)
        self._bytes += len(frame.body)
        self._changed.set()

    def write_if_room(self, frame: Frame) -> bool:
        if self.is_full or self.is_gone:
            return False
        self.write(frame)
        return True

    async def drain(self) -> None:
        while self.is_full and not self.is_gone:
            self._drained.clear()
            await self._drained.wait()

    def when_left(self, left: Callable[[], None]) -> None:
        self._left = left

    def _go(self) -> None:
        self.is_gone = True
        self._drained.set()
        self._changed.set()
        if self._left is not None:
            self._left()

    async def send_all(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                frames, self._frames = self._frames, []
                if frames and not self.is_gone:
                    await self._send(
                        {
                            "type": "http.response.body",
                            "body": b"".join(frames),
                            "more_body": True,
                        }
                    )
                self._bytes = sum(map(len, self._frames))
                self._drained.set()
                if (self._closed or self.is_gone) and not self._frames:
                    return
        except Exception:
            self._go()
            raise

    def close(self) -> None:
        self._closed = True
        self._changed.set()
        self._leaving.end()
