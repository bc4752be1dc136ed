"""Request bodies in memory: how many bytes of them there may be, and whose go first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ebus.core.limits import KIB
from ebus.http.problems import Problem

FREE_BODY_BYTES = 64 * KIB
"""Bodies up to this size do not count: a connection reads so far ahead in any case, so they are
bounded with the connections. That is why a small append gets through whatever others send."""

PATIENCE_S = 1.0
"""A body that has been coming for less time is not broken off to make room for a connection."""


class Bodies:
    """The bodies of one process whose requests have not been answered. For one thread.

    What has arrived counts, not what was announced: who sends slowly takes little. When there is
    no room, the tenant that holds most gives way (as in "longest queue drop"), so that no tenant
    can keep the others out: its largest body that is still coming is refused for another
    tenant's sake, or else the one that just grew. A body that has the room to itself may be of
    any size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._large: set[Body] = set()
        self._coming: dict[Body, None] = {}  # in the order in which they began

    @property
    def held_bytes(self) -> int:
        """What counts now: the bytes of bodies of more than `FREE_BODY_BYTES`."""
        return self._held_bytes

    def end_one(self, begun_before_s: float) -> bool:
        """Break off the oldest body that is still coming, of the tenant that sends most of them.

        False when it did not begin before this moment, in seconds of the loop's clock.
        """
        sent = Counter(body.tenant for body in self._coming)
        loser = max(self._coming, key=lambda body: sent[body.tenant], default=None)
        if loser is None or loser.begun_s >= begun_before_s:
            return False
        problem = overloaded()
        problem.headers["Connection"] = "close"
        loser.refuse(problem)
        return True

    def _make_room(self, growing: Body, more: int) -> None:
        """Room for so many bytes more. Raises `Problem` 503 when it is this body that must go."""
        while growing.bytes < self._held_bytes > self._max_bytes - more:
            held: Counter[str] = Counter()
            for body in self._large:
                held[body.tenant] += body.bytes
            own = held[growing.tenant] + more
            others = [body for body in self._coming if held[body.tenant] > own and body.bytes]
            if not others:
                raise overloaded()
            max(others, key=lambda body: (held[body.tenant], body.bytes)).refuse(overloaded())


class Body:
    """What the body of one request takes. It must `leave` once the request is answered."""

    __slots__ = ("_bodies", "_break_off", "begun_s", "bytes", "refused_with", "tenant")

    def __init__(self, bodies: Bodies, tenant: str) -> None:
        self._bodies = bodies
        self._break_off: Callable[[], None] | None = None
        self.refused_with: Problem | None = None
        """Why it was broken off, once it was."""
        self.tenant = tenant
        self.bytes = 0
        self.begun_s = 0.0

    def begin(self, break_off: Callable[[], None], now_s: float) -> None:
        """From now on it is coming. `break_off` is called when others need its place."""
        self._break_off = break_off
        self.begun_s = now_s
        self._bodies._coming[self] = None

    def grow(self, size: int) -> None:
        """It has this size now. Raises `Problem` 503 when there is no room for it."""
        if self.refused_with is not None:
            raise self.refused_with
        if size > FREE_BODY_BYTES:
            bodies, more = self._bodies, size - self.bytes
            bodies._make_room(self, more)
            bodies._large.add(self)
            bodies._held_bytes += more
            self.bytes = size

    def end(self) -> None:
        """No more of it comes."""
        self._break_off = None
        self._bodies._coming.pop(self, None)

    def refuse(self, problem: Problem) -> None:
        """Give its place to others."""
        self.refused_with = problem
        self._bodies._coming.pop(self, None)
        self.leave()
        if self._break_off is not None:
            self._break_off()

    def leave(self) -> None:
        """It takes nothing any more; calling this twice is fine."""
        bodies = self._bodies
        bodies._large.discard(self)
        bodies._held_bytes -= self.bytes
        self.bytes = 0


def overloaded() -> Problem:
    return Problem(
        503,
        "server_overloaded",
        "The server is receiving more than it can hold; try again",
        {"Retry-After": "1"},
    )
