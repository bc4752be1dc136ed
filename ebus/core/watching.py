"""Hearing of what others write to a tenant, for as long as somebody on the event loop waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ebus.core.errors import EbusError, StoreClosed, StoreError

if TYPE_CHECKING:
    from ebus.core.lane import Lane
    from ebus.core.store import SupportsWatch

logger = logging.getLogger("ebus.engine")

PAUSE_S = 0.02
"""So long after one call news gather for the next: each has all who wait ask the store."""

LINGER_S = 1.0
"""So long the store is watched when nobody waits any more: who polls comes back at once."""

AGAIN_S = 1.0
"""So long after watching could not begin it is tried again."""


class StoreWatch:
    """Watches a store while that is wanted, and calls `tell` on the loop for its news.

    Use it from that loop only. Watching begins in a thread of the lane, since the store may have
    to ask somebody for that; once it has begun `tell` is called for what came before. One that
    cannot begin is begun again and again, for as long as it is wanted.
    """

    def __init__(
        self, store: SupportsWatch, lane: Lane[Callable[[], object]], tell: Callable[[], None]
    ) -> None:
        self._store = store
        self._lane = lane
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._is_wanted = False
        self._is_closed = False
        self._beginning: asyncio.Future[Any] | None = None
        self._end: Callable[[], None] | None = None
        """What ends it, while it goes on."""
        self._timer: asyncio.TimerHandle | None = None
        """What begins it again, or ends it."""
        self._news_are_due = False
        self._told_at_s = -PAUSE_S

    def want(self, is_wanted: bool) -> None:
        """Say whether anybody wants to hear of news. Said twice it is said once."""
        if is_wanted is self._is_wanted or self._is_closed:
            return
        self._is_wanted = is_wanted
        self._stop_timer()
        if not is_wanted:
            self._timer = self._loop.call_later(LINGER_S, self._stop)
        elif self._end is None and self._beginning is None:
            self._begin()

    def close(self) -> None:
        """End it for good: the store is about to be closed."""
        self._is_wanted = False
        self._is_closed = True
        self._stop_timer()
        self._stop()

    def _begin(self) -> None:
        try:
            self._beginning = self._lane.put(self._watch)
        except StoreClosed:
            return
        except EbusError:  # too much waits
            self._begin_again()
        else:
            self._beginning.add_done_callback(self._has_begun)

    def _watch(self) -> Callable[[], None]:
        return self._store.watch(self._moved)

    def _has_begun(self, beginning: asyncio.Future[Callable[[], None]]) -> None:
        self._beginning = None
        failure = beginning.exception()
        if failure is None:
            self._end = beginning.result()
            if self._is_wanted:
                self._tell()
            elif self._timer is None:  # closed meanwhile, or nobody has come back
                self._stop()
        elif self._is_wanted and not isinstance(failure, StoreClosed):
            if not isinstance(failure, StoreError):  # of those a tenant's requests are told
                logger.warning("a tenant cannot be watched", exc_info=failure)
            self._begin_again()

    def _begin_again(self) -> None:
        self._timer = self._loop.call_later(AGAIN_S, self._begin)

    def _stop(self) -> None:
        self._timer = None
        if self._end is not None:
            end, self._end = self._end, None
            end()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _moved(self) -> None:
        """In any thread."""
        if self._news_are_due:  # whoever takes them looks after this
            return
        self._news_are_due = True
        try:
            self._loop.call_soon_threadsafe(self._take_news)
        except RuntimeError:  # the loop is closed, and with it all who waited
            return

    def _take_news(self) -> None:
        pause_s = self._told_at_s + PAUSE_S - self._loop.time()
        if pause_s > 0:
            self._loop.call_later(pause_s, self._take_news)
            return
        self._news_are_due = False
        self._told_at_s = self._loop.time()
        if self._is_wanted:
            self._tell()
