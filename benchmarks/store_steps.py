"""What single steps of storing and reading cost: the figures of `docs/decisions/`.

    .venv/bin/python benchmarks/store_steps.py

Each pair is checked to do the same before it is timed. A figure is the median of the rounds,
in which the steps take turns.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

import msgspec

from ebus import Limits, NewEvent
from ebus.backends.sqlite.blocks import build_blocks
from ebus.core.event import check_events, encode_event

ROUNDS = 7
DATA = {"order": "A-001", "amount": 12.5, "items": [1, 2, 3]}
EVENT = NewEvent.of("OrderPlaced", DATA, "2024-01-01T00:00:00Z")
LIMITS = Limits()

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_parse = msgspec.json.Decoder(msgspec.Raw).decode


def steps() -> dict[str, tuple[Callable[[], object], int]]:
    """Each step, and how many events it is about."""
    wire = [encode_event(EVENT, position, "") for position in range(1, 129)]
    [block] = build_blocks(wire, 1, max_events=128, max_bytes=2**20)

    def cut_by_parsing() -> bytes:
        return b",".join(_split(b"[" + block.events + b"]")[40:90])

    def cut_by_offsets() -> bytes:
        return block.slice(41, 90)

    assert cut_by_parsing() == cut_by_offsets()
    batch = [EVENT] * 1_000
    return {
        "cut 50 of 128 events by parsing": (cut_by_parsing, 1),
        "cut 50 of 128 events by offsets": (cut_by_offsets, 1),
        "check an event": (lambda: check_events(batch, LIMITS), 1_000),
        "of that, parse its data": (lambda: [_parse(event.data) for event in batch], 1_000),
        "encode an event": (lambda: [encode_event(event, 1, "") for event in batch], 1_000),
    }


def main() -> None:
    measured = steps()
    figures: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(ROUNDS):
        for name, (step, events) in measured.items():
            number, seconds = timeit.Timer(step).autorange()
            figures[name].append(seconds / number / events * 1e6)
    for name, microseconds in figures.items():
        print(f"{name:34} {statistics.median(microseconds):8.2f} µs")


if __name__ == "__main__":
    main()
