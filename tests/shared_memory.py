"""Memory engines on one storage, of which each tells the others what it has written.

To a server that is what a cluster is to many: what it stores, another one may have written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from ebus.backends.memory import Log, MemoryEngine, MemoryStore
from ebus.core.engine import Durability
from ebus.core.errors import StoreClosed
from ebus.core.limits import Limits
from ebus.core.store import SupportsWatch, Write, Written
from ebus.core.tenant import TenantName


class SharedLog(Log):
    """A log whose stores know of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.watchers: dict[object, tuple[SharedStore, Callable[[], None]]] = {}

    def tell_others(self, writer: SharedStore) -> None:
        with self.lock:
            watchers = list(self.watchers.values())
        for store, moved in watchers:
            if store is not writer:
                moved()


class SharedStore(MemoryStore, SupportsWatch):
    """One of several stores of one log."""

    def __init__(self, log: SharedLog, limits: Limits) -> None:
        super().__init__(log, limits)
        self.log = log

    def watch(self, moved: Callable[[], None]) -> Callable[[], None]:
        watcher = object()
        with self._open_log():
            self.log.watchers[watcher] = (self, moved)
            self.log.changed.notify_all()

        def end() -> None:
            with self.log.lock:
                self.log.watchers.pop(watcher, None)
                self.log.changed.notify_all()

        return end

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        results = super().commit(writes)
        self.log.tell_others(self)
        return results

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        existed = super().delete_checkpoint(name, expected=expected)
        self.log.tell_others(self)
        return existed

    def close(self) -> None:
        super().close()
        with self.log.lock:
            mine = [it for it, (store, _) in self.log.watchers.items() if store is self]
            for watcher in mine:
                del self.log.watchers[watcher]


class SharedEngine(MemoryEngine):
    """One of several engines on `logs`."""

    def __init__(self, logs: dict[str, SharedLog], *, limits: Limits | None = None) -> None:
        super().__init__(limits=limits, logs=cast(dict[str, Log], logs))
        self._shared = logs

    def open(self, name: str, *, durability: Durability | None = None) -> SharedStore:
        tenant = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        with self._lock:
            if self._closed:
                raise StoreClosed("the engine is closed")
            store = self._stores.get(tenant)
            if not isinstance(store, SharedStore) or store.closed:
                log = self._shared.setdefault(tenant, SharedLog())
                store = self._stores[tenant] = self.new_store(tenant, log)
            return store

    def new_store(self, name: TenantName, log: SharedLog) -> SharedStore:
        return SharedStore(log, self._limits)
