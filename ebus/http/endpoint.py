"""What answers a request, apart from how the request arrived: by ASGI, or the short way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from msgspec.structs import force_setattr

from ebus.config import Scope
from ebus.http.answers import Answer, EventArray
from ebus.http.live import Tail
from ebus.http.operations import operation_number
from ebus.http.tenant import Tenant


class Call(msgspec.Struct, frozen=True):
    """A request that has passed the door and has arrived as a whole."""

    tenant: Tenant
    """Who it speaks for, and the only store that it can reach."""

    query: bytes
    """What stands after the question mark, as it came."""

    body: bytes

    headers: Mapping[bytes, bytes]
    """By their names in lower case; of several the last."""

    when_left: Callable[[Callable[[], None]], None] | None = None
    """Where it is known: has something called when the client leaves before it is answered."""


Endpoint = Callable[[Call], Awaitable[Answer | EventArray | Tail]]
"""Raises `Problem`, or an error of core."""


class Route(msgspec.Struct, frozen=True):
    """An endpoint at a path without parameters."""

    method: str
    path: str
    endpoint: Endpoint
    takes_body: bool = False

    operation: int = 0
    """Under which number its requests are counted; it follows from method and path."""

    def __post_init__(self) -> None:
        force_setattr(self, "operation", operation_number(self.method, self.path))


def needed_scope(method: str, path: str) -> Scope | None:
    """What a key must allow for this: to read, to write or both; None when every key will do."""
    if method == "OPTIONS" or path == "/openapi.json":
        return None
    # A lease answers events and keeps them from others. The router passes over further slashes.
    if method == "POST" and path.rstrip("/").endswith("/lease"):
        return "both"
    return "read" if method in {"GET", "HEAD"} else "write"
