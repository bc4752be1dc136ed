"""A blocking call that many on an event loop want at once, made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor


class SharedCall:
    """One call at a time in a thread. Use it from one event loop only."""

    def __init__(self, do: Callable[[], None], threads: Executor) -> None:
        self._do = do
        self._threads = threads
        self._under_way: asyncio.Future[None] | None = None
        self._begun_s = 0.0

    async def result(self, patience_s: float) -> None:
        """Return when the call has, or raise what it raises; who comes meanwhile shares it.

        Raises `TimeoutError` once it has taken longer than that: at once, if it has by now.
        """
        loop = asyncio.get_running_loop()
        if self._under_way is None:
            self._begun_s = loop.time()
            self._under_way = loop.run_in_executor(self._threads, self._do)
            self._under_way.add_done_callback(self._end)
        left_s = self._begun_s + patience_s - loop.time()
        call = self._under_way
        await asyncio.wait([call], timeout=max(0.0, left_s))
        if not call.done():
            raise TimeoutError
        call.result()

    def _end(self, call: asyncio.Future[None]) -> None:
        self._under_way = None
        if not call.cancelled():
            call.exception()  # which may be wanted by nobody any more
