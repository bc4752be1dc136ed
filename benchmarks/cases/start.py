"""From the beginning of the process until it listens, with few tenants configured and many."""

from __future__ import annotations

from pathlib import Path

from benchmarks.appending import check_append
from benchmarks.errors import check
from benchmarks.record import Result, counted
from benchmarks.scale import Scale
from benchmarks.servers import serving_ebus
from benchmarks.workload import Request, make_tenants


def measure(scale: Scale, directory: Path) -> Result:
    """In every round each server starts once, after a start that does not count."""
    result = Result()
    for count in scale.configured_tenants:
        _start(directory, count)
    for _ in range(scale.rounds):
        for count in scale.configured_tenants:
            result.add(counted(count, "tenant"), "s", _start(directory, count))
    return result


def _start(directory: Path, count: int) -> float:
    """How many seconds a start takes; the server answers for all tenants, and then ends."""
    place = directory / str(count)
    place.mkdir(exist_ok=True)
    tenants = make_tenants(count)
    with serving_ebus(place, tenants) as ebus:
        asked = Request(method="GET", path="/tenants", key=tenants[-1].api_key)
        check(ebus.json(asked)["count"] == count, f"not {count} tenants are served")
        check_append(ebus, tenants[-1])
        return ebus.start_s
