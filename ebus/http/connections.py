"""Connections: how many there may be, and who makes room for one more."""

from __future__ import annotations

import heapq
import logging
from enum import Enum, auto
from typing import Protocol

from ebus.http.bodies import PATIENCE_S, Bodies
from ebus.http.problems import Problem

logger = logging.getLogger("ebus.http")

MAX_SPARE_CONNECTIONS = 128
"""Connections beyond the bound that are asked what they want: `/health` is still answered."""

SPARE_WAIT_S = 2.0
"""How long one of those may take to say it."""

MAX_CLOSED_AT_ONCE = 32
"""As many as nginx closes at once when its connections run out, and like there at most an eighth
of those that idle: looking for them costs more than closing them."""

LOOK_AGAIN_S = 0.1
SAY_AGAIN_S = 60.0


class Seat(Enum):
    """What a new connection gets."""

    OWN = auto()
    SPARE = auto()
    """It may ask for `/health`, and whatever else it asks is refused."""
    NONE = auto()


class Connection(Protocol):
    @property
    def has_asked(self) -> bool:
        """Whether a whole head of a request has ever come on it."""
        ...

    def idle_since_s(self) -> float | None:
        """Since when the server waits for a request; None while one is under way."""
        ...

    def make_room(self) -> None:
        """Close at once."""
        ...


class Connections:
    """The connections of one process. For one thread.

    Beyond the bound those make room that idle: first the ones that have never asked for
    anything, then the ones that have idled longest. Half a head of a request counts as idle. When
    none idles, a body that is still coming is broken off, of the tenant that sends most of them.
    Whoever has come, or begun, within the last `PATIENCE_S` seconds is left alone.
    """

    def __init__(self, max_connections: int, bodies: Bodies) -> None:
        self._max_connections = max_connections
        self._bodies = bodies
        self._seated: set[Connection] = set()
        self._spare: set[Connection] = set()
        self._look_at_s = 0.0
        self._say_at_s = 0.0

    def bound(self, max_connections: int) -> None:
        """Have this be the bound for those that come from now on."""
        self._max_connections = max_connections

    def seat(self, connection: Connection, now_s: float) -> Seat:
        """A place for a new connection, which `leave`s it when it is closed."""
        if len(self._seated) < self._max_connections or self._make_room(now_s):
            self._seated.add(connection)
            return Seat.OWN
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + SAY_AGAIN_S
            logger.warning(
                "all %d connections are taken, and further clients are refused; see "
                "max_connections",
                self._max_connections,
            )
        if len(self._spare) < MAX_SPARE_CONNECTIONS:
            self._spare.add(connection)
            return Seat.SPARE
        return Seat.NONE

    def count(self) -> int:
        """How many there are."""
        return len(self._seated) + len(self._spare)

    def leave(self, connection: Connection) -> None:
        self._seated.discard(connection)
        self._spare.discard(connection)

    def _make_room(self, now_s: float) -> bool:
        if now_s < self._look_at_s:
            return False  # to look again and again is what a flood of connections would cost
        before_s = now_s - PATIENCE_S
        idle = [
            (connection.has_asked, since_s, number, connection)
            for number, connection in enumerate(self._seated)
            if (since_s := connection.idle_since_s()) is not None and since_s < before_s
        ]
        for *_, connection in heapq.nsmallest(
            max(1, min(MAX_CLOSED_AT_ONCE, len(idle) // 8)), idle
        ):
            self._seated.discard(connection)
            connection.make_room()
        if idle or self._bodies.end_one(before_s):
            return True
        self._look_at_s = now_s + LOOK_AGAIN_S
        return False


def too_many_connections() -> Problem:
    return Problem(
        503,
        "too_many_connections",
        "The server has as many connections as it may have; try again",
        {"Retry-After": "1", "Connection": "close"},
    )
