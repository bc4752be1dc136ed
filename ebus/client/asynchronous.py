"""The client for programs on an event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import httpx
import tenacity

from ebus.client.calls import (
    LISTED_AT_ONCE,
    Call,
    Calls,
    Leased,
    Lines,
    check_status,
    error_of,
    follow_params,
)
from ebus.client.repeating import Policy, unanswered
from ebus.client.tenant import (
    MAX_CONNECTIONS,
    RETRIES,
    RETRY_FOR_S,
    TIMEOUT_S,
    WAIT_S,
    Settings,
)
from ebus.core.consumers import Lease, Subscription
from ebus.core.errors import EbusError, StoreClosed
from ebus.core.event import Event, NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import Appended, Expectation, Page, StreamInfo

T = TypeVar("T")


class AsyncClient:
    """Like `Client`, for callers on an event loop; use it from one loop only.

    With `assign_ids` each event gets an id before it is sent, unless it
    has one, so that an append may be repeated and is stored once even so.

    A request takes at most `timeout_s` seconds for each of its steps. One that may be repeated is,
    at most `retries` times and for `retry_for_s` seconds in all: reads, appends whose events have
    ids, checkpoints that are saved without an expectation; and anything that was never sent, or
    that the server put off with 429. `limits` are what is checked before anything is sent.

    Raises the errors that a store raises, and those of `ebus.client.errors`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        retry_for_s: float = RETRY_FOR_S,
        max_connections: int = MAX_CONNECTIONS,
        assign_ids: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._settings = Settings(url, key, timeout_s=timeout_s, max_connections=max_connections)
        self._policy = Policy(retries=retries, for_s=retry_for_s)
        self._calls = Calls(limits or Limits(), assign_ids=assign_ids)
        self._http = httpx.AsyncClient(
            base_url=self._settings.url,
            headers=self._settings.headers,
            timeout=self._settings.timeout,
            limits=self._settings.pool,
            trust_env=False,
        )
        self._closed = False

    def __repr__(self) -> str:
        return f"AsyncClient({self._settings.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def limits(self) -> Limits:
        return self._calls.limits

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        self._closed = True
        await self._http.aclose()

    async def _call(self, call: Call[T]) -> T:
        async for attempt in tenacity.AsyncRetrying(**self._policy.arguments(call)):
            with attempt:
                return await self._once(call)
        raise AssertionError("unreachable")

    async def _once(self, call: Call[T]) -> T:
        self._refuse_if_closed()
        try:
            response = await self._http.request(
                call.method,
                call.path,
                params=list(call.params),
                headers=call.headers,
                content=call.content,
                timeout=self._settings.timeout_of(call.wait_s),
            )
        except httpx.TransportError as failure:
            raise unanswered(failure) from None
        check_status(call, response)
        return call.read(response)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed("the client is closed")

    async def append(
        self, events: NewEvent | Sequence[NewEvent], *, expect: Expectation | None = None
    ) -> Appended:
        """Like `TenantStore.append`; a single event need not be in a list."""
        batch = [events] if isinstance(events, NewEvent) else events
        return await self._call(self._calls.append(batch, expect))

    async def append_many(self, events: Iterable[NewEvent]) -> AsyncIterator[Appended]:
        """Append as many events as there are, in as few requests as the limits allow.

        Each request is all or nothing, and they go one after the other: iterate to go on. Events
        are taken from the iterable as they are needed.
        """
        for batch in self._calls.batches(events):
            yield await self._call(self._calls.append(batch))

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
        return await self._call(self._calls.read(start, stop, limit, max_bytes, filter, backwards))

    async def stream(
        self, start: int = 1, stop: int | None = None, *, filter: Filter | None = None
    ) -> AsyncIterator[Event]:
        """Every event from `start` to `stop`, or to the end that there is when it begins.

        Where the answer breaks off it goes on with what has not been seen.
        """
        end = await self.head() if stop is None else stop
        async for event in self._follow(start, end, filter, follow=False):
            yield event

    async def tail(
        self, after: int | None = None, *, filter: Filter | None = None
    ) -> AsyncIterator[Event]:
        """Every event behind the position `after`, without end; by default those that come.

        When the connection is lost it comes again behind the last event that was seen: nothing is
        left out, nothing comes twice. It gives up, with `ServerUnreachable`, when the server
        cannot be reached for as long as other requests are repeated.
        """
        start = (await self.head() if after is None else after) + 1
        async for event in self._follow(start, None, filter, follow=True):
            yield event

    async def _follow(
        self, start: int, stop: int | None, wanted: Filter | None, *, follow: bool
    ) -> AsyncIterator[Event]:
        async def connect() -> httpx.Response:
            self._refuse_if_closed()
            request = self._http.build_request(
                "GET",
                "/events/stream",
                params=follow_params(start, stop, wanted, follow=follow),
                headers={"Accept": "application/x-ndjson"},
                timeout=self._settings.timeout_of_stream(),
            )
            try:
                response = await self._http.send(request, stream=True)
                if response.status_code >= 300:
                    await response.aread()
                    raise error_of(response)
            except httpx.TransportError as failure:
                raise unanswered(failure) from None
            return response

        call = Call(method="GET", path="/events/stream", read=lambda response: response)
        while stop is None or start <= stop:
            response: httpx.Response = await tenacity.AsyncRetrying(**self._policy.arguments(call))(
                connect
            )
            lines = Lines()
            try:
                async for piece in response.aiter_raw():
                    for event in lines.events(piece):
                        yield event
                        start = event.position + 1
                if not follow:
                    return
            except httpx.TransportError:
                continue
            finally:
                await response.aclose()

    async def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        return await self._call(self._calls.streams(prefix, after, limit))

    async def stream_version(self, stream: str) -> int:
        return await self._call(self._calls.stream_version(stream))

    async def head(self) -> int:
        return await self._call(self._calls.head())

    async def count(self) -> int:
        return await self._call(self._calls.count())

    async def tenant_name(self) -> str | None:
        """The tenant that the key opens; None where the server has only one."""
        return await self._call(self._calls.tenant())

    async def wait(self, position: int, timeout_s: float) -> int:
        until_s = time.monotonic() + timeout_s
        while (head := await self.head()) < position and (left_s := until_s - time.monotonic()) > 0:
            poll_s = max(0.001, min(WAIT_S, left_s))
            await self._call(self._calls.read(position, None, 1, None, None, False, wait_s=poll_s))
        return head

    async def checkpoint(self, name: str) -> int | None:
        found = await self.subscription(name)
        return None if found is None else found.position

    async def save_checkpoint(
        self, name: str, position: int, *, expected: int | None = None
    ) -> None:
        await self._call(self._calls.save_checkpoint(name, position, expected))

    async def delete_checkpoint(self, name: str) -> bool:
        return await self._call(self._calls.delete_checkpoint(name))

    async def checkpoints(self) -> dict[str, int]:
        found: dict[str, int] = {}
        after = ""
        while True:
            page = await self._call(self._calls.subscriptions("", after, LISTED_AT_ONCE))
            found |= {one.id: one.position for one in page}
            if len(page) < LISTED_AT_ONCE:
                return found
            after = page[-1].id

    async def subscription(self, name: str) -> Subscription | None:
        return await self._call(self._calls.subscription(name))

    async def lease(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
    ) -> Lease | None:
        leased = await self.lease_events(
            name, max_events=max_events, seconds=seconds, max_attempts=max_attempts
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
        """Like `lease`, with the events. Waits up to `wait_s` seconds (60 at most) for some."""
        return await self._call(self._calls.lease(name, max_events, seconds, max_attempts, wait_s))

    async def acknowledge(self, name: str, lease_id: str, position: int | None = None) -> None:
        await self._call(self._calls.acknowledge(name, lease_id, position))

    async def extend_lease(self, name: str, lease_id: str, seconds: float) -> Lease:
        return await self._call(self._calls.extend_lease(name, lease_id, seconds))

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
        await self._call(self._calls.release(name, lease_id, position, failed, delay_s, reason))

    async def redeliver_parked(self, name: str, first_position: int) -> bool:
        return await self._call(self._calls.redeliver_parked(name, first_position))

    async def drop_parked(self, name: str, first_position: int) -> bool:
        return await self._call(self._calls.drop_parked(name, first_position))

    async def consume(
        self,
        name: str,
        handler: Callable[[Event], Awaitable[object]],
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
        wait_s: float = WAIT_S,
        delay_s: float = 0.0,
    ) -> bool:
        """Lease once, and handle each event of the lease; says whether there were any.

        The lease is acknowledged when all of them are handled. When the handler raises, those
        before are finished, that one is given back as failed, to be handed out again after
        `delay_s`, and what it raised is raised. Call it in a loop; several programs may.
        """
        leased = await self.lease_events(
            name, max_events=max_events, seconds=seconds, max_attempts=max_attempts, wait_s=wait_s
        )
        if leased is None:
            return False
        for event in leased.events:
            try:
                await handler(event)
            except BaseException as error:
                failed = isinstance(error, Exception)
                reason = f"{type(error).__name__}: {error}"[:255] if failed else ""
                with suppress(EbusError):
                    await self.release(
                        name,
                        leased.lease.id,
                        event.position,
                        failed=failed,
                        delay_s=delay_s if failed else 0.0,
                        reason=reason,
                    )
                raise
        await self.acknowledge(name, leased.lease.id)
        return True
