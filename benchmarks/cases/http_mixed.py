"""Over HTTP: one tenant written and read at once, by the same connections."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import check_append
from benchmarks.reading import check_range
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
from benchmarks.workload import BARE, Request, fill, make_tenants, mixed_requests
from benchmarks.wrk import load
from ebus import open_engine

CONNECTIONS = 32


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    head = scale.log_events
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        fill(engine.open(tenant.name), head)
    with serving_bare(directory) as bare, serving_ebus(directory, [tenant]) as ebus:
        check_append(ebus, tenant)
        path = f"/events?from={head - 99}&to={head}"
        check_range(
            ebus, Request(method="GET", path=path, key=tenant.api_key, events=100), head - 99
        )
        requests = mixed_requests(tenant, head)
        for _ in range(scale.rounds):
            for name, server, asked in (("bare", bare, BARE), ("mixed", ebus, requests)):
                answered = load(server, asked, connections=CONNECTIONS, seconds=scale.seconds)
                result.add(name, "requests/s", answered.requests_per_s)
    return result
