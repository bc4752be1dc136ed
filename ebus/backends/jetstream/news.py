"""That a tenant's log has grown, told from server to server.

It is told without an acknowledgement, and may be lost: who waits looks again after a while.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ebus.backends.jetstream.link import Link
from ebus.backends.jetstream.naming import Names
from ebus.core.errors import StoreError

Heard = Callable[[int], None]
"""Told how far the log is at least; 0 when nobody knows."""



class News:
    """What is told of one tenant's log. It is listened to while anybody wants to know."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._subject = names.news
        self._lock = threading.Lock()
        self._heard: dict[object, Heard] = {}
        self._end: Callable[[], None] | None = None
        self._me = secrets.token_hex(8).encode()
        """So that nobody hears what he has said himself."""

    def tell(self, head: int) -> None:
        """Tell the others; returns at once."""
        self._link.tell(self._subject, b"%b %d" % (self._me, head))

    def watch(self, heard: Heard) -> Callable[[], None]:
        """Have this called, in the link's thread, until what is returned is called."""
        token = object()
        with self._lock:
            self._heard[token] = heard
            if self._end is None:
                self._link.on_reconnect.append(self._reconnected)
                try:
                    self._end = self._link.subscribe(self._subject, self._hear)
                except StoreError:  # once it is there again, somebody will look again
                    self._end = _nothing

        def end() -> None:
            with self._lock:
                self._heard.pop(token, None)
                if not self._heard:
                    self._stop()

        return end

    @contextmanager
    def listening(self, heard: Heard) -> Iterator[None]:
        end = self.watch(heard)
        try:
            yield
        finally:
            end()

    def close(self) -> None:
        with self._lock:
            self._heard.clear()
            self._stop()

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None
            self._link.on_reconnect.remove(self._reconnected)

    def _hear(self, payload: bytes) -> None:
        sender, _, head = payload.partition(b" ")
        if sender != self._me and head.isdigit():
            self._call(int(head))

    def _reconnected(self) -> None:
        """Something may have been told meanwhile."""
        self._call(0)

    def _call(self, head: int) -> None:
        with self._lock:
            heard = list(self._heard.values())
        for one in heard:
            one(head)


def _nothing() -> None:
    """There is no subscription to end."""
