"""A server as an engine of one tenant: `open_engine("http://KEY@host:8080")`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from ebus.client.sync import Client
from ebus.core.engine import Durability, Engine
from ebus.core.errors import EngineError, InvalidInput, StoreClosed
from ebus.core.limits import Limits
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName


class HttpEngine(Engine):
    """The tenant that one key opens. Events are stored as they are given: without ids of ours.

    How durable they are is the server's to say. `limits` are to be those of the server.
    """

    def __init__(self, url: str, key: str, *, limits: Limits | None = None) -> None:
        self._url = url
        self._key = key
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._stores: dict[TenantName, _Store] = {}
        self._names: set[TenantName] = set()
        self._is_closed = False
        self._asking = self._client()

    def __repr__(self) -> str:
        return f"<HttpEngine {self._url}>"

    def _client(self) -> _Store:
        return _Store(self._url, self._key, assign_ids=False, limits=self._limits)

    def open(self, name: str, *, durability: Durability | None = None) -> TenantStore:
        """The store of the key's tenant. Raises `EngineError` for the name of any other.

        A server of a single tenant does not name it: there, any name will do. The tenant is the
        operator's to make: nothing is made here.
        """
        name = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        with self._lock:
            self._check_open()
            if name not in self._names:
                tenant = self._asking.metrics().tenant
                if tenant not in (None, name):
                    raise EngineError(f"the key opens the tenant {tenant!r}, not {name!r}")
                self._names.add(name)
            store = self._stores.get(name)
            if store is None or store.is_closed:
                store = self._stores[name] = self._client()
            return store

    def tenants(self) -> Sequence[TenantName]:
        """The key's own; where the server does not name it, what it was opened as."""
        with self._lock:
            self._check_open()
            tenant = self._asking.metrics().tenant
            return sorted(self._names) if tenant is None else [TenantName(tenant)]

    def drop(self, name: str) -> None:
        """Raises `EngineError`: nobody drops a tenant over HTTP."""
        TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        raise EngineError("a tenant cannot be dropped over HTTP: its operator can")

    def check_health(self) -> None:
        """Return when the server is well; raise `StoreUnavailable` or `ServerUnreachable`."""
        self._asking.check_health()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            stores = list(self._stores.values())
        for store in (*stores, self._asking):
            store.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosed("the engine is closed")


class _Store(Client):
    @property
    def is_closed(self) -> bool:
        return self._is_closed


def open_http(location: str, *, durability: Durability, limits: Limits) -> HttpEngine:
    """The engine at `//KEY@host:8080`; what a key has that a URL has not is percent-encoded.

    Nothing is sent before a tenant is opened. The durability is the server's.
    """
    return _open("http", location, limits)


def open_https(location: str, *, durability: Durability, limits: Limits) -> HttpEngine:
    """Like `open_http`, over TLS."""
    return _open("https", location, limits)


def _open(scheme: str, location: str, limits: Limits) -> HttpEngine:
    # Whatever is wrong with it, it is not repeated: the key is in there.
    try:
        parts = urlsplit(f"{scheme}:{location}")
    except ValueError:
        raise _no_address(scheme) from None
    key, _, place = parts.netloc.rpartition("@")
    if not location.startswith("//") or not key or not place:
        raise _no_address(scheme)
    return HttpEngine(f"{scheme}://{place}{parts.path}", unquote(key), limits=limits)


def _no_address(scheme: str) -> InvalidInput:
    return InvalidInput(f"the address of a server with its key is like {scheme}://KEY@host:8080")
