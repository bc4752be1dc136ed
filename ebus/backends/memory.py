"""The engine that keeps everything in memory: the reference for what the protocol means.

It favours being read over being fast. Nothing survives the process, whatever the durability.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ebus.core.consumers import Subscription
from ebus.core.engine import Acknowledgement, Durability, Engine, SupportsAcknowledgement
from ebus.core.errors import InvalidRange, StoreClosed
from ebus.core.event import Event, decode_event, utc_now
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.plan import Index, Plan, plan_writes
from ebus.core.store import (
    NO_QUOTA,
    NoneAfter,
    Page,
    Quota,
    Room,
    StreamInfo,
    SupportsGaps,
    SupportsIdLookup,
    SupportsQuota,
    SupportsTrim,
    TenantStore,
    Write,
    Written,
    check_gap,
    check_list_limit,
    check_range,
    check_saved_position,
    check_writes,
    refuse_unexpected,
)
from ebus.core.tenant import TenantName


class Log(Index):
    """What one tenant has stored: the part that outlives its stores."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Told when the head has moved, and when a store is closed."""
        self.head = 0
        self.events: dict[int, bytes] = {}
        """Position → the event as wire JSON, in the order of the positions."""
        self.recorded_at_ns: dict[int, int] = {}
        """Position → when the event was stored, in Unix nanoseconds; it never goes down."""
        self.last_recorded_at_ns = 0
        self.ids: dict[str, int] = {}
        """Id → position, of the events that are stored."""
        self.streams: dict[str, int] = {}
        """Stream → the version of its last event, stored or trimmed."""
        self.subscriptions: dict[str, Subscription] = {}
        self.size_bytes = 0
        """Of the events and of the subscriptions' names."""

    def position_of(self, id: str) -> int | None:
        return self.ids.get(id)

    def event_at(self, position: int) -> Event:
        return decode_event(self.events[position])

    def stream_version(self, stream: str) -> int:
        return self.streams.get(stream, 0)

    def any_match(self, condition: NoneAfter) -> int | None:
        for position in range(condition.position + 1, self.head + 1):
            if position in self.events and any(
                self.matches(wanted, position) for wanted in condition.filters
            ):
                return position
        return None

    def subscription(self, name: str) -> Subscription | None:
        return self.subscriptions.get(name)

    def matches(self, wanted: Filter, position: int) -> bool:
        """Whether the event at a position is one of those that are wanted."""
        since_ns, until_ns = wanted.since_ns, wanted.until_ns
        if since_ns is not None and self.recorded_at_ns[position] < since_ns:
            return False
        if until_ns is not None and self.recorded_at_ns[position] >= until_ns:
            return False
        event = self.event_at(position)
        return wanted.matches(event, event.version)

    def carry_out(self, plan: Plan) -> None:
        """Store what was planned on top of this very log."""
        first = self.head + 1
        if plan.encoded:
            # A clock that was set back must not part events from their order.
            self.last_recorded_at_ns = max(self.last_recorded_at_ns, time.time_ns())
        for position, encoded in enumerate(plan.encoded, first):
            self.events[position] = encoded
            self.recorded_at_ns[position] = self.last_recorded_at_ns
            self.size_bytes += len(encoded)
        self.ids |= plan.ids
        self.streams |= plan.streams
        for name in plan.subscriptions.keys() - self.subscriptions.keys():
            self.size_bytes += len(name.encode())
        self.subscriptions |= plan.subscriptions
        self.head = plan.head
        self.changed.notify_all()

    def forget(self, position: int) -> None:
        """Let go of an event, if it is there. Its id may be used again, its version may not."""
        encoded = self.events.pop(position, None)
        if encoded is None:
            return
        self.size_bytes -= len(encoded)
        del self.recorded_at_ns[position]
        forgotten = decode_event(encoded)
        if forgotten.id is not None:
            del self.ids[forgotten.id]


class MemoryStore(TenantStore, SupportsTrim, SupportsGaps, SupportsIdLookup, SupportsQuota):
    """One tenant's log in memory."""

    def __init__(self, log: Log, limits: Limits) -> None:
        self._log = log
        self._limits = limits
        self._quota = NO_QUOTA
        self._closed = False

    @property
    def limits(self) -> Limits:
        return self._limits

    def stored_bytes(self) -> int:
        with self._open_log() as log:
            return log.size_bytes

    def set_quota(self, quota: Quota) -> None:
        self._quota = quota

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        with self._open_log() as log:
            room = Room(
                self._quota,
                events=len(log.events),
                size_bytes=log.size_bytes,
                knows=lambda name: name in log.subscriptions,
            )
            plan = plan_writes(
                writes,
                check_writes(writes, self._limits),
                head=log.head,
                now=utc_now(),
                index=log,
                room=None if self._quota == NO_QUOTA else room,
            )
            log.carry_out(plan)
            return plan.results

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
        bounds = check_range(start, stop, limit, max_bytes, self._limits, filter)
        with self._open_log() as log:
            page: list[Event] = []
            size = 0
            positions = range(bounds.start, min(bounds.stop, log.head) + 1)
            for position in reversed(positions) if backwards else positions:
                if position not in log.events:
                    continue
                if filter is not None and not log.matches(filter, position):
                    continue
                if len(page) == bounds.limit or size >= bounds.max_bytes:
                    return Page(page, position)
                page.append(log.event_at(position))
                size += len(log.events[position])
            return Page(page, None)

    def trim(self, through: int) -> None:
        with self._open_log() as log:
            if not 0 <= through <= log.head:
                raise InvalidRange(f"cannot trim through {through}: the head is {log.head}")
            for position in [position for position in log.events if position <= through]:
                log.forget(position)

    def leave_gap(
        self, through: int, *, versions: Mapping[str, int] | None = None, expected: int
    ) -> None:
        with self._open_log() as log:
            check_gap(
                through,
                versions or {},
                expected,
                head=log.head,
                version_of=log.stream_version,
                limits=self._limits,
            )
            log.head = through
            log.streams |= versions or {}
            log.changed.notify_all()

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        with self._open_log() as log:
            return {name: log.ids[name] for name in ids if name in log.ids}

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        bounds = check_range(1, None, limit, None, self._limits)
        with self._open_log() as log:
            names = sorted(it for it in log.streams if it.startswith(prefix) and it > after)
            return [StreamInfo(name, log.streams[name]) for name in names[: bounds.limit]]

    def stream_version(self, stream: str) -> int:
        with self._open_log() as log:
            return log.stream_version(stream)

    def head(self) -> int:
        with self._open_log() as log:
            return log.head

    def count(self) -> int:
        with self._open_log() as log:
            return len(log.events)

    def wait(self, position: int, timeout_s: float) -> int:
        with self._open_log() as log:
            log.changed.wait_for(lambda: log.head >= position or self._closed, timeout_s)
            if self._closed:
                raise StoreClosed("the store is closed")
            return log.head

    def checkpoint(self, name: str) -> int | None:
        known = self.subscription(name)
        return None if known is None else known.position

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        if expected is not None:
            check_saved_position(expected)
        with self._open_log() as log:
            known = log.subscriptions.get(name)
            if known is None:
                return False
            refuse_unexpected(known.position, expected)
            del log.subscriptions[name]
            log.size_bytes -= len(name.encode())
            return True

    def subscription(self, name: str) -> Subscription | None:
        with self._open_log() as log:
            return log.subscription(name)

    def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> dict[str, int]:
        check_list_limit(limit)
        with self._open_log() as log:
            known = log.subscriptions
            names = sorted(it for it in known if it.startswith(prefix) and it > after)
            return {name: known[name].position for name in names[:limit]}

    def close(self) -> None:
        self._closed = True
        with self._log.lock:
            self._log.changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def _open_log(self) -> Iterator[Log]:
        if self._closed:
            raise StoreClosed("the store is closed")
        with self._log.lock:
            yield self._log


class MemoryEngine(Engine, SupportsAcknowledgement):
    """Tenants in memory.

    `logs` is the storage. Hand the same dict to another engine to open the same tenants
    again, as a second engine on one directory would.
    """

    def __init__(self, *, limits: Limits | None = None, logs: dict[str, Log] | None = None) -> None:
        self._limits = limits or Limits()
        self._logs = {} if logs is None else logs
        self._stores: dict[TenantName, MemoryStore] = {}
        self._lock = threading.Lock()
        self._closed = False

    def open(self, name: str, *, durability: Durability | None = None) -> MemoryStore:
        tenant = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        with self._lock:
            if self._closed:
                raise StoreClosed("the engine is closed")
            store = self._stores.get(tenant)
            if store is None or store.closed:
                log = self._logs.setdefault(tenant, Log())
                store = self._stores[tenant] = MemoryStore(log, self._limits)
            return store

    def tenants(self) -> list[TenantName]:
        with self._lock:
            return [TenantName(name) for name in sorted(self._logs)]

    def drop(self, name: str) -> None:
        tenant = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        with self._lock:
            store = self._stores.pop(tenant, None)
            if store is not None:
                store.close()
            self._logs.pop(tenant, None)

    def acknowledgement(self, durability: Durability | None = None) -> Acknowledgement:
        return Acknowledgement("nothing: what is stored ends with the process", is_durable=False)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for store in self._stores.values():
                store.close()
            self._stores.clear()


def open_memory(location: str, *, durability: Durability, limits: Limits) -> MemoryEngine:
    """The `EngineFactory` of `memory:`. Every call makes a new, empty engine."""
    return MemoryEngine(limits=limits)
