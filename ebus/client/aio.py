"""The client for programs with an event loop: what `Client` does, with `await`."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

import httpx

from ebus.client.calls import (
    NOTHING_APPENDED,
    AppendedMany,
    Call,
    Calls,
    Leased,
    Metrics,
    Splitter,
    Steps,
    counted_from,
)
from ebus.client.connection import (
    MAX_CONNECTIONS,
    TIMEOUT_S,
    Server,
    answer_of,
    http_settings,
    server_at,
)
from ebus.client.consuming import Consumer, Step
from ebus.client.following import Following
from ebus.client.problems import Answer, error_of
from ebus.client.retries import Attempts, Retries
from ebus.core.consumers import Lease, Subscription
from ebus.core.errors import (
    EbusError,
    StoreClosed,
)
from ebus.core.event import Event, NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import (
    Appended,
    Expectation,
    Page,
    StreamInfo,
    WirePage,
)

T = TypeVar("T")


class AsyncClient:
    """The tenant that a key opens, for one event loop.

    The arguments, methods and errors are those of `Client`; what takes time is awaited.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        max_connections: int = MAX_CONNECTIONS,
        assign_ids: bool = True,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._server: Server = server_at(url, timeout_s)
        self._http = httpx.AsyncClient(**http_settings(self._server, key, max_connections, tls))
        self._retries = retries or Retries()
        self._calls = Calls(limits or Limits(), assign_ids=assign_ids)
        self._active = 0
        self._is_closed = False
        self._idle = asyncio.Event()
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<AsyncClient {self._server.url}>"

    @property
    def limits(self) -> Limits:
        return self._calls.limits

    # Appending

    async def append(
        self, events: NewEvent | Sequence[NewEvent], *, expect: Expectation | None = None
    ) -> Appended:
        return await self._run(self._calls.append(events, expect))

    async def append_many(
        self, events: Iterable[NewEvent] | AsyncIterable[NewEvent]
    ) -> AppendedMany:
        """Append any number of events, in as few requests as the limits allow.

        Each request is stored as a whole. When one fails, those before it stay stored: with ids,
        the same events may be appended once more. No more than one request is held in memory.
        Raises like `append`; the `index` counts from the first event of all.
        """
        splitter, done = Splitter(self._calls), NOTHING_APPENDED
        async for event in _each(events):
            with counted_from(splitter.taken):
                call = splitter.add(event)
            if call is not None:
                done = await self._append_chunk(call, done, splitter.taken - 1)
        call = splitter.rest()
        return done if call is None else await self._append_chunk(call, done, splitter.taken)

    async def _append_chunk(
        self, call: Call[Appended], done: AppendedMany, taken: int
    ) -> AppendedMany:
        with counted_from(done.events):
            appended = await self._run(call)
        return done.and_then(appended, taken - done.events)

    # Reading

    async def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> Page:
        return await self._run(
            self._calls.read(
                start,
                stop,
                limit=limit,
                max_bytes=max_bytes,
                filter=filter,
                backwards=backwards,
            )
        )

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
        """Like `read`, as the bytes that the server has sent."""
        return await self._run(
            self._calls.read_wire(
                start,
                stop,
                limit=limit,
                max_bytes=max_bytes,
                filter=filter,
                backwards=backwards,
            )
        )

    def stream(
        self, start: int = 1, *, filter: Filter | None = None, stop: int | None = None
    ) -> AsyncGenerator[Event]:
        """Every event from `start` to the last there is at first, or to `stop`, in flat memory.

        What breaks off or ends early is gone on with behind the last event. White space in data
        that is a line break comes as a space. Raises like `read`.
        """
        return self._events(self._following(start, stop, filter, is_endless=False))

    async def tail(
        self, after: int | None = None, *, filter: Filter | None = None
    ) -> AsyncGenerator[Event]:
        """Events behind a position, or from now on, as they are appended, without end.

        Now is when the first is waited for. None is left out and none comes twice, also when the
        server goes away and comes back: it is asked again, for as long as it takes. Raises what
        does not pass by itself, such as `Unauthorized`, and `StoreClosed` once the client is
        closed.
        """
        if after is None:
            after = await self.head()
        async for event in self._events(self._following(after + 1, None, filter, is_endless=True)):
            yield event

    async def head(self) -> int:
        return await self._run(self._calls.head())

    async def count(self) -> int:
        return await self._run(self._calls.count())

    async def metrics(self) -> Metrics:
        """How many events the tenant has, and its name where the server has several."""
        return await self._run(self._calls.metrics())

    async def check_health(self) -> None:
        """Return when the server is well; raise `StoreUnavailable` or `ServerUnreachable`."""
        await self._run(self._calls.health())

    async def wait(self, position: int, timeout_s: float) -> int:
        return await self._drive(self._calls.wait(position, timeout_s, time.monotonic))

    async def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        return await self._drive(self._calls.streams(prefix, after, limit))

    async def stream_version(self, stream: str) -> int:
        return await self._drive(self._calls.stream_version(stream))

    # Subscriptions

    async def checkpoint(self, name: str) -> int | None:
        return await self._drive(self._calls.checkpoint(name))

    async def save_checkpoint(
        self, name: str, position: int, *, expected: int | None = None
    ) -> None:
        await self._run(self._calls.save_checkpoint(name, position, expected))

    async def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        return await self._drive(self._calls.delete_checkpoint(name, expected))

    async def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        return await self._drive(self._calls.checkpoints(prefix, after, limit))

    async def subscription(self, name: str) -> Subscription | None:
        return await self._drive(self._calls.subscription(name))

    # Leases

    async def lease(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
        wait_s: float = 0.0,
    ) -> Lease | None:
        """As the protocol says; waits for something to do for up to `wait_s` seconds."""
        leased = await self.lease_events(
            name, max_events=max_events, seconds=seconds, max_attempts=max_attempts, wait_s=wait_s
        )
        return None if leased is None else leased.lease

    async def lease_events(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
        wait_s: float = 0.0,
    ) -> Leased | None:
        """Like `lease`, with the events. An answer that is lost leaves a lease to run out."""
        return await self._drive(
            self._calls.lease(
                name,
                max_events=max_events,
                seconds=seconds,
                max_attempts=max_attempts,
                wait_s=wait_s,
                clock=time.monotonic,
            )
        )

    async def acknowledge(self, name: str, lease_id: str, position: int | None = None) -> None:
        """As the protocol says. After a lost answer `LeaseLost` may mean that it was done."""
        await self._run(self._calls.acknowledge(name, lease_id, position))

    async def extend_lease(self, name: str, lease_id: str, seconds: float) -> Lease:
        return await self._run(self._calls.extend_lease(name, lease_id, seconds))

    async def release(
        self,
        name: str,
        lease_id: str,
        position: int | None = None,
        *,
        failed: bool = True,
        delay_s: float = 0.0,
        reason: str = "",
    ) -> None:
        await self._run(
            self._calls.release(
                name, lease_id, position, failed=failed, delay_s=delay_s, reason=reason
            )
        )

    async def redeliver_parked(self, name: str, first_position: int) -> bool:
        return await self._run(self._calls.redeliver_parked(name, first_position))

    async def drop_parked(self, name: str, first_position: int) -> bool:
        return await self._run(self._calls.drop_parked(name, first_position))

    async def consume(
        self,
        name: str,
        handler: Callable[[Event], object],
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
        delay_s: float = 0.0,
        wait_s: float = 20.0,
        stop: Callable[[], bool] | None = None,
    ) -> int:
        """Hand the events of a subscription to the handler, one after the other.

        The handler may be async, or not: then the loop waits for it.

        An event whose handler raises an `Exception` is released as failed, to be handed out again
        after `delay_s` and parked after `max_attempts`; what was handled before it is finished.
        A lease is extended when half of its `seconds` are over, between two events.

        While the server is away, or has no room for this tenant, it is asked again, with pauses
        as between attempts, for as long as it takes; with a `wait_s` of 0 that is raised.

        Returns how many events were handled, once `stop` says so, which is asked before each
        lease and each event; or once there is nothing to do, with a `wait_s` of 0. Whatever
        else is raised, such as CancelledError or by `stop`, gives the rest back first.
        """
        consumer = Consumer(
            self._calls,
            self._retries,
            name,
            max_events=max_events,
            seconds=seconds,
            max_attempts=max_attempts,
            delay_s=delay_s,
            wait_s=wait_s,
            stop=stop,
        )
        steps = consumer.run()
        try:
            step = next(steps)
            while True:
                try:
                    result = await self._take(step, handler)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            handled: int = end.value
            return handled

    async def _take(self, step: Step, handler: Callable[[Event], object]) -> object:
        if isinstance(step, Call):
            return await self._run(step)
        if isinstance(step, Event):
            result = handler(step)
            return await result if inspect.isawaitable(result) else result
        await self._pause(step)
        return None

    # Sending

    async def close(self) -> None:
        """End streams, let the calls under way end, and close the connections. Twice is fine."""
        self._is_closed = True
        self._closing.set()
        while self._active:
            self._idle.clear()
            await self._idle.wait()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._check_open()
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            self._idle.set()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosed("the client is closed")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        self._check_open()

    async def _run(self, call: Call[T]) -> T:
        attempts = Attempts(call, self._retries)
        while True:
            with self._under_way():
                try:
                    return attempts.read(await self._send(call))
                except EbusError as error:
                    pause_s = attempts.pause_after(error)
            await self._pause(pause_s)

    async def _drive(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                call = steps.send(await self._run(call))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, call: Call[T]) -> Answer:
        try:
            async with asyncio.timeout(self._server.timeout_s + call.wait_s):
                request = self._server.request(self._http, call)
                response = await self._http.send(request)
        except TimeoutError:
            raise self._server.too_slow() from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._server.unreachable(error) from None
        return answer_of(response, response.content)

    def _following(
        self, start: int, stop: int | None, filter: Filter | None, *, is_endless: bool
    ) -> Following:
        return Following(
            self._calls,
            self._retries,
            start=start,
            stop=stop,
            filter=filter,
            is_endless=is_endless,
        )

    async def _events(self, following: Following) -> AsyncGenerator[Event]:
        if not following.is_endless:
            following.end_at(await self.head())
        while not following.is_done:
            refused: Answer | None = None
            failure: EbusError
            try:
                async with self._opened(following.call()) as response:
                    if response.status_code != 200:
                        refused = answer_of(response, await response.aread())
                        raise error_of(refused)
                    pieces = response.aiter_bytes()
                    while (piece := await self._unless_closed(pieces)) is not None:
                        for event in following.feed(piece):
                            yield event
                following.end()
                await self._look_for_rest(following)
                continue
            except EbusError as error:
                failure = error
            except (httpx.HTTPError, httpx.StreamError) as error:
                failure = self._server.unreachable(error)
            self._check_open()
            await self._pause(following.pause_after(failure, refused))

    async def _look_for_rest(self, following: Following) -> None:
        while not following.is_done:
            following.look(await self._run(following.rest()))

    async def _unless_closed(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """The next piece, None at the end. Raises `StoreClosed` when the client is closed."""
        piece = asyncio.ensure_future(anext(pieces, None))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((piece, closing), return_when=asyncio.FIRST_COMPLETED)
            self._check_open()
            return piece.result()
        finally:
            closing.cancel()
            if not piece.done():
                piece.cancel()
                with suppress(asyncio.CancelledError):
                    await piece

    @asynccontextmanager
    async def _opened(self, call: Call[None]) -> AsyncIterator[httpx.Response]:
        with self._under_way():
            request = self._server.stream_request(self._http, call)
            response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


async def _each(events: Iterable[NewEvent] | AsyncIterable[NewEvent]) -> AsyncIterator[NewEvent]:
    if isinstance(events, AsyncIterable):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event
