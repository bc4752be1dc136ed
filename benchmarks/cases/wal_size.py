"""How large the WAL gets under full write load, without readers and beside a slow one."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.appending import check_batch
from benchmarks.errors import check
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.servers import Server, serving_ebus
from benchmarks.slow_reader import SlowReader
from benchmarks.workload import (
    Tenant,
    append_requests,
    batch_requests,
    fill,
    make_tenants,
    stream_requests,
)
from benchmarks.wrk import loading
from ebus import open_engine

CONNECTIONS = 32
BATCH = 1_000
MIB = 1024 * 1024
LOOK_EVERY_S = 0.02

READ_BYTES_PER_S = 1_000


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    [tenant] = make_tenants(1)
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        fill(engine.open(tenant.name), scale.log_events)
    wal = directory / "data" / f"{tenant.name}.db-wal"
    with serving_ebus(directory, [tenant]) as ebus:
        check_batch(ebus, tenant, BATCH)
        [stream] = stream_requests(tenant, ebus.head(tenant))
        for _ in range(scale.rounds):
            most = _most_while_writing(scale, ebus, tenant, wal, None)
            result.add("written", "MiB", most / MIB)
            with SlowReader(ebus, stream) as reader:
                most = _most_while_writing(scale, ebus, tenant, wal, reader)
            result.add("written, and streamed at 1 kB/s", "MiB", most / MIB)
    return result


def _most_while_writing(
    scale: Scale, ebus: Server, tenant: Tenant, wal: Path, reader: SlowReader | None
) -> int:
    """The size in bytes of the WAL's file at its largest."""
    [append] = append_requests([tenant])
    ebus.answer(append)  # after it nothing of an earlier load is still to come
    before, most = ebus.head(tenant), 0
    batches = batch_requests(tenant, BATCH)
    seconds = 2 * scale.seconds
    with loading(ebus, batches, connections=CONNECTIONS, max_seconds=seconds + 60) as writing:
        begun = time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            most = max(most, wal.stat().st_size)
            if reader is not None and reader.bytes < passed * READ_BYTES_PER_S:
                reader.read(int(passed * READ_BYTES_PER_S) - reader.bytes + 1)
            time.sleep(LOOK_EVERY_S)
    acknowledged = writing.result().requests * BATCH
    grown = ebus.head(tenant) - before
    most_grown = acknowledged + CONNECTIONS * BATCH
    check(acknowledged <= grown <= most_grown, f"{acknowledged} acknowledged, {grown} stored")
    return most
