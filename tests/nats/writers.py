"""Clients of one tenant that know what they sent and what was answered, through any store.

Every event tells whose it is: its writer, the number of the request and its place in that. So
whoever reads them all can tell what is missing, what is there twice and what nobody sent.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from ebus.client import Client as HttpClient
from ebus.client.errors import ServerUnreachable
from ebus.core.errors import (
    EbusError,
    LeaseLost,
    OutcomeUnknown,
    StoreBusy,
    StoreClosed,
    StoreOverloaded,
    StoreUnavailable,
    VersionConflict,
)
from ebus.core.event import Event, NewEvent
from ebus.core.store import Appended, Expectation, TenantStore

PATIENCE_S = 90.0

LEASE_S = 2.0
MAX_ATTEMPTS = 50
"""While the cluster is away, leases run out with nobody to blame."""

T = TypeVar("T")

NOTHING_DONE = (StoreUnavailable, StoreBusy, StoreOverloaded, StoreClosed)
"""Nothing was stored, and nothing will be, unless it is one of these:"""
IN_DOUBT = (OutcomeUnknown, ServerUnreachable)

Stores = Callable[[], Sequence[TenantStore]]
"""The doors to the tenant, as they are now: a server that starts again has another address."""


class Request(msgspec.Struct):
    number: int
    events: int = 1
    stream: str | None = None
    has_ids: bool = False
    position: int | None = None
    """Where the first one is, as it was told."""
    is_refused: bool = False
    is_in_doubt: bool = False


class _Identity(msgspec.Struct, frozen=True):
    writer: str
    number: int
    index: int
    of: int


class Client:
    """Works in a thread of its own until it is told to stop. `failures` must never happen."""

    def __init__(self, name: str, stores: Stores) -> None:
        self.name = name
        self.failures: list[str] = []
        self.done = 0
        self.troubles: list[str] = []
        """What was refused while the cluster had its own, or is not known."""
        self._stores = stores
        self._rng = random.Random(name)
        self._stop = threading.Event()
        self._thread = threading.Thread()

    @property
    def store(self) -> TenantStore:
        return self._rng.choice(self._stores())

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"{self.name} hangs"

    def _run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            raise

    def work(self) -> None:
        raise NotImplementedError

    def _trouble(self, error: EbusError) -> None:
        self.troubles.append(f"{type(error).__name__}: {error}")
        self._stop.wait(0.02)


class Writer(Client):
    """Appends one thing after the other. Its own checkpoint is called like itself.

    What it has been told so far holds whichever door it takes next.
    """

    def __init__(self, name: str, stores: Stores) -> None:
        super().__init__(name, stores)
        self.requests: dict[int, Request] = {}
        self.checkpoint = 0
        self.unanswered_checkpoints: list[int] = []
        self._number = 0
        self._version = 0
        """Of the stream that nobody else writes to, as far as that is known."""
        self._possible: set[int] = set()
        """Where it may be as well: what is read may be of old times, while leaders change."""

    def work(self) -> None:
        while not self._stop.is_set() and not self.failures:
            kind = self._rng.random()
            if kind < 0.35:
                self._append(Request(self._next()))
            elif kind < 0.5:
                self._append(Request(self._next(), self._rng.choice([2, 5, 20, 100])))
            elif kind < 0.65:
                self._append_with_ids(
                    Request(self._next(), self._rng.choice([1, 3, 10]), None, True)
                )
            elif kind < 0.8:
                self._append_to_own_stream()
            elif kind < 0.9:
                self._append_to_shared_stream()
            else:
                self._save_checkpoint()
            self._stop.wait(0.001)

    @property
    def last_position(self) -> int:
        """The last one that it was told of."""
        told = [it.position + it.events - 1 for it in self.requests.values() if it.position]
        return max(told, default=0)

    def prepare(self) -> list[NewEvent]:
        """An event that somebody else is to send. Nobody knows whether it is there then."""
        request = Request(self._next(), is_in_doubt=True)
        self.requests[request.number] = request
        return self._events(request)

    def finish(self) -> None:
        """One event more, which is known to be there, so that who waits for one goes on."""
        request = Request(self._next())
        self.requests[request.number] = request
        request.position = self.store.append(self._events(request)).first_position

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _events(self, request: Request) -> list[NewEvent]:
        return [
            NewEvent.of(
                f"T{index % 3}",
                msgspec.structs.asdict(_Identity(self.name, request.number, index, request.events)),
                id=f"{self.name}-{request.number}-{index}" if request.has_ids else None,
                stream=request.stream,
            )
            for index in range(request.events)
        ]

    def _append(self, request: Request, expect: Expectation | None = None) -> Appended | None:
        """What was told. Errors that the cluster's faults explain are taken as that."""
        self.requests[request.number] = request
        try:
            appended = self.store.append(self._events(request), expect=expect)
        except IN_DOUBT as error:
            request.is_in_doubt = True
            self._trouble(error)
            return None
        except NOTHING_DONE as error:
            request.is_refused = not request.is_in_doubt and request.position is None
            self._trouble(error)
            return None
        request.position = appended.first_position
        if appended.last_position != appended.first_position + request.events - 1:
            self.failures.append(f"{request} was answered with {appended}")
        self.done += 1
        return appended

    def _append_with_ids(self, request: Request) -> None:
        """Until it is there: that is what ids are for."""
        while not self._stop.is_set():
            request.is_refused = False
            if self._append(request):
                # Once more, which stores nothing.
                position = request.position
                if self._rng.random() < 0.2:
                    again = self._append(request)
                    request.position = position
                    if again and again.first_position != position:
                        self.failures.append(f"{request} is at {again.first_position} as well")
                break

    def _append_to_own_stream(self) -> None:
        request = Request(self._next(), self._rng.choice([1, 1, 3]), f"of-{self.name}")
        expect = Expectation(versions={f"of-{self.name}": self._version})
        try:
            appended = self._append(request, expect)
        except VersionConflict as error:
            request.is_refused = True
            current = error.current or 0
            if current in self._possible:
                self._possible.add(self._version)
                self._version = current
            elif current < self._version:  # a leader that is cut off tells of old times
                self._trouble(error)
            else:
                self.failures.append(f"own stream, at {self._version}: {error}")
            return
        if appended is not None:
            self._version += request.events
            self._possible.clear()
            if [it.version for it in appended.events][-1] != self._version:
                self.failures.append(f"version {self._version} was answered with {appended}")
        elif not request.is_refused:
            self._look_for(request)

    def _look_for(self, request: Request) -> None:
        """Whether it is there or not, it will stay so once somebody else has written."""
        number = self._next()
        while not self._stop.is_set() and self._append(Request(number)) is None:
            number = self._next()
        while not self._stop.is_set():
            try:
                version = self.store.stream_version(f"of-{self.name}")
            except (*IN_DOUBT, *NOTHING_DONE) as error:
                self._trouble(error)
                continue
            self._possible |= {self._version, self._version + request.events}
            if version not in self._possible:
                self.failures.append(f"own stream is at {version}, not in {self._possible}")
            self._version = version
            return
        self._version = -1  # nobody knows; asked for again at the next start

    def _append_to_shared_stream(self) -> None:
        """Where somebody else may be quicker."""
        stream = f"shared-{self._rng.randrange(3)}"
        request = Request(self._next(), 1, stream)
        try:
            version = self.store.stream_version(stream)
        except (*IN_DOUBT, *NOTHING_DONE) as error:
            self._trouble(error)
            return
        try:
            appended = self._append(request, Expectation(versions={stream: version}))
        except VersionConflict:
            request.is_refused = True
        else:
            if appended is not None and appended.events[0].version != version + 1:
                self.failures.append(f"{stream} at {version}: {appended}")

    def _save_checkpoint(self) -> None:
        number = self._next()
        self.unanswered_checkpoints.append(number)
        try:
            self.store.save_checkpoint(self.name, number)
        except IN_DOUBT as error:
            self._trouble(error)
        except NOTHING_DONE as error:
            self.unanswered_checkpoints.pop()
            self._trouble(error)
        else:
            self.checkpoint = number
            self.unanswered_checkpoints.clear()

    def start(self) -> None:
        if self._version < 0:
            self._version = patiently(lambda: self.store.stream_version(f"of-{self.name}"))
        super().start()


class Consumer(Client):
    """Leases events and acknowledges them, with others that work for the same subscription."""

    SUBSCRIPTION = "workers"

    def __init__(self, name: str, stores: Stores) -> None:
        super().__init__(name, stores)
        self.handled: set[int] = set()
        """Positions of events that it has had in its hands."""

    def work(self) -> None:
        while not self._stop.is_set() and not self.failures:
            try:
                lease_id = self._lease()
                if lease_id is None:
                    self._stop.wait(0.05)
                    continue
                self.store.acknowledge(self.SUBSCRIPTION, lease_id)
            except LeaseLost as error:
                self._trouble(error)
            except (*IN_DOUBT, *NOTHING_DONE) as error:
                self._trouble(error)
            else:
                self.done += 1
                self._stop.wait(0.005)

    def _lease(self) -> str | None:
        """Of what it has taken over and read, if there was anything."""
        store = self.store
        if isinstance(store, HttpClient):
            leased = store.lease_events(
                self.SUBSCRIPTION, max_events=50, seconds=LEASE_S, max_attempts=MAX_ATTEMPTS
            )
            if leased is None:
                return None
            lease, events = leased.lease, list(leased.events)
        else:
            given = store.lease(
                self.SUBSCRIPTION, max_events=50, seconds=LEASE_S, max_attempts=MAX_ATTEMPTS
            )
            if given is None:
                return None
            lease = given
            events = store.read(lease.first_position, lease.last_position).events
        positions = [it.position for it in events]
        if positions != list(range(lease.first_position, lease.last_position + 1)):
            self.failures.append(f"{lease} came with {positions}")
        self.handled.update(positions)
        return lease.id


class Tail(Client):
    """Has each event once, in order, and goes on behind its last one when it breaks off."""

    def __init__(self, name: str, follow: Callable[[int], object]) -> None:
        super().__init__(name, list)
        self._follow = follow
        self.position = 0
        self.breaks = 0

    def work(self) -> None:
        while not self._stop.is_set() and not self.failures:
            try:
                for event in self._follow(self.position):  # type: ignore[attr-defined]
                    if event.position != self.position + 1:
                        self.failures.append(f"{event.position} behind {self.position}")
                        return
                    self.position = event.position
                    self.done += 1
                    if self._stop.is_set():
                        return
            except EbusError as error:
                self.breaks += 1
                self._trouble(error)


def patiently(ask: Callable[[], T]) -> T:
    """What it says once the cluster is well again."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (*IN_DOUBT, *NOTHING_DONE):
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def read_all(store: TenantStore) -> list[Event]:
    """Every event, at contiguous positions from 1 to the head."""
    events: list[Event] = []
    start: int | None = 1
    while start is not None:
        page = store.read(start)
        events += page.events
        start = page.next
    assert [it.position for it in events] == list(range(1, len(events) + 1)), "a gap"
    assert store.head() == store.count() == len(events)
    return events


def compare(store: TenantStore, writers: Sequence[Writer]) -> list[Event]:
    """Compare what is stored with what was sent and answered. Raises AssertionError."""
    events = patiently(lambda: read_all(store))
    by_name = {it.name: it for it in writers}
    found: dict[tuple[str, int], list[tuple[int, _Identity]]] = {}
    order: dict[str, list[int]] = {it: [] for it in by_name}
    versions: dict[str, int] = {}
    ids: set[str] = set()
    for event in events:
        identity = msgspec.convert(event.value(), _Identity)
        key = identity.writer, identity.number
        if key not in found:
            order[identity.writer].append(identity.number)
        found.setdefault(key, []).append((event.position, identity))
        if event.stream is not None:
            versions[event.stream] = versions.get(event.stream, 0) + 1
            assert event.version == versions[event.stream], f"{event} is version {versions}"
        if event.id is not None:
            assert event.id not in ids, f"{event.id} is there twice, also at {event.position}"
            ids.add(event.id)
    for (name, number), parts in found.items():
        request = by_name[name].requests[number]
        first = parts[0][0]
        assert not request.is_refused, f"{name}: {request} was refused, and is at {first}"
        assert [position for position, _ in parts] == list(range(first, first + request.events)), (
            f"{name}: {request} is not whole, or is there twice: {parts}"
        )
        assert [it.index for _, it in parts] == list(range(request.events)), f"{name}: {parts}"
        assert request.position in (None, first), f"{name}: {request} is at {first}"
        request.position = first
    for writer in writers:
        assert order[writer.name] == sorted(order[writer.name]), f"{writer.name}: out of order"
        missing = [
            it
            for number, it in writer.requests.items()
            if it.position is not None and (writer.name, number) not in found
        ]
        assert not missing, f"{writer.name}: acknowledged and lost: {missing}"
        for request in writer.requests.values():
            if request.position is None:
                request.is_refused = True  # it is not there, and must not come back
        _compare_checkpoint(store, writer)
    for stream, version in versions.items():
        assert patiently(lambda: store.stream_version(stream)) == version, stream  # noqa: B023
    return events


def _compare_checkpoint(store: TenantStore, writer: Writer) -> None:
    checkpoint = patiently(lambda: store.checkpoint(writer.name)) or 0
    possible = {writer.checkpoint, *writer.unanswered_checkpoints}
    assert checkpoint in possible, f"{writer.name}: {checkpoint} is not in {possible}"
    writer.checkpoint = checkpoint
    writer.unanswered_checkpoints.clear()
