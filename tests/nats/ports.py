"""Ports of 127.0.0.1 that stay one server's own, also while it is down.

A server that is killed and started again must have the same port: its clients come back to it.
The system gives ports of its own choice to whoever connects anywhere, so a server's are of those
that it never chooses. Who claims a port holds the UDP port of the same number, which ends with the
process: so no two processes of tests have the same.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"

FIRST = 10_000
LAST = 65_535
LEAST = 1_000
"""With fewer than this many ports outside of the system's own choice, any port will do."""

ATTEMPTS = 1_000

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_random = random.SystemRandom()
"""Not the one that tests set a seed of: all processes would try the same ports."""


class ClaimedPort:
    """A port that nobody else claims until `release`."""

    def __init__(self, number: int, claim: socket.socket) -> None:
        self.number = number
        self._claim = claim

    def release(self) -> None:
        self._claim.close()


def claim_port() -> ClaimedPort:
    """A port on which nobody listens, and which the system gives to nobody by itself."""
    first, last = _candidates()
    for _ in range(ATTEMPTS):
        number = _random.randint(first, last)
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((HOST, number))
            socket.create_server((HOST, number)).close()
        except OSError:
            claim.close()
        else:
            return ClaimedPort(number, claim)
    raise AssertionError(f"no free port found between {first} and {last}")


def _candidates() -> tuple[int, int]:
    try:
        begin, end = map(int, _RANGE.read_text().split())
    except OSError:  # not Linux: the ephemeral ports that are assigned to that use (RFC 6335)
        begin, end = 49_152, LAST
    below, above = (FIRST, begin - 1), (max(end + 1, FIRST), LAST)
    widest = max(below, above, key=lambda ports: ports[1] - ports[0])
    return widest if widest[1] - widest[0] >= LEAST else (FIRST, LAST)
