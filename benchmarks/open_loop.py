"""Load at a fixed rate: requests are sent when they are due, whatever the answers do.

Latency is counted from the time at which a request was due. A server that stalls is charged
for every request that should have gone out meanwhile, which a client that waits for its
answer before it sends the next would leave out (coordinated omission).

One thread with `select`, whose time limits are exact to some 50 µs: the timers of event loops
are exact to a millisecond, which is more than what is measured.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from benchmarks.errors import BenchmarkFailed, check
from benchmarks.servers import Server
from benchmarks.workload import Request

CONNECTIONS = 64
"""As many requests may be on their way at once; more wait, and their time counts."""

TIMEOUT_S = 30.0
"""An answer that takes longer is an error."""

_OK = b"HTTP/1.1 200 "
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Latencies(msgspec.Struct, frozen=True):
    """How long every request took, in seconds, sorted."""

    seconds: list[float]

    def percentile_ms(self, percent: float) -> float:
        """The least latency that so many percent of the requests did not exceed."""
        last = len(self.seconds) - 1
        return self.seconds[min(last, int(len(self.seconds) * percent / 100))] * 1e3


class _Connection:
    """A connection with at most one request on its way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = 0.0
        self._received = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._received = b""
        sent = self.socket.send(request)
        check(sent == len(request), "a request did not fit into an empty socket")

    def receive(self) -> bool:
        """Take what has come; says whether the answer is whole."""
        try:
            piece = self.socket.recv(65_536)
        except BlockingIOError:
            return False
        check(bool(piece), "the server closed a connection")
        self._received += piece
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head + b"\r\n")
        if length is None or not head.startswith(_OK):
            raise BenchmarkFailed(f"an answer of another kind: {self._received[:500]!r}")
        return len(body) == int(length[1])


def measure_latencies(
    server: Server, requests: Sequence[Request], *, rate_per_s: float, seconds: float
) -> Latencies:
    """Send the requests in turn, one every 1/`rate_per_s` seconds, and time every answer.

    Raises `BenchmarkFailed` for an answer that is not 200, or comes too late or never.
    """
    prepared = [_as_bytes(request) for request in requests]
    with ExitStack() as closing:
        idle = [_Connection(server.port) for _ in range(CONNECTIONS)]
        for connection in idle:
            closing.callback(connection.socket.close)
        count = max(1, round(rate_per_s * seconds))
        return Latencies(sorted(_send_all(prepared, idle, rate_per_s, count)))


def _send_all(
    prepared: Sequence[bytes], idle: list[_Connection], rate_per_s: float, count: int
) -> list[float]:
    latencies: list[float] = []
    late: deque[float] = deque()
    busy: set[_Connection] = set()
    begun = time.perf_counter()
    made = sent = 0
    while len(latencies) < count:
        now = time.perf_counter()
        while made < count and (due := begun + made / rate_per_s) <= now:
            late.append(due)
            made += 1
        while late and idle:
            connection = idle.pop()
            connection.send(prepared[sent % len(prepared)], late.popleft())
            busy.add(connection)
            sent += 1
        wait_s = begun + made / rate_per_s - time.perf_counter() if made < count else TIMEOUT_S
        answered, _, _ = select.select(busy, (), (), min(TIMEOUT_S, max(0.0, wait_s)))
        now = time.perf_counter()
        for connection in answered:
            if connection.receive():
                latencies.append(now - connection.due)
                busy.remove(connection)
                idle.append(connection)
        overdue = any(now - connection.due > TIMEOUT_S for connection in busy)
        check(not overdue, f"no answer within {TIMEOUT_S:g} s at {rate_per_s:g} requests/s")
    return latencies


def _as_bytes(request: Request) -> bytes:
    key = f"X-API-Key: {request.key}\r\n" if request.key else ""
    body = f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n"
    return (
        f"{request.method} {request.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"{key}{body if request.body else ''}\r\n"
    ).encode() + request.body
