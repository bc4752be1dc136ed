"""Over HTTP: how soon an event that is appended reaches those who follow the log."""

from __future__ import annotations

import select
import socket
import statistics
import time
from pathlib import Path

from benchmarks.errors import check
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import Server, serving_ebus, serving_writes
from benchmarks.workload import Tenant, make_tenants

ALLOWED_MS = 5.0
"""What the median of the deliveries may take beyond the answer to the append."""

PAUSE_S = 0.02
"""Between two appends: what is measured is one event at a time."""

LOOK_AGAIN_S = 0.000_3
"""Between two looks at the sockets. Without it each event wakes the one process that stands for a
thousand clients, which takes the server longer than to write; it is part of what is measured."""

PATIENCE_S = 60.0

_BODY = b'{"type":"OrderPlaced","data":{"order":"A-001"}}'


class _Clients:
    """Clients that follow, and one that appends: on plain sockets, for a loop of asyncio's would
    take longer to read a thousand of them than the server takes to write."""

    def __init__(self, server: Server, tenant: Tenant, count: int) -> None:
        key = tenant.api_key.encode()
        self._append = (
            b"POST /events HTTP/1.1\r\nHost: ebus\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (key, len(_BODY), _BODY)
        )
        follow = (
            b"GET /events/stream?follow=true&last=1 HTTP/1.1\r\nHost: ebus\r\n"
            b"Accept: text/event-stream\r\nX-API-Key: %b\r\n\r\n" % key
        )
        self._appender = socket.create_connection(("127.0.0.1", server.port))
        self._epoll = select.epoll()
        self._epoll.register(self._appender, select.EPOLLIN)
        self.append()
        self._tails = {}
        for _ in range(count):
            tail = socket.create_connection(("127.0.0.1", server.port))
            tail.sendall(follow)
            self._epoll.register(tail, select.EPOLLIN)
            self._tails[tail.fileno()] = tail
        began = dict.fromkeys(self._tails, b"")
        until_s = time.monotonic() + PATIENCE_S
        while not all(b"\nid: " in said and said.endswith(b"\n\n\r\n") for said in began.values()):
            check(time.monotonic() < until_s, "a tail did not begin")
            for number, _ in self._epoll.poll(1):
                began[number] += self._tails[number].recv(65_536)

    def append(self) -> float:
        """Append one event; how long that took in seconds."""
        sent_s = time.perf_counter()
        self._appender.sendall(self._append)
        self._check_answer(self._appender.recv(65_536))
        return time.perf_counter() - sent_s

    def append_and_follow(self) -> tuple[float, list[float]]:
        """The latency of an append, and how long after the answer each tail had the event."""
        appender = self._appender.fileno()
        tails, poll = self._tails, self._epoll.poll
        came: dict[int, tuple[float, bytes]] = {}
        until_s = time.monotonic() + PATIENCE_S
        sent_s = time.perf_counter()
        self._appender.sendall(self._append)
        while len(came) <= len(tails):
            check(time.monotonic() < until_s, "an event did not reach every tail")
            time.sleep(LOOK_AGAIN_S)
            for number, _ in poll(1):
                said = tails.get(number, self._appender).recv(65_536)
                check(number not in came, "an event came twice")
                came[number] = (time.perf_counter(), said)
        answered_s, answer = came.pop(appender)
        self._check_answer(answer)
        check(all(said.count(b"id: ") == 1 for _, said in came.values()), "not one event")
        return answered_s - sent_s, [at_s - answered_s for at_s, _ in came.values()]

    @staticmethod
    def _check_answer(answer: bytes) -> None:
        check(answer.startswith(b"HTTP/1.1 200"), f"an append was answered {answer[:200]!r}")

    def close(self) -> None:
        for tail in (self._appender, *self._tails.values()):
            tail.close()
        self._epoll.close()


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    seconds = scale.latency_seconds
    with serving_ebus(directory, [tenant]) as ebus, serving_writes(directory) as writes:
        for _ in range(scale.rounds):
            for count in scale.tails:
                tails = counted(count, "tail")
                append_ms, beyond_ms = _measure(ebus, tenant, count, seconds)
                result.add(f"append, {tails}, p50", "ms", append_ms)
                result.add(f"beyond the answer, {tails}, p50", "ms", beyond_ms)
                _, floor_ms = _measure(writes, tenant, count, seconds)
                result.add(f"writes, {tails}, p50", "ms", floor_ms)
                result.add(f"allowed, {tails}", "ms", ALLOWED_MS)
    return result


def _measure(server: Server, tenant: Tenant, count: int, seconds: float) -> tuple[float, float]:
    """The median append, and the median of what a delivery takes beyond it, in milliseconds."""
    clients = _Clients(server, tenant, count)
    appends_s: list[float] = []
    beyond_s: list[float] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s or not appends_s:
        time.sleep(PAUSE_S)
        append_s, tails_s = clients.append_and_follow()
        appends_s.append(append_s)
        beyond_s += tails_s
    clients.close()
    # An event may be there before the answer is: then it takes nothing beyond it.
    beyond_ms = max(0.001, statistics.median(beyond_s) * 1_000)
    return statistics.median(appends_s) * 1_000, beyond_ms
