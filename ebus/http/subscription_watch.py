"""Waiting until there may be something to hand out to a consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from ebus.core.aio import AsyncTenantStore
from ebus.core.consumers import Subscription

LOOK_AGAIN_S = 1.0
"""How long after a commit it is looked whether another process has changed the subscription."""


class SubscriptionWatch:
    """Sleeps until a subscription changes; it can be told that nobody waits any more.

    What was read by `subscription` is what it is from then on: no change after that goes unnoticed.
    """

    def __init__(self, store: AsyncTenantStore, name: str) -> None:
        self._store = store
        self._name = name
        self._woken: asyncio.Future[None] | None = None
        self._may_have_changed = False
        self._next_look: asyncio.TimerHandle | None = None
        self._end_watches: list[Callable[[], None]] = []
        self.has_ended = False
        """Whether nobody waits any more."""

    def __enter__(self) -> Self:
        self._end_watches = [
            self._store.watch(self._committed),
            self._store.watch_subscription(self._name, self._changed),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for end_watch in self._end_watches:
            end_watch()
        self._look_is_over()

    def end(self) -> None:
        self.has_ended = True
        self._wake()

    async def subscription(self) -> Subscription:
        """As it is now; one that was never saved is at 0."""
        self._may_have_changed = False
        self._look_is_over()
        return await self._store.subscription(self._name) or Subscription()

    async def sleep(self, position: int | None, seconds: float) -> None:
        """Return when the head is at the position, if one is given, or the subscription changed.

        Or when the time is over, or the waiting has ended.
        """
        is_over = False

        def be_over() -> None:
            nonlocal is_over
            is_over = True
            self._wake()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, be_over)
        try:
            while not (is_over or self._may_have_changed or self.has_ended):
                woken = self._woken = loop.create_future()
                if position is not None and await self._store.head() >= position:
                    return
                await woken
        finally:
            timer.cancel()

    def _committed(self) -> None:
        if self._next_look is None:
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_later(LOOK_AGAIN_S, self._changed)
        self._wake()

    def _changed(self) -> None:
        self._may_have_changed = True
        self._wake()

    def _look_is_over(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
