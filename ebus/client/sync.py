"""The client for programs without an event loop: a tenant's store on the far side of HTTP."""

from __future__ import annotations

import inspect
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import httpx

from ebus.client.calls import (
    NOTHING_APPENDED,
    WAIT_SLICE_S,
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
    ChangeSubscription,
    Expectation,
    Page,
    SaveCheckpoint,
    StreamInfo,
    SupportsWireRead,
    TenantStore,
    WirePage,
    Write,
    Written,
)

T = TypeVar("T")


class Client(TenantStore, SupportsWireRead):
    """The tenant that a key opens, as a `TenantStore`. Safe to call from several threads.

    `timeout_s` is the time limit of each attempt, in seconds. `limits` are to be the server's:
    by them appends are split, and what goes beyond them is refused before it is sent. With
    `assign_ids` an event without an id gets one before it is sent, so that it may be sent again.

    Raises what the protocol says, and `ClientError` where the way to the server fails.
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
        self._http = httpx.Client(**http_settings(self._server, key, max_connections, tls))
        self._retries = retries or Retries()
        self._calls = Calls(limits or Limits(), assign_ids=assign_ids)
        self._changed = threading.Condition()
        self._active = 0
        self._is_closed = False
        self._streams: set[httpx.Response] = set()

    def __repr__(self) -> str:
        return f"<Client {self._server.url}>"

    @property
    def limits(self) -> Limits:
        return self._calls.limits

    # Appending

    def append(
        self, events: NewEvent | Sequence[NewEvent], *, expect: Expectation | None = None
    ) -> Appended:
        return self._run(self._calls.append(events, expect))

    def append_many(self, events: Iterable[NewEvent]) -> AppendedMany:
        """Append any number of events, in as few requests as the limits allow.

        Each request is stored as a whole. When one fails, those before it stay stored: with ids,
        the same events may be appended once more. No more than one request is held in memory.
        Raises like `append`; the `index` counts from the first event of all.
        """
        splitter, done = Splitter(self._calls), NOTHING_APPENDED
        for event in events:
            with counted_from(splitter.taken):
                call = splitter.add(event)
            if call is not None:
                done = self._append_chunk(call, done, splitter.taken - 1)
        call = splitter.rest()
        return done if call is None else self._append_chunk(call, done, splitter.taken)

    def _append_chunk(self, call: Call[Appended], done: AppendedMany, taken: int) -> AppendedMany:
        with counted_from(done.events):
            appended = self._run(call)
        return done.and_then(appended, taken - done.events)

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do the writes one after the other, a request each: together they are not atomic.

        When an error of the medium or of the way there is raised, those before it stay. Raises
        `EngineError` for a change of a subscription, which cannot go over the wire.
        """
        if any(isinstance(write, ChangeSubscription) for write in writes):
            raise EngineError("a change of a subscription cannot go over HTTP: use lease and so on")
        return [self._written(write) for write in writes]

    def _written(self, write: Write) -> Written:
        try:
            if isinstance(write, Append):
                return self.append(write.events, expect=write.expect)
            assert isinstance(write, SaveCheckpoint)
            self.save_checkpoint(write.name, write.position, expected=write.expected)
        except (InvalidInput, Conflict, QuotaExceeded) as refusal:
            return refusal.with_traceback(None)
        return None

    # Reading

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
        return self._run(
            self._calls.read(
                start,
                stop,
                limit=limit,
                max_bytes=max_bytes,
                filter=filter,
                backwards=backwards,
            )
        )

    def read_wire(
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
        return self._run(
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
    ) -> Generator[Event]:
        """Every event from `start` to the last there is at first, or to `stop`, in flat memory.

        What breaks off or ends early is gone on with behind the last event. White space in data
        that is a line break comes as a space. Raises like `read`.
        """
        return self._events(self._following(start, stop, filter, is_endless=False))

    def tail(self, after: int | None = None, *, filter: Filter | None = None) -> Generator[Event]:
        """Events behind a position, or from now on, as they are appended, without end.

        None is left out and none comes twice, also when the server goes away and comes back: it
        is asked again, for as long as it takes. Raises what does not pass by itself, such as
        `Unauthorized`, and `StoreClosed` once the client is closed.
        """
        if after is None:
            after = self.head()
        return self._events(self._following(after + 1, None, filter, is_endless=True))

    def head(self) -> int:
        return self._run(self._calls.head())

    def count(self) -> int:
        return self._run(self._calls.count())

    def metrics(self) -> Metrics:
        """How many events the tenant has, and its name where the server has several."""
        return self._run(self._calls.metrics())

    def check_health(self) -> None:
        """Return when the server is well; raise `StoreUnavailable` or `ServerUnreachable`."""
        self._run(self._calls.health())

    def wait(self, position: int, timeout_s: float) -> int:
        return self._drive(self._calls.wait(position, timeout_s, time.monotonic))

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        return self._drive(self._calls.streams(prefix, after, limit))

    def stream_version(self, stream: str) -> int:
        return self._drive(self._calls.stream_version(stream))

    # Subscriptions

    def checkpoint(self, name: str) -> int | None:
        return self._drive(self._calls.checkpoint(name))

    def save_checkpoint(self, name: str, position: int, *, expected: int | None = None) -> None:
        self._run(self._calls.save_checkpoint(name, position, expected))

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        return self._drive(self._calls.delete_checkpoint(name, expected))

    def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        return self._drive(self._calls.checkpoints(prefix, after, limit))

    def subscription(self, name: str) -> Subscription | None:
        return self._drive(self._calls.subscription(name))

    # Leases

    def lease(
        self,
        name: str,
        *,
        max_events: int = 100,
        seconds: float = 30.0,
        max_attempts: int = 5,
        wait_s: float = 0.0,
    ) -> Lease | None:
        """As the protocol says; waits for something to do for up to `wait_s` seconds."""
        leased = self.lease_events(
            name, max_events=max_events, seconds=seconds, max_attempts=max_attempts, wait_s=wait_s
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
        """Like `lease`, with the events. An answer that is lost leaves a lease to run out."""
        return self._drive(
            self._calls.lease(
                name,
                max_events=max_events,
                seconds=seconds,
                max_attempts=max_attempts,
                wait_s=wait_s,
                clock=time.monotonic,
            )
        )

    def acknowledge(self, name: str, lease_id: str, position: int | None = None) -> None:
        """As the protocol says. After a lost answer `LeaseLost` may mean that it was done."""
        self._run(self._calls.acknowledge(name, lease_id, position))

    def extend_lease(self, name: str, lease_id: str, seconds: float) -> Lease:
        return self._run(self._calls.extend_lease(name, lease_id, seconds))

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
        self._run(
            self._calls.release(
                name, lease_id, position, failed=failed, delay_s=delay_s, reason=reason
            )
        )

    def redeliver_parked(self, name: str, first_position: int) -> bool:
        return self._run(self._calls.redeliver_parked(name, first_position))

    def drop_parked(self, name: str, first_position: int) -> bool:
        return self._run(self._calls.drop_parked(name, first_position))

    def consume(
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

        An event whose handler raises an `Exception` is released as failed, to be handed out again
        after `delay_s` and parked after `max_attempts`; what was handled before it is finished.
        A lease is extended when half of its `seconds` are over, between two events.

        While the server is away, or has no room for this tenant, it is asked again, with pauses
        as between attempts, for as long as it takes; with a `wait_s` of 0 that is raised.

        Returns how many events were handled, once `stop` says so, which is asked before each
        lease and each event; or once there is nothing to do, with a `wait_s` of 0. Whatever
        else is raised, such as KeyboardInterrupt or by `stop`, gives the rest back first.
        """
        if inspect.iscoroutinefunction(handler):
            raise TypeError("an async handler is for AsyncClient: here nothing would await it")
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
                    result = self._take(step, handler)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            handled: int = end.value
            return handled

    def _take(self, step: Step, handler: Callable[[Event], object]) -> object:
        if isinstance(step, Call):
            return self._run(step)
        if isinstance(step, Event):
            return handler(step)
        self._pause(step)
        return None

    # Sending

    def close(self) -> None:
        """End streams, let the calls under way end, and close the connections. Twice is fine."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            for response in self._streams:
                _wake(response)
            longest_s = self._server.timeout_s + WAIT_SLICE_S
            self._changed.wait_for(lambda: not self._active, longest_s)
        self._http.close()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._changed:
            self._check_open()
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosed("the client is closed")

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, seconds)
            self._check_open()

    def _run(self, call: Call[T]) -> T:
        attempts = Attempts(call, self._retries)
        while True:
            with self._under_way():
                try:
                    return attempts.read(self._send(call))
                except EbusError as error:
                    pause_s = attempts.pause_after(error)
            self._pause(pause_s)

    def _drive(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                call = steps.send(self._run(call))
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, call: Call[T]) -> Answer:
        until_s = time.monotonic() + self._server.timeout_s + call.wait_s
        try:
            response = self._http.send(self._server.request(self._http, call), stream=True)
            try:
                pieces = []
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    if time.monotonic() > until_s:
                        raise self._server.too_slow()
            finally:
                response.close()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._server.unreachable(error) from None
        return answer_of(response, b"".join(pieces))

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

    def _events(self, following: Following) -> Generator[Event]:
        if not following.is_endless:
            following.end_at(self.head())
        while not following.is_done:
            refused: Answer | None = None
            try:
                with self._opened(following.call()) as response:
                    if response.status_code != 200:
                        refused = answer_of(response, response.read())
                        raise error_of(refused)
                    for piece in response.iter_bytes():
                        yield from following.feed(piece)
                following.end()
                self._look_for_rest(following)
            except (EbusError, httpx.HTTPError, httpx.StreamError) as error:
                self._check_open()
                failure = error if isinstance(error, EbusError) else None
                if not isinstance(error, EbusError):
                    failure = self._server.unreachable(error)
                assert failure is not None
                pause_s = following.pause_after(failure, refused)
                self._pause(pause_s)

    def _look_for_rest(self, following: Following) -> None:
        while not following.is_done:
            following.look(self._run(following.rest()))

    @contextmanager
    def _opened(self, call: Call[None]) -> Iterator[httpx.Response]:
        self._check_open()
        response = self._http.send(self._server.stream_request(self._http, call), stream=True)
        try:
            with self._changed:
                self._check_open()
                self._streams.add(response)
            yield response
        finally:
            with self._changed:
                self._streams.discard(response)
            response.close()


def _wake(response: httpx.Response) -> None:
    """End what another thread waits for: a socket that is merely closed does not wake it."""
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream is not None else None
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
