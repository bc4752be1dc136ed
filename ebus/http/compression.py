"""gzip, where a client asks for it and the answer is large enough to be worth it.

Litestar compresses. What it does not do is read `q=0` as the refusal that it is, or tell
caches that the answer depends on what was asked for (RFC 9110, 12.5.3 and 12.5.5).
"""

from __future__ import annotations

from collections.abc import Iterable

from litestar.config.compression import CompressionConfig
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

MIN_COMPRESSED_BYTES = 1_024
"""Below this, one packet carries the answer either way."""

COMPRESSION = CompressionConfig(
    backend="gzip",
    minimum_size=MIN_COMPRESSED_BYTES,
    gzip_compress_level=1,  # the higher ones cost several times the CPU for a tenth of the size
)


def negotiate_gzip(app: ASGIApp) -> ASGIApp:
    """Let the application compress only for clients that accept it, and say that it may."""

    async def negotiated(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        if not accepts_gzip(scope["headers"]):
            scope["headers"] = [
                (name, value) for name, value in scope["headers"] if name != b"accept-encoding"
            ]

        async def send_varying(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = list(message["headers"])
                if all(name != b"vary" for name, _ in fields):
                    message["headers"] = [*fields, (b"vary", b"accept-encoding")]
            await send(message)

        await app(scope, receive, send_varying)

    return negotiated


def accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether `Accept-Encoding` names gzip with a weight above 0."""
    for name, value in headers:
        if name != b"accept-encoding":
            continue
        for coding in value.decode("latin-1").lower().split(","):
            token, _, weight = coding.partition(";")
            if token.strip() == "gzip":
                return _weight(weight) > 0
    return False


def _weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
