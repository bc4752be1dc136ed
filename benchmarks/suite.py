"""Running cases and putting what they find into one record."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.errors import BenchmarkFailed
from benchmarks.machine import look_at_commit, look_at_machine, look_at_versions
from benchmarks.record import FORMAT, Record, Result
from benchmarks.scale import Scale


def run(
    scale: Scale, names: Iterable[str], place: Path | None, *, say: Callable[[str], None]
) -> Record:
    """Run these cases, each in a directory of its own within `place`, which is left as it was.

    `say` is told what happens. A case that fails has its failure for a result, and no figures:
    the others stand by themselves.
    """
    begun_at, begun = datetime.now(UTC), time.perf_counter()
    commit, dirty = look_at_commit()
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="ebus-bench-", dir=place) as directory:
        machine = look_at_machine(Path(directory))
        for name in names:
            began = time.perf_counter()
            say(f"{name} ...")
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=directory) as own:
                results[name] = _measure(name, scale, Path(own))
            outcome = results[name].failure or "done"
            say(f"{name}: {time.perf_counter() - began:.0f} s, {outcome}")
    return Record(
        format=FORMAT,
        scale=scale,
        begun=begun_at.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - begun, 1),
        commit=commit,
        dirty=dirty,
        machine=machine,
        versions=look_at_versions(),
        results=results,
    )


def _measure(name: str, scale: Scale, directory: Path) -> Result:
    try:
        return CASES[name](scale, directory)
    except BenchmarkFailed as failure:
        return Result(failure=str(failure))
