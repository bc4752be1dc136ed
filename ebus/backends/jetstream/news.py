"""That a tenant's log has grown, told from server to server.

It is told without an acknowledgement, and may be lost: who waits looks again after a while.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ebus.backends.jetstream.client import Listening, Outgoing
from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.naming import Names
from ebus.core.errors import StoreUnavailable

SETTLING_S = (0.1, 0.5, 2.0)
"""After so long who has begun to listen looks again by himself."""

Heard = Callable[[int], None]
"""Told how far the log is at least; 0 when nobody knows."""


class News:
    """What is told of one tenant's log. It is listened to while anybody wants to know."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._subject = names.news
        self._lock = threading.Lock()
        self._heard: dict[object, Heard] = {}
        self._me = secrets.token_hex(8).encode()
        """So that nobody hears what he has said himself."""
        # Of the link's loop:
        self._changing = asyncio.Lock()
        self._subscription: Listening | None = None

    def tell(self, head: int) -> None:
        """Tell the others; returns at once."""
        self._link.tell(self.of(head))

    def of(self, head: int) -> Outgoing:
        """What tells that the log is at least at this position."""
        return Outgoing(self._subject, b"%b %d" % (self._me, head))

    def watch(self, heard: Heard) -> Callable[[], None]:
        """Have this called, in the link's thread, until what is returned is called.

        Raises `StoreUnavailable` and `StoreClosed`.
        """
        token = object()
        with self._lock:
            self._heard[token] = heard

        def end() -> None:
            with self._lock:
                self._heard.pop(token, None)
            self._link.spawn(self._listen_or_not())

        try:
            self._link.run(self._listen_or_not())
        except BaseException:
            end()
            raise
        return end

    @contextmanager
    def listening(self, heard: Heard) -> Iterator[None]:
        """For who looks again anyway: it does not matter whether anything can be heard."""
        end = _nothing
        with suppress(StoreUnavailable):
            end = self.watch(heard)
        try:
            yield
        finally:
            end()

    def close(self) -> None:
        with self._lock:
            self._heard.clear()
        self._link.spawn(self._listen_or_not())

    async def _listen_or_not(self) -> None:
        """On the link: listen while anybody wants to hear, and no longer."""
        async with self._changing:
            if self._heard and self._subscription is None:
                self._subscription = await self._link.subscribe(self._subject, self._hear)
                self._link.on_reconnect.append(self._look_again)
                # Until all servers of a cluster know who listens, some time may pass.
                for pause_s in SETTLING_S:
                    asyncio.get_running_loop().call_later(pause_s, self._look_again)
            elif self._subscription is not None and not self._heard:
                subscription, self._subscription = self._subscription, None
                self._link.on_reconnect.remove(self._look_again)
                await self._link.unsubscribe(subscription)

    def _hear(self, payload: bytes) -> None:
        sender, _, head = payload.partition(b" ")
        if sender != self._me and head.isdigit():
            self._call(int(head))

    def _look_again(self) -> None:
        """Something may have been told that was not heard."""
        self._call(0)

    def _call(self, head: int) -> None:
        with self._lock:
            heard = list(self._heard.values())
        for one in heard:
            one(head)


def _nothing() -> None:
    """There is nothing to end."""
