"""In process: events read in a second by each engine, as JSON bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.errors import check
from benchmarks.pace import repeats_per_s
from benchmarks.record import Result
from benchmarks.rows import Rows
from benchmarks.scale import Scale
from benchmarks.workload import SEED, fill, make_events
from ebus import TenantStore, open_engine
from ebus.core.store import SupportsWireRead

SIZES = (100, 10_000)

_encode = msgspec.json.Encoder().encode


def measure(scale: Scale, directory: Path) -> Result:
    result = Result()
    head = scale.log_events
    with (
        open_engine(f"sqlite:{directory / 'data'}", durability="normal") as sqlite,
        open_engine("memory:") as memory,
        Rows(directory / "rows.db", durability="normal") as rows,
    ):
        stores = {"sqlite": sqlite.open("a"), "memory": memory.open("a")}
        for store in stores.values():
            fill(store, head)
        for _ in range(head // 1_000):
            rows.commit(make_events(1_000))
        for size in SIZES:
            count = min(size, head)
            readers: dict[str, Callable[[int, int], bytes]] = {"rows": rows.read}
            readers |= {name: json_reader(store) for name, store in stores.items()}
            answers = {name: read(head // 2, count) for name, read in readers.items()}
            check(len(set(answers.values())) == 1, f"the answers differ: {list(answers)}")
            for _ in range(scale.rounds):
                for name, read in readers.items():
                    pace = reads_per_s(read, head, count, scale.seconds / 2)
                    result.add(f"{name}, {size:,}", "events/s", pace * count)
    return result


def json_reader(store: TenantStore) -> Callable[[int, int], bytes]:
    """How a store's events are read to one JSON array of bytes: from where, how many."""
    if isinstance(store, SupportsWireRead):
        read_wire = store.read_wire
        return lambda start, limit: b"[" + b",".join(read_wire(start, limit=limit).chunks) + b"]"
    return lambda start, limit: _encode(store.read(start, limit=limit).events)


def reads_per_s(read: Callable[[int, int], bytes], head: int, count: int, seconds: float) -> float:
    """How often `count` events are read in a second, from places all over the log."""
    source = random.Random(SEED)
    last = head - count + 1
    return repeats_per_s(lambda: read(source.randint(1, last), count), seconds)
