"""The client for programs without an event loop: one tenant's log, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from ebus.core.consumers import Lease, Subscription
from ebus.core.errors import (
    Conflict,
    EbusError,
    EngineError,
    InvalidInput,
    QuotaExceeded,
    StoreClosed,
)
from ebus.core.event import Event, NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import (
    Append,
    Appended,
    Expectation,
    Page,
    SaveCheckpoint,
    StreamInfo,
    TenantStore,
    Write,
    Written,
)

T = TypeVar("T")

TIMEOUT_S = 10.0
RETRIES = 5
RETRY_FOR_S = 30.0
MAX_CONNECTIONS = 100

SILENCE_S = 45.0
"""A stream that says nothing for so long is taken for dead: the server speaks every 15 s."""

WAIT_S = 20.0
"""How long one long poll lasts."""


class Settings:
    """What both clients are made with. Nothing of it shows the key."""

    def __init__(self, url: str, key: str, *, timeout_s: float, max_connections: int) -> None:
        self.url = url.rstrip("/")
        self.headers = {"X-API-Key": key}
        self._timeout_s = timeout_s
        self.timeout = httpx.Timeout(timeout_s)
        self.pool = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        )

    def timeout_of(self, wait_s: float) -> httpx.Timeout:
        """The time for one request that the server may draw out on purpose."""
        return httpx.Timeout(self._timeout_s, read=self._timeout_s + wait_s)

    def timeout_of_stream(self) -> httpx.Timeout:
        return httpx.Timeout(self._timeout_s, read=SILENCE_S)


class Client(TenantStore):
    """One tenant of a server: the one that the key opens. Safe to call from several threads.

    It has the shape of an engine's store, and more: `append_many`, `stream`, `tail`,
    `lease_events`, `consume`. With `assign_ids` each event gets an id before it is sent, unless it
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
        self._http = httpx.Client(
            base_url=self._settings.url,
            headers=self._settings.headers,
            timeout=self._settings.timeout,
            limits=self._settings.pool,
            trust_env=False,
        )
        self._closed = False

    def __repr__(self) -> str:
        return f"Client({self._settings.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def limits(self) -> Limits:
        return self._calls.limits

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._http.close()

    def _call(self, call: Call[T]) -> T:
        for attempt in tenacity.Retrying(**self._policy.arguments(call)):
            with attempt:
                return self._once(call)
        raise AssertionError("unreachable")

    def _once(self, call: Call[T]) -> T:
        self._refuse_if_closed()
        try:
            response = self._http.request(
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

    def append(
        self, events: NewEvent | Sequence[NewEvent], *, expect: Expectation | None = None
    ) -> Appended:
        """Like `TenantStore.append`; a single event need not be in a list."""
        batch = [events] if isinstance(events, NewEvent) else events
        return self._call(self._calls.append(batch, expect))

    def append_many(self, events: Iterable[NewEvent]) -> Iterator[Appended]:
        """Append as many events as there are, in as few requests as the limits allow.

        Each request is all or nothing, and they go one after the other: iterate to go on. Events
        are taken from the iterable as they are needed.
        """
        for batch in self._calls.batches(events):
            yield self._call(self._calls.append(batch))

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do one write after the other, each in a commit of its own.

        Raises `EngineError` for a change of leases by itself: there are methods for these.
        """
        results: list[Written] = []
        for write in writes:
            try:
                if isinstance(write, Append):
                    results.append(self._call(self._calls.append(write.events, write.expect)))
                elif isinstance(write, SaveCheckpoint):
                    self.save_checkpoint(write.name, write.position, expected=write.expected)
                    results.append(None)
                else:
                    raise EngineError("a client leases with its methods")
            except (InvalidInput, Conflict, QuotaExceeded) as error:
                results.append(error)
        return results

    def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        filter: Filter | None = None,
        backwards: bool = False,
    ) -> Page:
        return self._call(self._calls.read(start, stop, limit, max_bytes, filter, backwards))

    def stream(
        self, start: int = 1, stop: int | None = None, *, filter: Filter | None = None
    ) -> Iterator[Event]:
        """Every event from `start` to `stop`, or to the end that there is when it begins.

        Where the answer breaks off it goes on with what has not been seen.
        """
        end = self.head() if stop is None else stop
        return self._follow(start, end, filter, follow=False)

    def tail(self, after: int | None = None, *, filter: Filter | None = None) -> Iterator[Event]:
        """Every event behind the position `after`, without end; by default those that come.

        When the connection is lost it comes again behind the last event that was seen: nothing is
        left out, nothing comes twice. It gives up, with `ServerUnreachable`, when the server
        cannot be reached for as long as other requests are repeated.
        """
        start = (self.head() if after is None else after) + 1
        return self._follow(start, None, filter, follow=True)

    def _follow(
        self, start: int, stop: int | None, wanted: Filter | None, *, follow: bool
    ) -> Iterator[Event]:
        def connect() -> httpx.Response:
            self._refuse_if_closed()
            request = self._http.build_request(
                "GET",
                "/events/stream",
                params=follow_params(start, stop, wanted, follow=follow),
                headers={"Accept": "application/x-ndjson"},
                timeout=self._settings.timeout_of_stream(),
            )
            try:
                response = self._http.send(request, stream=True)
                if response.status_code >= 300:
                    response.read()
                    raise error_of(response)
            except httpx.TransportError as failure:
                raise unanswered(failure) from None
            return response

        call = Call(method="GET", path="/events/stream", read=lambda response: response)
        while stop is None or start <= stop:
            response: httpx.Response = tenacity.Retrying(**self._policy.arguments(call))(connect)
            lines = Lines()
            try:
                for piece in response.iter_raw():
                    for event in lines.events(piece):
                        yield event
                        start = event.position + 1
                if not follow:
                    return
            except httpx.TransportError:
                continue
            finally:
                response.close()

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        return self._call(self._calls.streams(prefix, after, limit))

    def stream_version(self, stream: str) -> int:
        return self._call(self._calls.stream_version(stream))

    def head(self) -> int:
        return self._call(self._calls.head())

    def count(self) -> int:
        return self._call(self._calls.count())

    def tenant_name(self) -> str | None:
        """The tenant that the key opens; None where the server has only one."""
        return self._call(self._calls.tenant())

    def wait(self, position: int, timeout_s: float) -> int:
        until_s = time.monotonic() + timeout_s
        while (head := self.head()) < position and (left_s := until_s - time.monotonic()) > 0:
            poll_s = max(0.001, min(WAIT_S, left_s))
            self._call(self._calls.read(position, None, 1, None, None, False, wait_s=poll_s))
        return head

    def checkpoint(self, name: str) -> int | None:
        found = self.subscription(name)
        return None if found is None else found.position

    def save_checkpoint(self, name: str, position: int, *, expected: int | None = None) -> None:
        self._call(self._calls.save_checkpoint(name, position, expected))

    def delete_checkpoint(self, name: str) -> bool:
        return self._call(self._calls.delete_checkpoint(name))

    def checkpoints(self) -> dict[str, int]:
        found: dict[str, int] = {}
        after = ""
        while True:
            page = self._call(self._calls.subscriptions("", after, LISTED_AT_ONCE))
            found |= {one.id: one.position for one in page}
            if len(page) < LISTED_AT_ONCE:
                return found
            after = page[-1].id

    def subscription(self, name: str) -> Subscription | None:
        return self._call(self._calls.subscription(name))

    def lease(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
    ) -> Lease | None:
        leased = self.lease_events(
            name, max_events=max_events, seconds=seconds, max_attempts=max_attempts
        )
        return None if leased is None else leased.lease

    def lease_events(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
        wait_s: float = 0.0,
    ) -> Leased | None:
        """Like `lease`, with the events. Waits up to `wait_s` seconds (60 at most) for some."""
        return self._call(self._calls.lease(name, max_events, seconds, max_attempts, wait_s))

    def acknowledge(self, name: str, lease_id: str, position: int | None = None) -> None:
        self._call(self._calls.acknowledge(name, lease_id, position))

    def extend_lease(self, name: str, lease_id: str, seconds: float) -> Lease:
        return self._call(self._calls.extend_lease(name, lease_id, seconds))

    def release(
        self,
        name: str,
        lease_id: str,
        position: int | None = None,
        *,
        failed: bool = True,
        delay_s: float = 0.0,
        reason: str = "",
    ) -> None:
        self._call(self._calls.release(name, lease_id, position, failed, delay_s, reason))

    def redeliver_parked(self, name: str, first_position: int) -> bool:
        return self._call(self._calls.redeliver_parked(name, first_position))

    def drop_parked(self, name: str, first_position: int) -> bool:
        return self._call(self._calls.drop_parked(name, first_position))

    def consume(
        self,
        name: str,
        handler: Callable[[Event], object],
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
        leased = self.lease_events(
            name, max_events=max_events, seconds=seconds, max_attempts=max_attempts, wait_s=wait_s
        )
        if leased is None:
            return False
        for event in leased.events:
            try:
                handler(event)
            except BaseException as error:
                failed = isinstance(error, Exception)
                reason = f"{type(error).__name__}: {error}"[:255] if failed else ""
                with suppress(EbusError):  # what the handler raised is what counts
                    self.release(
                        name,
                        leased.lease.id,
                        event.position,
                        failed=failed,
                        delay_s=delay_s if failed else 0.0,
                        reason=reason,
                    )
                raise
        self.acknowledge(name, leased.lease.id)
        return True
