"""The engine that keeps everything in memory: the reference for what the protocol means.

It favours being read over being fast. Nothing survives the process, whatever the durability.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ebus.core.engine import Durability, Engine
from ebus.core.errors import EbusError, InvalidRange, StoreClosed
from ebus.core.event import decode_event, encode_events, utc_now
from ebus.core.limits import Limits
from ebus.core.store import (
    NO_QUOTA,
    Append,
    Appended,
    Page,
    Quota,
    Room,
    SaveCheckpoint,
    SupportsQuota,
    SupportsTrim,
    TenantStore,
    Write,
    Written,
    check_range,
    refusals_of,
)
from ebus.core.tenant import TenantName


class Log:
    """What one tenant has stored: the part that outlives its stores."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.head = 0
        self.events: dict[int, bytes] = {}
        """Position → the event as wire JSON, in the order of the positions."""
        self.checkpoints: dict[str, int] = {}
        self.size_bytes = 0
        """Of the events and of the checkpoints' names."""

    def append(self, encoded: Sequence[bytes]) -> Appended:
        first = self.head + 1
        self.events.update(enumerate(encoded, first))
        self.head += len(encoded)
        self.size_bytes += sum(map(len, encoded))
        return Appended(first, self.head)

    def save_checkpoint(self, name: str, position: int) -> None:
        if name not in self.checkpoints:
            self.size_bytes += len(name.encode())
        self.checkpoints[name] = position


class MemoryStore(TenantStore, SupportsTrim, SupportsQuota):
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
            results: list[Written] = []
            now = utc_now()
            room = Room(
                self._quota,
                events=len(log.events),
                size_bytes=log.size_bytes,
                knows=lambda name: name in log.checkpoints,
            )
            for write, invalid in zip(writes, refusals_of(writes, self._limits), strict=True):
                refusal: EbusError | None = invalid
                if refusal is None and isinstance(write, SaveCheckpoint):
                    refusal = room.take_name(write.name)
                    if refusal is None:
                        log.save_checkpoint(write.name, write.position)
                    results.append(refusal)
                elif refusal is None and isinstance(write, Append):
                    encoded = encode_events(write.events, log.head + 1, now)
                    refusal = room.take_events(encoded)
                    results.append(refusal or log.append(encoded))
                else:
                    results.append(refusal)
            return results

    def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> Page:
        bounds = check_range(start, stop, limit, max_bytes, self._limits)
        with self._open_log() as log:
            page: list[bytes] = []
            size = 0
            for position in range(bounds.start, min(bounds.stop, log.head) + 1):
                if position not in log.events:
                    continue
                if len(page) == bounds.limit or size >= bounds.max_bytes:
                    return Page([decode_event(wire) for wire in page], position)
                page.append(log.events[position])
                size += len(page[-1])
            return Page([decode_event(wire) for wire in page], None)

    def trim(self, through: int) -> None:
        with self._open_log() as log:
            if not 0 <= through <= log.head:
                raise InvalidRange(f"cannot trim through {through}: the head is {log.head}")
            for position in [position for position in log.events if position <= through]:
                log.size_bytes -= len(log.events.pop(position))

    def head(self) -> int:
        with self._open_log() as log:
            return log.head

    def count(self) -> int:
        with self._open_log() as log:
            return len(log.events)

    def checkpoint(self, name: str) -> int | None:
        with self._open_log() as log:
            return log.checkpoints.get(name)

    def delete_checkpoint(self, name: str) -> bool:
        with self._open_log() as log:
            existed = log.checkpoints.pop(name, None) is not None
            if existed:
                log.size_bytes -= len(name.encode())
            return existed

    def checkpoints(self) -> dict[str, int]:
        with self._open_log() as log:
            return dict(sorted(log.checkpoints.items()))

    def close(self) -> None:
        self._closed = True

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def _open_log(self) -> Iterator[Log]:
        if self._closed:
            raise StoreClosed("the store is closed")
        with self._log.lock:
            yield self._log


class MemoryEngine(Engine):
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

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for store in self._stores.values():
                store.close()
            self._stores.clear()


def open_memory(location: str, *, durability: Durability, limits: Limits) -> MemoryEngine:
    """The `EngineFactory` of `memory:`. Every call makes a new, empty engine."""
    return MemoryEngine(limits=limits)
