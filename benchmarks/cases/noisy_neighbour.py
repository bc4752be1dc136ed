"""Over HTTP: a quiet tenant's latency alone, and beside one that writes and reads all it can."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import check_append, check_batch
from benchmarks.errors import check
from benchmarks.open_loop import Latencies, measure_latencies
from benchmarks.reading import check_range
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.servers import Server, serving_bare, serving_ebus
from benchmarks.workload import (
    BARE,
    MAX_DISTINCT_REQUESTS,
    Request,
    Tenant,
    append_requests,
    batch_requests,
    fill,
    make_tenants,
    stream_requests,
)
from benchmarks.wrk import loading
from ebus import open_engine

WRITING_CONNECTIONS = 1
REPLAYING_CONNECTIONS = 1
BATCH = 1_000
PERCENTILES = (50, 99, 99.9)


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    # Every round has a neighbour of its own: what one has written would make the next slower.
    quiet, *neighbours = make_tenants(1 + scale.rounds)
    head = scale.log_events
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        for neighbour in neighbours:
            fill(engine.open(neighbour.name), head)
    with (
        serving_bare(directory) as bare,
        serving_ebus(directory, [quiet, *neighbours]) as ebus,
    ):
        check_append(ebus, quiet)
        for neighbour in neighbours:
            check_range(ebus, stream_requests(neighbour, head)[0], 1)
            check_batch(ebus, neighbour, BATCH)
        appends = append_requests([quiet] * MAX_DISTINCT_REQUESTS)
        for neighbour in neighbours:
            _add(result, "bare", _latencies(scale, bare, BARE))
            before = ebus.head(quiet)
            _add(result, "alone", _latencies(scale, ebus, appends))
            latencies, pace = _beside(scale, ebus, appends, neighbour)
            _add(result, "beside the neighbour", latencies)
            result.add("the neighbour meanwhile", "events/s", pace)
            grown = ebus.head(quiet) - before
            sent = 2 * len(latencies.seconds)
            check(grown == sent, f"{sent} appends were answered, and {grown} are stored")
    return result


def _beside(
    scale: Scale, ebus: Server, appends: list[Request], neighbour: Tenant
) -> tuple[Latencies, float]:
    """The quiet tenant's latencies, and how many events a second the neighbour writes."""
    head = ebus.head(neighbour)
    most_s = scale.latency_seconds + 60
    batches = batch_requests(neighbour, BATCH)
    streams = stream_requests(neighbour, head)
    with (
        loading(ebus, batches, connections=WRITING_CONNECTIONS, max_seconds=most_s) as writing,
        loading(ebus, streams, connections=REPLAYING_CONNECTIONS, max_seconds=most_s) as reading,
    ):
        latencies = _latencies(scale, ebus, appends)
    written = writing.result()
    reading.result()  # raises when anything was answered wrongly
    grown = ebus.head(neighbour) - head
    least = written.requests * BATCH
    most = least + WRITING_CONNECTIONS * BATCH
    check(least <= grown <= most, f"{least} events were acknowledged, and {grown} stored")
    return latencies, written.requests_per_s * BATCH


def _latencies(scale: Scale, server: Server, requests: list[Request]) -> Latencies:
    return measure_latencies(
        server, requests, rate_per_s=scale.quiet_rate_per_s, seconds=scale.latency_seconds
    )


def _add(result: Result, name: str, latencies: Latencies) -> None:
    for percent in PERCENTILES:
        result.add(f"{name}, p{percent:g}", "ms", latencies.percentile_ms(percent))
