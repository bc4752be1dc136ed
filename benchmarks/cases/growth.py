"""Over HTTP: single appends, and ranges of 100 from all over the log, as the log grows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import appended_per_s, check_append
from benchmarks.reading import check_range, read_per_s
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
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

CONNECTIONS = 32
RANGE = 100


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    logs = dict(zip(scale.grown_events, make_tenants(len(scale.grown_events)), strict=True))
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        for head, tenant in logs.items():
            fill(engine.open(tenant.name), head)
    with (
        serving_bare(directory) as bare,
        serving_ebus(directory, list(logs.values())) as ebus,
    ):
        for head, tenant in logs.items():
            check_append(ebus, tenant)
            for first in (1, head // 2, head - RANGE + 1):
                path = f"/events?from={first}&to={first + RANGE - 1}"
                asked = Request(method="GET", path=path, key=tenant.api_key, events=RANGE)
                check_range(ebus, asked, first)
        for _ in range(scale.rounds):
            floor = load(bare, BARE, connections=CONNECTIONS, seconds=scale.seconds)
            result.add("bare", "requests/s", floor.requests_per_s)
            for head, tenant in logs.items():
                appends = append_requests([tenant] * MAX_DISTINCT_REQUESTS)
                pace = appended_per_s(ebus, [tenant], appends, connections=CONNECTIONS, scale=scale)
                result.add(f"append, {head:,}", "events/s", pace)
            for head, tenant in logs.items():
                ranges = range_requests(tenant, RANGE, head)
                pace = read_per_s(ebus, ranges, connections=CONNECTIONS, scale=scale)
                result.add(f"range, {head:,}", "events/s", pace)
    return result
