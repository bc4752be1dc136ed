"""A coroutine that begins at once, where a task would begin in the next turn of the loop.

Most requests have their answer without waiting for anything, and a task costs as much as the
rest of such an answer's way through asyncio. Python 3.12 has eager tasks of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class EagerRun:
    """Runs `work` to its end, step by step, and is in `running` until then.

    There is no current task within it: `work` must not use `asyncio.timeout` or task groups.
    What it raises goes to the loop's exception handler, or to who calls `start`.
    """

    __slots__ = ("_cancelled", "_loop", "_running", "_waits_for", "_work")

    def __init__(
        self,
        work: Coroutine[Any, None, None],
        running: set[Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._work = work
        self._running = running
        self._loop = loop
        self._waits_for: asyncio.Future[Any] | None = None
        self._cancelled = False
        running.add(self)

    def start(self, _: object = None) -> None:
        """Go on, up to where the work next waits."""
        try:
            if self._cancelled:
                self._cancelled = False
                waits_for = self._work.throw(asyncio.CancelledError())
            else:
                waits_for = self._work.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._running.discard(self)
        except BaseException:
            self._running.discard(self)
            raise
        else:
            self._waits_for = waits_for
            if waits_for is None:  # for its next turn, as after `asyncio.sleep(0)`
                self._loop.call_soon(self.start)
            else:
                waits_for._asyncio_future_blocking = False  # as a task says that it has it
                waits_for.add_done_callback(self.start)

    def cancel(self, msg: object = None) -> None:
        """Like `asyncio.Task.cancel`: raise `CancelledError` where the work waits."""
        if self._waits_for is None or not self._waits_for.cancel():
            self._cancelled = True
