"""Backups of a server that is written to as fast as it takes it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ebus import Event, TenantStore
from ebus.backends.sqlite import SqliteEngine
from tests.cli.conftest import KEYS, Ebus
from tests.live_server import LiveServer, serving

BACKUPS = 2
BATCH_EVENTS = 200
EVENTS_AT_FIRST = 4_000


class Writers:
    """Two threads for each tenant, which append until they are stopped."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self.acknowledged = dict.fromkeys(KEYS, 0)
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._append, args=(name, number))
            for name in KEYS
            for number in range(2)
        ]

    def _append(self, name: str, writer: int) -> None:
        headers = {"X-API-Key": KEYS[name]}
        with httpx.Client(base_url=self._server.url, headers=headers, verify=False) as client:
            for turn in range(1_000_000):
                if self._stopping.is_set():
                    return
                events = [
                    {
                        "type": f"T{number % 5}",
                        "data": {"writer": writer, "turn": turn, "number": number},
                        "id": f"{writer}-{turn}-{number}",
                        "stream": f"s{number % 10}",
                    }
                    for number in range(BATCH_EVENTS)
                ]
                answer = client.post("/events/batch", json={"events": events})
                with self._changed:
                    if not answer.is_success:
                        self.failures.append(answer.text)
                    self.acknowledged[name] += BATCH_EVENTS
                    self._changed.notify_all()

    def wait_for(self, events: int) -> None:
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.failures or min(self.acknowledged.values()) >= events, 60
            )
            assert done
            assert self.failures == []

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()


def test_what_is_restored_is_exactly_what_was_there_up_to_the_positions_of_the_manifest(
    place: Path, ebus: Ebus
) -> None:
    with serving(["--config", "tenants.yaml"], cwd=place) as server:
        writers = Writers(server)
        with writers.running():
            writers.wait_for(EVENTS_AT_FIRST)
            positions = [back_up(place) for _ in range(BACKUPS)]
            at_last = dict(writers.acknowledged)
            writers.wait_for(max(at_last.values()) + 2 * BATCH_EVENTS)  # they still go on
        assert writers.failures == []
        assert ebus("verify").exit_code == 0, "live data, beside the server"
        server.kill()
    for name in KEYS:
        assert EVENTS_AT_FIRST <= positions[0][name] < positions[1][name]
    assert ebus("verify", "--backup", "backup").exit_code == 0
    assert ebus("restore", "--from", "backup", config="other.yaml").exit_code == 0
    with SqliteEngine(place / "data") as live, SqliteEngine(place / "other") as restored:
        for name in KEYS:
            position = positions[-1][name]
            assert live.open(name).head() >= position + BATCH_EVENTS
            assert restored.open(name).head() == position
            assert position % BATCH_EVENTS == 0, "a batch is there as a whole"
            there = list(events(restored.open(name), position))
            assert there == list(events(live.open(name), position))
            assert [event.position for event in there] == list(range(1, position + 1))


def back_up(place: Path) -> dict[str, int]:
    """Run the command, and say up to which positions."""
    arguments = ["backup", "--to", "backup", "--config", "tenants.yaml"]
    run = subprocess.run(
        [sys.executable, "-m", "ebus", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    manifest = json.loads((place / "backup" / "manifest.json").read_text())
    return {name: entry["position"] for name, entry in manifest["tenants"].items()}


def events(store: TenantStore, stop: int) -> Iterator[Event]:
    start: int | None = 1
    while start is not None:
        page = store.read(start, stop)
        yield from page.events
        start = page.next
