"""A blocking call that many on an event loop want at once, made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class SharedCall:
    """One call at a time, which `begin` begins in a thread. Use it from one event loop only."""

    def __init__(self, begin: Callable[[], asyncio.Future[None]]) -> None:
        self._begin = begin
        self._under_way: asyncio.Future[None] | None = None
        self._begun_s = 0.0

    async def result(self, patience_s: float) -> None:
        """Return when the call has, or raise what it raises; who comes meanwhile shares it.

        Raises `TimeoutError` once it has taken longer than that: at once, if it has by now.
        """
        loop = asyncio.get_running_loop()
        call = self._under_way
        if call is None or call.done():
            self._begun_s = loop.time()
            call = self._under_way = self._begin()
        left_s = self._begun_s + patience_s - loop.time()
        await asyncio.wait([call], timeout=max(0.0, left_s))
        if not call.done():
            raise TimeoutError
        call.result()
