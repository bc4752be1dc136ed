"""Over HTTP: how often the head of a log is told in a second."""

from __future__ import annotations

from pathlib import Path

from benchmarks.errors import check
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
from benchmarks.workload import BARE, fill, make_tenants, position_requests
from benchmarks.wrk import load
from ebus import open_engine

CONNECTIONS = (1, 32, 128)


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        fill(engine.open(tenant.name), 1_000)
    with serving_bare(directory) as bare, serving_ebus(directory, [tenant]) as ebus:
        check(ebus.head(tenant) == 1_000, "the head is not 1,000")
        requests = position_requests(tenant)
        for _ in range(scale.rounds):
            for connections in CONNECTIONS:
                for name, server, asked in (
                    ("bare", bare, BARE),
                    ("position", ebus, requests),
                ):
                    answered = load(server, asked, connections=connections, seconds=scale.seconds)
                    said = f"{name}, {counted(connections, 'connection')}"
                    result.add(said, "requests/s", answered.requests_per_s)
    return result
