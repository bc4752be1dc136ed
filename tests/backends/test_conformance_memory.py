"""The memory engine passes the conformance suite."""

from pathlib import Path

from ebus.backends.memory import Log, MemoryEngine
from ebus.core.limits import Limits
from ebus.core.store import SupportsGaps, SupportsIdLookup, SupportsQuota, SupportsTrim
from ebus.testing import NOTHING_STORED, EngineConformance, Peeked


class MemoryPlace:
    def __init__(self) -> None:
        self.logs: dict[str, Log] = {}

    def open(self, *, limits: Limits | None = None) -> MemoryEngine:
        return MemoryEngine(limits=limits, logs=self.logs)

    def peek(self, name: str) -> Peeked:
        log = self.logs.get(name)
        if log is None:
            return NOTHING_STORED
        checkpoints = {name: known.position for name, known in log.subscriptions.items()}
        return Peeked(list(log.events.values()), checkpoints)


class TestMemoryConformance(EngineConformance):
    powers = frozenset({SupportsTrim, SupportsGaps, SupportsIdLookup, SupportsQuota})

    def new_place(self, directory: Path) -> MemoryPlace:
        return MemoryPlace()
