"""On a NATS cluster: appends and reads over HTTP, beside the official client by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import msgspec
import nats
from nats.js import JetStreamContext

from benchmarks.appending import appended_per_s, check_append, check_batch
from benchmarks.errors import check
from benchmarks.pace import repeats_per_s
from benchmarks.reading import check_range, read_per_s
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import Server, serving_ebus
from benchmarks.workload import (
    MAX_DISTINCT_REQUESTS,
    Tenant,
    append_requests,
    batch_requests,
    fill,
    make_events,
    make_tenants,
    range_requests,
)
from ebus import open_engine
from ebus.core.store import SupportsWireRead, TenantStore
from tests.nats.servers import NatsCluster, NatsServer

IN_FLIGHT = 32
"""Connections to ebus, or publishes of the plain client that wait for their acknowledgement."""

BATCH = 100
RANGE = 1_000
NODES = (1, 3)

_STREAM = "plain"


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    log, appended = make_tenants(2)
    with ExitStack() as stack:
        places = []
        for nodes in NODES:
            where = directory / str(nodes)
            where.mkdir()
            url = stack.enter_context(_nats(where, nodes))
            address = f"{url}?replicas={nodes}"
            with open_engine(address) as engine:
                fill(engine.open(log.name), RANGE)
            settings = {"engine": address}
            ebus = stack.enter_context(
                serving_ebus(where, [log, appended], settings=settings, workers=1)
            )
            store = stack.enter_context(open_engine(address)).open(log.name)
            check_append(ebus, appended)
            check_batch(ebus, appended, BATCH)
            plain = stack.enter_context(_plain(url, nodes))
            places.append((counted(nodes, "node"), plain, ebus, store))
        for _ in range(scale.rounds):
            for said, plain, ebus, store in places:
                _appends(result, said, plain, ebus, appended, scale)
                _reads(result, said, plain, ebus, store, log, scale)
    return result


def _appends(
    result: Result, said: str, plain: Plain, ebus: Server, tenant: Tenant, scale: Scale
) -> None:
    result.add(f"plain client, {said}", "events/s", plain.published_per_s(scale.seconds))
    for name, requests in (
        ("append", append_requests([tenant] * MAX_DISTINCT_REQUESTS)),
        (f"append, {BATCH}", batch_requests(tenant, BATCH)),
    ):
        pace = appended_per_s(ebus, [tenant], requests, connections=IN_FLIGHT, scale=scale)
        result.add(f"{name}, {said}", "events/s", pace)


def _reads(
    result: Result,
    said: str,
    plain: Plain,
    ebus: Server,
    store: TenantStore,
    tenant: Tenant,
    scale: Scale,
) -> None:
    result.add(f"one by one, {said}", "events/s", plain.got_per_s(scale.seconds / 2))
    read = cast(SupportsWireRead, store).read_wire
    check(read(1, limit=RANGE).count == RANGE, "a range has other events than were stored")
    pace = repeats_per_s(lambda: read(1, limit=RANGE), scale.seconds / 2)
    result.add(f"range, {RANGE:,}, in process, {said}", "events/s", pace * RANGE)
    ranges = range_requests(tenant, RANGE, RANGE)
    check_range(ebus, ranges[0], 1)
    pace = read_per_s(ebus, ranges, connections=IN_FLIGHT, scale=scale)
    result.add(f"range, {RANGE:,}, {said}", "events/s", pace)


@contextmanager
def _nats(directory: Path, nodes: int) -> Iterator[str]:
    """The address of so many nodes, which sync every write before it is acknowledged."""
    if nodes == 1:
        with NatsServer(directory, sync="always") as server:
            yield server.url
    else:
        with NatsCluster(directory, size=nodes, sync="always") as cluster:
            yield cluster.url


@contextmanager
def _plain(url: str, nodes: int) -> Iterator[Plain]:
    plain = Plain(url, nodes)
    try:
        yield plain
    finally:
        plain.close()


class Plain:
    """The official client: it publishes events, and gets them one by one."""

    def __init__(self, url: str, replicas: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._payloads = [msgspec.json.encode(it) for it in make_events(MAX_DISTINCT_REQUESTS)]
        self._client = self._loop.run_until_complete(
            nats.connect(url.removeprefix("nats://").split(","))
        )
        self._stream: JetStreamContext = self._client.jetstream()
        self._loop.run_until_complete(
            self._stream.add_stream(
                name=_STREAM, subjects=[f"{_STREAM}.>"], num_replicas=replicas, allow_direct=True
            )
        )

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def published_per_s(self, seconds: float) -> float:
        """Events that are acknowledged in a second, with `IN_FLIGHT` under way."""
        return self._loop.run_until_complete(self._publish(seconds))

    async def _publish(self, seconds: float) -> float:
        begun = time.perf_counter()
        published = 0

        async def publish() -> None:
            nonlocal published
            while time.perf_counter() - begun < seconds:
                payload = self._payloads[published % len(self._payloads)]
                await self._stream.publish(f"{_STREAM}.OrderPlaced", payload)
                published += 1

        await asyncio.gather(*(publish() for _ in range(IN_FLIGHT)))
        return published / (time.perf_counter() - begun)

    def got_per_s(self, seconds: float) -> float:
        """Events that are got in a second, each by itself, from any replica."""
        return self._loop.run_until_complete(self._get(seconds))

    async def _get(self, seconds: float) -> float:
        begun = time.perf_counter()
        got = 0
        while (taken := time.perf_counter() - begun) < seconds:
            await self._stream.get_msg(_STREAM, 1 + got % RANGE, direct=True)
            got += 1
        return got / taken
