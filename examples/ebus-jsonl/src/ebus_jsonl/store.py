"""One tenant's log in one file, as a `TenantStore`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ebus.core.consumers import Subscription
from ebus.core.engine import Durability, SupportsDurability
from ebus.core.errors import StoreClosed
from ebus.core.event import decode_event, utc_now
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.plan import plan_writes
from ebus.core.store import (
    NO_QUOTA,
    Page,
    Quota,
    Room,
    StreamInfo,
    SupportsIdLookup,
    SupportsQuota,
    SupportsWireRead,
    TenantStore,
    WirePage,
    Write,
    Written,
    check_list_limit,
    check_range,
    check_saved_position,
    check_writes,
    refuse_unexpected,
)
from ebus_jsonl.file import TenantFile
from ebus_jsonl.lines import event_line, saved_line
from ebus_jsonl.log import Log

MAX_LOOKED_AT_EVENTS = 32_768
"""Events that one filtered page looks at; then it is cut short, and others have their turn."""


class JsonlStore(
    TenantStore, SupportsWireRead, SupportsIdLookup, SupportsQuota, SupportsDurability
):
    """One tenant. Its file is locked, and its index in memory, as long as it is open."""

    def __init__(self, path: Path, *, durability: Durability, limits: Limits) -> None:
        self._limits = limits
        self._durability = durability
        self._quota = NO_QUOTA
        self._closed = False
        # Who writes holds the first all along, and the second only to show what is written:
        # who reads waits for no disk to sync.
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._file = TenantFile(path)
        self._log = Log(self._file)
        try:
            for frame in self._file.replay():
                self._log.take(frame)
        except BaseException:
            self._file.close()
            raise

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        with self._writing, self._changed:
            if not self._closed:
                self._closed = True
                self._file.close()
                self._changed.notify_all()

    @contextmanager
    def _reading(self) -> Iterator[Log]:
        with self._changed:
            self._check_open()
            yield self._log

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"{self._file.path} is closed")

    # Writing

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        checked = check_writes(writes, self._limits)
        with self._writing:
            self._check_open()
            plan = plan_writes(
                writes,
                checked,
                head=self._log.head,
                now=utc_now(),
                index=self._log,
                room=None if self._quota == NO_QUOTA else self._room(),
            )
            lines = [event_line(wire) for wire in plan.encoded]
            lines += [saved_line(name, state) for name, state in plan.subscriptions.items()]
            self._store(lines)
            return plan.results

    def _store(self, lines: Sequence[bytes]) -> None:
        """On the disk first; only then is it seen, and only then is anybody answered."""
        if not lines:
            return
        # A clock that was set back must not part events from their order.
        recorded_ns = max(self._log.recorded_ns, time.time_ns())
        frame = self._file.append(lines, recorded_ns=recorded_ns, durability=self._durability)
        with self._changed:
            self._log.take(frame)
            self._changed.notify_all()

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        if expected is not None:
            check_saved_position(expected)
        with self._writing:
            self._check_open()
            known = self._log.subscription(name)
            if known is None:
                return False
            refuse_unexpected(known.position, expected)
            self._store([saved_line(name, None)])
            return True

    def set_durability(self, durability: Durability) -> None:
        with self._writing:
            self._check_open()
            self._durability = durability

    def set_quota(self, quota: Quota) -> None:
        self._quota = quota

    def stored_bytes(self) -> int:
        with self._reading():
            return self._file.end

    def _room(self) -> Room:
        return Room(
            self._quota,
            events=self._log.head,
            size_bytes=self._file.end,
            knows=self._log.subscriptions.__contains__,
        )

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
        page = self.read_wire(
            start, stop, limit=limit, max_bytes=max_bytes, filter=filter, backwards=backwards
        )
        return Page([decode_event(wire) for wire in page.chunks], page.next)

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
        bounds = check_range(start, stop, limit, max_bytes, self._limits, filter)
        chunks: list[bytes] = []
        size = first = 0
        with self._reading() as log:
            within = log.recorded(filter, range(bounds.start, min(bounds.stop, log.head) + 1))
            for looked_at, position in enumerate(reversed(within) if backwards else within):
                if filter is not None:
                    if looked_at == MAX_LOOKED_AT_EVENTS:
                        return WirePage(chunks, len(chunks), first, position)
                    if not log.matches(filter, position):
                        continue
                if len(chunks) == bounds.limit or size >= bounds.max_bytes:
                    return WirePage(chunks, len(chunks), first, position)
                chunks.append(log.wire(position))
                size += len(chunks[-1])
                first = first or position
        return WirePage(chunks, len(chunks), first, None)

    def head(self) -> int:
        with self._reading() as log:
            return log.head

    def count(self) -> int:
        return self.head()  # nothing is ever trimmed

    def wait(self, position: int, timeout_s: float) -> int:
        with self._reading() as log:
            self._changed.wait_for(lambda: self._closed or log.head >= position, timeout_s)
            self._check_open()
            return log.head

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        with self._reading() as log:
            return {name: log.ids[name] for name in ids if name in log.ids}

    def streams(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> list[StreamInfo]:
        bounds = check_range(1, None, limit, None, self._limits)
        with self._reading() as log:
            names = sorted(it for it in log.streams if it.startswith(prefix) and it > after)
            return [StreamInfo(name, log.streams[name]) for name in names[: bounds.limit]]

    def stream_version(self, stream: str) -> int:
        with self._reading() as log:
            return log.stream_version(stream)

    def subscription(self, name: str) -> Subscription | None:
        with self._reading() as log:
            return log.subscription(name)

    def checkpoint(self, name: str) -> int | None:
        known = self.subscription(name)
        return None if known is None else known.position

    def checkpoints(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> dict[str, int]:
        check_list_limit(limit)
        with self._reading() as log:
            known = log.subscriptions
            names = sorted(it for it in known if it.startswith(prefix) and it > after)
            return {name: known[name].position for name in names[:limit]}
