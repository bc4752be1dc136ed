"""Over HTTP: how soon an event that is appended reaches those who follow the log."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import uvloop

from benchmarks.errors import check
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import Server, serving_ebus
from benchmarks.workload import Tenant, make_tenants

ALLOWED_MS = 5.0
"""What the median of the deliveries may take beyond the answer to the append."""

PAUSE_S = 0.02
"""Between two appends: what is measured is one event at a time."""

PATIENCE_S = 60.0

_BODY = b'{"type":"OrderPlaced","data":{"order":"A-001"}}'


class _Tail(asyncio.Protocol):
    """Follows the log, and notes when something of it came last."""

    def __init__(self, tenant: Tenant) -> None:
        self._key = tenant.api_key.encode()
        self.begun = asyncio.get_running_loop().create_future()
        self.came_s = 0.0
        self.events = 0

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        transport.write(
            b"GET /events/stream?follow=true&last=1 HTTP/1.1\r\nHost: ebus\r\n"
            b"Accept: text/event-stream\r\nX-API-Key: %b\r\n\r\n" % self._key
        )

    def data_received(self, data: bytes) -> None:
        self.came_s = time.perf_counter()
        self.events += data.count(b"\nid: ") + data.startswith(b"id: ")
        if self.events and not self.begun.done():
            self.begun.set_result(None)


class _Appender:
    """One connection that appends and waits for the answer."""

    def __init__(
        self, tenant: Tenant, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._request = (
            b"POST /events HTTP/1.1\r\nHost: ebus\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (tenant.api_key.encode(), len(_BODY), _BODY)
        )

    async def append(self) -> tuple[float, float]:
        """When it was sent, and when the answer was there."""
        sent_s = time.perf_counter()
        self._writer.write(self._request)
        answer = await self._reader.readuntil(b'Z"}')
        answered_s = time.perf_counter()
        check(answer.startswith(b"HTTP/1.1 200"), f"an append was answered {answer[:200]!r}")
        return sent_s, answered_s

    def close(self) -> None:
        self._writer.close()


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    with serving_ebus(directory, [tenant]) as ebus:
        for _ in range(scale.rounds):
            for count in scale.tails:
                uvloop.run(_measure(result, ebus, tenant, count, scale.latency_seconds))
    return result


async def _measure(
    result: Result, server: Server, tenant: Tenant, count: int, seconds: float
) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    appender = _Appender(tenant, reader, writer)
    await appender.append()
    made = [
        await loop.create_connection(lambda: _Tail(tenant), "127.0.0.1", server.port)
        for _ in range(count)
    ]
    tails = [tail for _, tail in made]
    await asyncio.wait_for(asyncio.gather(*(tail.begun for tail in tails)), PATIENCE_S)
    appends_ms: list[float] = []
    behind_ms: list[float] = []
    until_s = loop.time() + seconds
    while loop.time() < until_s or not appends_ms:
        await asyncio.sleep(PAUSE_S)
        expected = tails[0].events + 1
        sent_s, answered_s = await appender.append()
        appends_ms.append((answered_s - sent_s) * 1_000)
        give_up_s = loop.time() + PATIENCE_S
        while any(tail.events < expected for tail in tails):
            check(loop.time() < give_up_s, "an event did not reach every tail")
            await asyncio.sleep(0.001)
        check(all(tail.events == expected for tail in tails), "an event came twice")
        behind_ms += [(tail.came_s - answered_s) * 1_000 for tail in tails]
    for transport, _ in made:
        transport.close()
    appender.close()
    named = counted(count, "tail")
    result.add(f"append, {named}, p50", "ms", statistics.median(appends_ms))
    # An event may be there before the answer is: then it takes nothing beyond it.
    result.add(f"beyond the answer, {named}, p50", "ms", max(0.001, statistics.median(behind_ms)))
    result.add(f"allowed, {named}", "ms", ALLOWED_MS)
