"""The engine passes the conformance suite of ebus."""

from __future__ import annotations

import json
from pathlib import Path

from ebus.core.engine import SupportsDurability
from ebus.core.limits import Limits
from ebus.core.store import SupportsIdLookup, SupportsQuota, SupportsWireRead
from ebus.testing import NOTHING_STORED, EngineConformance, Peeked
from ebus_jsonl import JsonlEngine


class JsonlPlace:
    """A directory, and what is in its files as anybody reads them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, *, limits: Limits | None = None) -> JsonlEngine:
        return JsonlEngine(self.directory, limits=limits)

    def peek(self, name: str) -> Peeked:
        path = self.directory / f"{name}.jsonl"
        if not path.exists():
            return NOTHING_STORED
        events: list[bytes] = []
        checkpoints: dict[str, int] = {}
        for line in path.read_bytes().split(b"\n")[1:-1]:
            if line.startswith(b'{"position":'):
                events.append(line)
            elif line.startswith(b'{"text":'):
                events.append(json.loads(line)["text"].encode())
            elif line.startswith(b'{"subscription":'):
                saved = json.loads(line)
                checkpoints.pop(saved["subscription"], None)
                if saved["state"] is not None:
                    checkpoints[saved["subscription"]] = saved["state"]["position"]
            else:
                assert line.startswith(b'{"commit":'), "a line of no kind"
        return Peeked(events, checkpoints)


class TestJsonlConformance(EngineConformance):
    powers = frozenset({SupportsDurability, SupportsIdLookup, SupportsQuota, SupportsWireRead})
    shared = False

    def new_place(self, directory: Path) -> JsonlPlace:
        return JsonlPlace(directory)
