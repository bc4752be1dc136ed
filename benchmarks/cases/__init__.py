"""One module a case. Each checks its answers, then measures what belongs together in turns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from benchmarks.cases import (
    engine_commit,
    engine_read,
    http_append,
    http_batch,
    http_mixed,
    http_position,
    http_range,
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
    }
)
"""Every case by its name, in the order in which they run."""
