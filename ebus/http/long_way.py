"""What is added to a request that goes by ASGI before the application sees it."""

from __future__ import annotations

from collections.abc import Callable

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ebus.http.connections import too_many_connections

SPARE_PATHS = frozenset({"/health"})
"""What is answered on a connection for which there is no place: who asks must not take a server
that is full for one that is dead."""


def served_on(cycle: RequestResponseCycle, app: ASGIApp) -> ASGIApp:
    """The application for this one request."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if cycle.scope["http_version"] == "1.0":
            send = _without_chunks(cycle, send)
        try:
            await app(scope, receive, send)
        finally:
            cycle.body.clear()  # or a body that nobody reads stays until the next request

    return serve


def _without_chunks(cycle: RequestResponseCycle, send: Send) -> Send:
    """HTTP/1.0 knows no chunks (RFC 9112, 6.1): the end of the connection ends the answer."""

    async def send_to_end(message: Message) -> None:
        if message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and not cycle.expected_content_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return send_to_end


def spare(app: ASGIApp, refused: Callable[[str], None]) -> ASGIApp:
    """The application on a connection beyond those that there may be.

    `refused` is called with the code of each refusal.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in SPARE_PATHS:
            await app(scope, receive, send)
        else:
            problem = too_many_connections()
            refused(problem.code)
            await problem.answer()(scope, receive, send)

    return serve
