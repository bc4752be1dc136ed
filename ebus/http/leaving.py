"""That a client leaves before it is answered, where the request goes by ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from litestar.types import Receive


async def disconnect(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Leaving:
    """Notices the client's leaving once somebody asks for it. The body must have been read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Future[None] | None = None

    def when_left(self, left: Callable[[], None]) -> None:
        """Have this called when the client leaves."""
        self._watch = asyncio.ensure_future(self._wait(left))

    async def _wait(self, left: Callable[[], None]) -> None:
        await disconnect(self._receive)
        left()

    def end(self) -> None:
        """Nobody wants to know any more."""
        if self._watch is not None:
            self._watch.cancel()
