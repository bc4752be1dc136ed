"""The client of an ebus server: `Client`, and `AsyncClient` for programs on an event loop.

    from ebus import NewEvent
    from ebus.client import Client

    with Client("http://localhost:8080", "alice-secret-key-123") as alice:
        alice.append(NewEvent.of("OrderPlaced", {"order": "A-001"}))

It needs httpx and tenacity: `pip install 'ebus[client]'`.
"""

from ebus.client.asynchronous import AsyncClient
from ebus.client.calls import Leased, Subscribed
from ebus.client.errors import (
    Answered,
    ClientError,
    Forbidden,
    ProtocolError,
    RateLimited,
    ServerUnreachable,
    Unauthorized,
)
from ebus.client.tenant import Client

__all__ = [
    "Answered",
    "AsyncClient",
    "Client",
    "ClientError",
    "Forbidden",
    "Leased",
    "ProtocolError",
    "RateLimited",
    "ServerUnreachable",
    "Subscribed",
    "Unauthorized",
]
