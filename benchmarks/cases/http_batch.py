"""Over HTTP: events appended in a second in batches, beside single ones and the engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from benchmarks.appending import appended_per_s, check_append, check_batch
from benchmarks.pace import repeats_per_s
from benchmarks.record import Result
from benchmarks.rows import Rows
from benchmarks.scale import Scale
from benchmarks.servers import serving_bare, serving_ebus
from benchmarks.workload import (
    BARE,
    MAX_DISTINCT_REQUESTS,
    append_requests,
    batch_requests,
    make_events,
    make_tenants,
)
from benchmarks.wrk import load
from ebus import Append, open_engine
from ebus.core.event import parse_events

CONNECTIONS = 32
SIZES = (10, 100, 1_000)
LARGEST = 1_000


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    events = parse_events(msgspec.json.encode(make_events(LARGEST)))
    with (
        serving_bare(directory) as bare,
        serving_ebus(directory, [tenant]) as ebus,
        open_engine(f"sqlite:{directory / 'in-process'}") as engine,
        Rows(directory / "rows.db") as rows,
    ):
        check_append(ebus, tenant)
        for size in SIZES:
            check_batch(ebus, tenant, size)
        commit = partial(engine.open("a").commit, [Append(events)])
        requests = {1: append_requests([tenant] * MAX_DISTINCT_REQUESTS)}
        requests |= {size: batch_requests(tenant, size) for size in SIZES}
        for _ in range(scale.rounds):
            floor = load(bare, BARE, connections=CONNECTIONS, seconds=scale.seconds)
            result.add("bare", "requests/s", floor.requests_per_s)
            for size, prepared in requests.items():
                pace = appended_per_s(
                    ebus, [tenant], prepared, connections=CONNECTIONS, scale=scale
                )
                result.add(f"append, {size:,}", "events/s", pace)
            pace = repeats_per_s(commit, scale.seconds / 2)
            result.add(f"in process, {LARGEST:,}", "events/s", pace * LARGEST)
            pace = repeats_per_s(partial(rows.commit, events), scale.seconds / 2)
            result.add(f"rows, {LARGEST:,}", "events/s", pace * LARGEST)
    return result
