"""Over HTTP: events read in a second in ranges and as a stream, beside the engine itself."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases.engine_read import json_reader, reads_per_s
from benchmarks.reading import check_range, read_per_s
from benchmarks.record import Result
from benchmarks.rows import Rows
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
from benchmarks.workload import (
    BARE,
    fill,
    make_events,
    make_tenants,
    range_requests,
    stream_requests,
)
from benchmarks.wrk import load
from ebus import open_engine

CONNECTIONS = 32
LARGE_CONNECTIONS = 4
"""For ranges of 10,000 and streams: enough to keep the server busy while wrk receives."""

SMALL, LARGE = 100, 10_000


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    head, large = scale.log_events, min(LARGE, scale.log_events)
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        fill(engine.open(tenant.name), head)
    with (
        serving_bare(directory) as bare,
        serving_ebus(directory, [tenant]) as ebus,
        open_engine(f"sqlite:{directory / 'data'}") as engine,
        Rows(directory / "rows.db", durability="normal") as rows,
    ):
        for _ in range(head // 1_000):
            rows.commit(make_events(1_000))
        in_process = json_reader(engine.open(tenant.name))
        small_ranges = range_requests(tenant, SMALL, head)
        large_ranges = range_requests(tenant, large, head)
        streams = stream_requests(tenant, head)
        check_range(ebus, small_ranges[0], _first(small_ranges[0].path))
        large_bytes = check_range(ebus, large_ranges[0], _first(large_ranges[0].path))
        stream_bytes = check_range(ebus, streams[0], 1)
        for _ in range(scale.rounds):
            floor = load(bare, BARE, connections=CONNECTIONS, seconds=scale.seconds)
            result.add("bare", "requests/s", floor.requests_per_s)
            pace = read_per_s(ebus, small_ranges, connections=CONNECTIONS, scale=scale)
            result.add(f"range, {SMALL:,}", "events/s", pace)
            result.add(f"range, {SMALL:,}, requests", "requests/s", pace / SMALL)
            for name, requests, answer_bytes in (
                (f"range, {LARGE:,}", large_ranges, large_bytes),
                ("stream", streams, stream_bytes),
            ):
                pace = read_per_s(
                    ebus,
                    requests,
                    connections=LARGE_CONNECTIONS,
                    scale=scale,
                    answer_bytes=answer_bytes,
                )
                result.add(name, "events/s", pace)
            for name, read in (("in process", in_process), ("rows", rows.read)):
                pace = reads_per_s(read, head, large, scale.seconds / 2)
                result.add(f"{name}, {LARGE:,}", "events/s", pace * large)
    return result


def _first(path: str) -> int:
    return int(path.partition("from=")[2].partition("&")[0])
