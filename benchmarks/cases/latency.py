"""Over HTTP: how long one append takes at fixed rates, counted from when it was due."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import check_append
from benchmarks.errors import check
from benchmarks.open_loop import measure_latencies
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
from benchmarks.workload import BARE, MAX_DISTINCT_REQUESTS, append_requests, make_tenants

PERCENTILES = (50, 99, 99.9)


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    with serving_bare(directory) as bare, serving_ebus(directory, [tenant]) as ebus:
        check_append(ebus, tenant)
        appends = append_requests([tenant] * MAX_DISTINCT_REQUESTS)
        for _ in range(scale.rounds):
            for rate_per_s in scale.rates_per_s:
                before = ebus.head(tenant)
                for name, server, requests in (("bare", bare, BARE), ("append", ebus, appends)):
                    latencies = measure_latencies(
                        server, requests, rate_per_s=rate_per_s, seconds=scale.latency_seconds
                    )
                    for percent in PERCENTILES:
                        figure = f"{name}, {rate_per_s:,} requests/s, p{percent:g}"
                        result.add(figure, "ms", latencies.percentile_ms(percent))
                grown = ebus.head(tenant) - before
                sent = len(latencies.seconds)
                check(grown == sent, f"{sent} appends were answered, and {grown} are stored")
    return result
