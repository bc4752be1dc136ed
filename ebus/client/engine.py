"""A server as an engine: `open_engine("http://KEY@host:8080")`."""

from __future__ import annotations

import threading
from urllib.parse import unquote, urlsplit

from ebus.client.tenant import Client
from ebus.core.engine import Durability, Engine
from ebus.core.errors import EngineError, InvalidInput, StoreClosed, StoreForeign
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName


class HttpEngine(Engine):
    """The one tenant of a server that a key opens.

    Events are stored as they are given, without ids of the client's: an append of events that have
    none is not repeated when its answer is lost. `durability` is the server's to choose.
    """

    def __init__(self, url: str, key: str, *, limits: Limits | None = None) -> None:
        self._url = url
        self._key = key
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._closed = False

    def open(self, name: str, *, durability: Durability | None = None) -> Client:
        """The tenant's store. Raises `StoreForeign` when the key opens another tenant."""
        tenant = TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        client = self._open_client()
        theirs = client.tenant_name()
        if theirs is not None and theirs != tenant:
            raise StoreForeign(f"the key does not open the tenant {tenant}")
        return client

    def tenants(self) -> list[TenantName]:
        """The tenant of the key; empty where the server has only one, which has no name."""
        name = self._open_client().tenant_name()
        return [] if name is None else [TenantName(name)]

    def drop(self, name: str) -> None:
        """Raises `EngineError`: a key cannot delete its tenant."""
        TenantName(name, max_chars=self._limits.max_tenant_name_chars)
        raise EngineError("a tenant cannot be deleted with its own key")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()

    def _open_client(self) -> Client:
        with self._lock:
            if self._closed:
                raise StoreClosed("the engine is closed")
            if self._client is None or self._client.closed:
                self._client = Client(self._url, self._key, assign_ids=False, limits=self._limits)
            return self._client


def open_http(location: str, *, durability: Durability, limits: Limits) -> HttpEngine:
    """The `EngineFactory` of `http://KEY@host:port`."""
    return _open("http", location, limits)


def open_https(location: str, *, durability: Durability, limits: Limits) -> HttpEngine:
    """The `EngineFactory` of `https://KEY@host:port`."""
    return _open("https", location, limits)


def _open(scheme: str, location: str, limits: Limits) -> HttpEngine:
    parts = urlsplit(f"{scheme}:{location}")
    if not parts.hostname or parts.username is None or parts.password is not None:
        raise InvalidInput(f"write the address of a server as {scheme}://KEY@host:8080")
    host = parts.netloc.rpartition("@")[2]
    return HttpEngine(f"{scheme}://{host}{parts.path}", unquote(parts.username), limits=limits)
