"""The server's memory while one client streams a large log slowly, beside that when idle."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import check_append
from benchmarks.errors import check
from benchmarks.reading import check_range
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.servers import Server, resident_bytes, serving_ebus
from benchmarks.slow_reader import SlowReader
from benchmarks.workload import Request, Tenant, fill, make_tenants, stream_requests
from ebus import open_engine

MIB = 1024 * 1024
CHECKED = 100


def measure(scale: Scale, directory: Path) -> Result:
    """One round: a server's memory never goes back to what it was."""
    result = Result()
    [tenant] = make_tenants(1)
    head = scale.streamed_events
    with open_engine(f"sqlite:{directory / 'data'}", durability="normal") as engine:
        fill(engine.open(tenant.name), head)
    with serving_ebus(directory, [tenant]) as ebus:
        check_append(ebus, tenant)
        path = f"/events?from=1&to={CHECKED}"
        asked = Request(method="GET", path=path, key=tenant.api_key, events=CHECKED)
        event_bytes = check_range(ebus, asked, 1) / CHECKED
        head = ebus.head(tenant)
        result.add("idle", "MiB", resident_bytes(ebus) / MIB)
        most = _most_while_streaming(
            ebus, tenant, head, bytes_per_s=head * event_bytes / scale.streamed_seconds
        )
        result.add(f"streaming, {scale.streamed_events:,}", "MiB", most / MIB)
    return result


def _most_while_streaming(ebus: Server, tenant: Tenant, head: int, *, bytes_per_s: float) -> int:
    """The server's memory at its largest, in bytes, looked at after every piece."""
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, resident_bytes(ebus))

    [request] = stream_requests(tenant, head)
    with SlowReader(ebus, request) as reader:
        reader.read_all(bytes_per_s, look)
    check(reader.events == head, f"{reader.events} of {head} events were streamed")
    return most
