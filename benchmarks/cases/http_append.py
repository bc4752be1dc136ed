"""Over HTTP: single events appended in a second, by 1, 32 and 128 connections."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import appended_per_s, check_append
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
from benchmarks.workload import BARE, MAX_DISTINCT_REQUESTS, append_requests, make_tenants
from benchmarks.wrk import load

CONNECTIONS = (1, 32, 128)


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    full, normal = make_tenants(2)
    settings = {
        "tenants": [
            {"name": full.name, "api_key": full.api_key, "durability": "full"},
            {"name": normal.name, "api_key": normal.api_key, "durability": "normal"},
        ]
    }
    with (
        serving_bare(directory) as bare,
        serving_ebus(directory, [], settings=settings) as ebus,
    ):
        check_append(ebus, full)
        check_append(ebus, normal)
        for _ in range(scale.rounds):
            for connections in CONNECTIONS:
                said = counted(connections, "connection")
                floor = load(bare, BARE, connections=connections, seconds=scale.seconds)
                result.add(f"bare, {said}", "requests/s", floor.requests_per_s)
                for tenant, durability in ((full, "full"), (normal, "normal")):
                    requests = append_requests([tenant] * MAX_DISTINCT_REQUESTS)
                    pace = appended_per_s(
                        ebus, [tenant], requests, connections=connections, scale=scale
                    )
                    result.add(f"append, {durability}, {said}", "events/s", pace)
    return result
