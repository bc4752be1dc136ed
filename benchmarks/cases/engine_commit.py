"""In process: events stored in a second by each engine, one at a time and in batches.

The events have been read from JSON, as those of an HTTP request are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.errors import check
from benchmarks.pace import repeats_per_s
from benchmarks.record import Result
from benchmarks.rows import Rows
from benchmarks.scale import Scale
from benchmarks.workload import make_events
from ebus import Append, open_engine
from ebus.core.event import parse_events

ENGINES = ("sqlite", "memory")
SIZES = (1, 10, 100, 1_000)


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    with (
        open_engine(f"sqlite:{directory / 'data'}") as sqlite,
        open_engine("memory:") as memory,
        Rows(directory / "rows.db") as rows,
    ):
        stores = {"sqlite": sqlite.open("a"), "memory": memory.open("a")}
        for size in SIZES:
            events = parse_events(msgspec.json.encode(make_events(size)))
            steps: dict[str, Callable[[], object]] = {"rows": partial(rows.commit, events)}
            for engine in ENGINES:
                store = stores[engine]
                before = store.head()
                steps[engine] = partial(store.commit, [Append(events)])
                steps[engine]()
                stored = [
                    (event.type, bytes(event.data), event.timestamp)
                    for event in store.read(before + 1).events
                ]
                expected = [(event.type, bytes(event.data), event.timestamp) for event in events]
                check(stored == expected, f"{engine} does not give back what was committed")
            for _ in range(scale.rounds):
                for name, step in steps.items():
                    pace = repeats_per_s(step, scale.seconds / 4)
                    result.add(f"{name}, {size:,}", "events/s", pace * size)
    return result
