"""Over HTTP: one tenant on several worker processes, beside the bare server on one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.appending import appended_per_s, check_append
from benchmarks.reading import check_range, read_per_s
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import Server, offers_workers, serving_bare, serving_ebus
from benchmarks.workload import (
    BARE,
    MAX_DISTINCT_REQUESTS,
    Request,
    append_requests,
    fill,
    make_tenants,
    range_requests,
)
from benchmarks.wrk import load
from ebus import open_engine

CONNECTIONS = (32, 128)
RANGE = 100
RANGE_CONNECTIONS = 32


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    if not offers_workers():
        for count in scale.workers:
            name = f"append, 128 connections, {counted(count, 'worker')}"
            result.skipped[name] = "`ebus serve` has no `--workers`"
        return result
    [tenant] = make_tenants(1)
    head = scale.log_events
    with ExitStack() as ending:
        bare = ending.enter_context(serving_bare(directory))
        servers: dict[int, Server] = {}
        for count in scale.workers:
            place = directory / str(count)
            with open_engine(f"sqlite:{place / 'data'}", durability="normal") as engine:
                fill(engine.open(tenant.name), head)
            server = ending.enter_context(serving_ebus(place, [tenant], workers=count))
            servers[count] = server
            check_append(server, tenant)
            path = f"/events?from=1&to={RANGE}"
            asked = Request(method="GET", path=path, key=tenant.api_key, events=RANGE)
            check_range(server, asked, 1)
        appends = append_requests([tenant] * MAX_DISTINCT_REQUESTS)
        ranges = range_requests(tenant, RANGE, head)
        for _ in range(scale.rounds):
            for connections in CONNECTIONS:
                said = counted(connections, "connection")
                floor = load(bare, BARE, connections=connections, seconds=scale.seconds)
                result.add(f"bare, {said}", "requests/s", floor.requests_per_s)
                for count, server in servers.items():
                    pace = appended_per_s(
                        server, [tenant], appends, connections=connections, scale=scale
                    )
                    result.add(f"append, {said}, {counted(count, 'worker')}", "events/s", pace)
            for count, server in servers.items():
                pace = read_per_s(server, ranges, connections=RANGE_CONNECTIONS, scale=scale)
                name = f"range, {RANGE_CONNECTIONS} connections, {counted(count, 'worker')}"
                result.add(name, "events/s", pace)
    return result
