"""A client of the HTTP server, sync and async: `pip install 'ebus[client]'`.

    from ebus.client import Client

    with Client("http://localhost:8080", key) as alice:
        alice.append(NewEvent.of("OrderPlaced", {"order": "A-001"}))
        for event in alice.stream():
            print(event.position, event.type, event.value())

See docs/client.md.
"""

from ebus.client.aio import AsyncClient
from ebus.client.calls import AppendedMany, Leased
from ebus.client.engine import HttpEngine
from ebus.client.errors import (
    ClientError,
    Forbidden,
    ProtocolError,
    RateLimited,
    ServerUnreachable,
    Unauthorized,
)
from ebus.client.retries import NO_RETRIES, Retries
from ebus.client.sync import Client

__all__ = [
    "NO_RETRIES",
    "AppendedMany",
    "AsyncClient",
    "Client",
    "ClientError",
    "Forbidden",
    "HttpEngine",
    "Leased",
    "ProtocolError",
    "RateLimited",
    "Retries",
    "ServerUnreachable",
    "Unauthorized",
]
