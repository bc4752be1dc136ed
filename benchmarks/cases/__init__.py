"""One module a case. Each checks its answers, then measures what belongs together in turns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from benchmarks.cases import (
    engine_commit,
    engine_read,
    growth,
    http_append,
    http_batch,
    http_mixed,
    http_position,
    http_range,
    jetstream,
    latency,
    noisy_neighbour,
    start,
    stream_memory,
    tails,
    tenants_even,
    tenants_zipf,
    wal_size,
    workers,
)
from benchmarks.record import Result
from benchmarks.scale import Scale


class Measure(Protocol):
    """Measures one case with an empty directory to itself.

    Raises `BenchmarkFailed` when an answer is wrong: then there are no figures.
    """

    def __call__(self, scale: Scale, directory: Path) -> Result: ...


CASES: Mapping[str, Measure] = MappingProxyType(
    {
        "engine_commit": engine_commit.measure,
        "engine_read": engine_read.measure,
        "http_append": http_append.measure,
        "http_batch": http_batch.measure,
        "http_range": http_range.measure,
        "http_position": http_position.measure,
        "http_mixed": http_mixed.measure,
        "workers": workers.measure,
        "tenants_even": tenants_even.measure,
        "tenants_zipf": tenants_zipf.measure,
        "growth": growth.measure,
        "latency": latency.measure,
        "noisy_neighbour": noisy_neighbour.measure,
        "tails": tails.measure,
        "stream_memory": stream_memory.measure,
        "wal_size": wal_size.measure,
        "start": start.measure,
        "jetstream": jetstream.measure,
    }
)
"""Every case by its name, in the order in which they run."""
