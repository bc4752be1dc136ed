"""What the conformance suite says of watching, held against an engine that can be watched."""

from pathlib import Path

from ebus.core.limits import Limits
from ebus.core.store import SupportsWatch
from ebus.testing import NOTHING_STORED, Peeked
from ebus.testing.watching import Watching
from tests.shared_memory import SharedEngine, SharedLog


class SharedPlace:
    def __init__(self) -> None:
        self.logs: dict[str, SharedLog] = {}

    def open(self, *, limits: Limits | None = None) -> SharedEngine:
        return SharedEngine(self.logs, limits=limits)

    def peek(self, name: str) -> Peeked:
        log = self.logs.get(name)
        if log is None:
            return NOTHING_STORED
        checkpoints = {name: known.position for name, known in log.subscriptions.items()}
        return Peeked(list(log.events.values()), checkpoints)


class TestWatching(Watching):
    powers = frozenset({SupportsWatch})

    def new_place(self, directory: Path) -> SharedPlace:
        return SharedPlace()
