"""Over HTTP: single events appended to many tenants, to a few of them very often."""

from __future__ import annotations

from pathlib import Path

from benchmarks.many_tenants import measure_many
from benchmarks.record import Result
from benchmarks.scale import Scale
from benchmarks.workload import choose_by_zipf


def measure(scale: Scale, directory: Path) -> Result:
    return measure_many(scale, directory, scale.zipf_tenants, choose_by_zipf)
