"""A directory of tenants' files as an `Engine`: `data/alice.jsonl` is the tenant alice."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ebus.core.engine import (
    Acknowledgement,
    Durability,
    Engine,
    SupportsAcknowledgement,
    SupportsHealth,
    SupportsInspect,
    check_durability,
)
from ebus.core.errors import InvalidTenantName, StoreClosed, StoreUnavailable
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName
from ebus_jsonl.file import medium_errors, remove, sync_directory
from ebus_jsonl.lines import HEADER, check_header
from ebus_jsonl.store import JsonlStore

SUFFIX = ".jsonl"

WORTH: dict[Durability, Acknowledgement] = {
    "full": Acknowledgement("synced to this machine's disk before the answer", is_durable=True),
    "normal": Acknowledgement(
        "handed to this machine's system before the answer, and synced later", is_durable=False
    ),
}


class JsonlEngine(Engine, SupportsHealth, SupportsInspect, SupportsAcknowledgement):
    """Tenants as files in one directory, which is made with the first of them.

    A tenant is open in one engine at a time; `open` raises `StoreBusy` in every other.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        limits: Limits | None = None,
    ) -> None:
        check_durability(durability)
        self._directory = Path(directory)
        self._durability = durability
        self._limits = limits or Limits()
        self._stores: dict[TenantName, JsonlStore] = {}
        self._lock = threading.Lock()
        self._closed = False

    def open(self, name: str, *, durability: Durability | None = None) -> JsonlStore:
        tenant = self._name(name)
        durability = durability or self._durability
        check_durability(durability)
        with self._lock:
            if self._closed:
                raise StoreClosed("the engine is closed")
            store = self._stores.get(tenant)
            if store is None or store.closed:
                self._make_directory()
                store = JsonlStore(self._path(tenant), durability=durability, limits=self._limits)
                self._stores[tenant] = store
            return store

    def tenants(self) -> list[TenantName]:
        names = []
        with medium_errors(self._directory):
            files = os.listdir(self._directory) if self._directory.exists() else []
        for file in files:
            if file.endswith(SUFFIX):
                try:
                    names.append(self._name(file.removesuffix(SUFFIX)))
                except InvalidTenantName:
                    continue  # somebody else's file
        return sorted(names)

    def drop(self, name: str) -> None:
        tenant = self._name(name)
        with self._lock:
            store = self._stores.pop(tenant, None)
            if store is not None:
                store.close()
            remove(self._path(tenant))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for store in self._stores.values():
                store.close()
            self._stores.clear()

    def check_health(self) -> None:
        place = self._directory
        while not place.exists() and place != place.parent:
            place = place.parent  # not made yet: could it be?
        if not (place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)):
            raise StoreUnavailable(f"{place} is not a directory that can be written")

    def acknowledgement(self, durability: Durability | None = None) -> Acknowledgement:
        return WORTH[durability or self._durability]

    def inspect(self, name: str) -> str:
        path = self._path(self._name(name))
        with medium_errors(path):
            if not path.exists():
                return "new"
            with path.open("rb") as file:
                begin = file.readline(1 + len(HEADER))
        return "ready" if check_header(begin, path) else "new"

    def _name(self, name: str) -> TenantName:
        return TenantName(name, max_chars=self._limits.max_tenant_name_chars)

    def _path(self, tenant: TenantName) -> Path:
        return self._directory / f"{tenant}{SUFFIX}"

    def _make_directory(self) -> None:
        with medium_errors(self._directory):
            for place in reversed((self._directory, *self._directory.parents)):
                if not place.exists():
                    place.mkdir(mode=0o700, exist_ok=True)
                    sync_directory(place.parent)


def open_jsonl(location: str, *, durability: Durability, limits: Limits) -> JsonlEngine:
    """The `EngineFactory` of `jsonl:DIRECTORY`. Without a directory it is `data`."""
    return JsonlEngine(location or "data", durability=durability, limits=limits)
