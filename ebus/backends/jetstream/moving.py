"""Which server of the cluster to be connected to: another one when this one has been of no use.

A server that is cut off from the others stays connected to its clients, and tells them nothing, or
that it cannot help at the moment; one that leads a stream still may tell of old times as well, but
stores nothing. So whoever cannot store or ask anything for a while goes elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from random import SystemRandom
from typing import Any

from nats.aio.client import Server

MOVE_AFTER_S = 3.0
"""So long nothing was stored, or nothing asked, that should have been: less than an election may
take, but then it is as good elsewhere."""

OF_LATE_S = 10.0

PAUSE_S = 0.25
"""Before a server is tried again that could not be connected to."""

MAX_MOVE_AFTER_S = 60.0
"""A stream that has no leader anywhere is no reason to disturb what others do."""

STORE = "store"
"""That something is stored."""

AGREE = "agree"
"""That who answers knows of all that is known here."""

_random = SystemRandom()


class Moving:
    """What has become of what was asked for. Of the link's loop.

    Each thing that may fail is by itself: a leader that is cut off answers for its own streams.
    """

    def __init__(self) -> None:
        self._failing_since_s: dict[str, float] = {}
        self._after_s = MOVE_AFTER_S
        self._causes: set[str] = set()
        """What failed when a server was left, and has not succeeded since."""
        self._not_stored_since_s = self._not_stored_at_s = math.inf
        self._left = ""
        """The server that was of no use, until there is a connection to another one."""

    @property
    def stores_nothing(self) -> bool:
        """Whether all that was to be stored of late was not, for a while."""
        now_s = time.monotonic()
        return (
            now_s - self._not_stored_since_s >= MOVE_AFTER_S
            and now_s - self._not_stored_at_s < OF_LATE_S
        )

    def succeeded(self, thing: str) -> None:
        if thing == STORE:
            self._not_stored_since_s = math.inf
        self._failing_since_s.pop(thing, None)
        if thing in self._causes:
            self._causes.clear()
            self._after_s = MOVE_AFTER_S

    def failed(self, thing: str) -> bool:
        """Note that the cluster did not do what it should; whether to go elsewhere."""
        now_s = time.monotonic()
        if thing == STORE:
            self._not_stored_since_s = min(self._not_stored_since_s, now_s)
            self._not_stored_at_s = now_s
        since_s = self._failing_since_s.setdefault(thing, now_s)
        return now_s - since_s >= self._after_s

    def leave(self, server: str) -> None:
        self._causes |= self._failing_since_s.keys()
        self._after_s = min(2 * self._after_s, MAX_MOVE_AFTER_S)
        self._failing_since_s.clear()
        self._left = server

    def arrived(self) -> None:
        self._failing_since_s.clear()
        self._left = ""

    def next_server(self, servers: Sequence[Server], _: Mapping[str, Any]) -> tuple[Server, float]:
        """One of those that have failed the least, and how long to wait before."""
        failures = {it.uri.netloc: it.reconnects for it in servers}
        if self._left in failures:  # once each of the others has failed, it is as good as they
            failures[self._left] += 1
        least = min(failures.values(), default=math.inf)
        best = [it for it in servers if failures[it.uri.netloc] == least]
        return _random.choice(best), PAUSE_S if least else 0.0
