"""A tenant moves from one server to another while it is written to, without losing anything."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from ebus.backends.sqlite import SqliteEngine
from ebus.core.engine import open_engine
from ebus.testing.events import new_event
from tests.http.conftest import write_config
from tests.live_server import LiveServer, start
from tests.moving.logs import exported, fill, named
from tests.nats import fixtures
from tests.nats.servers import NatsServer

nats_directory = fixtures.nats_directory
nats_server = fixtures.nats_server

KEY = "k" * 40
TIMEOUT_S = 60.0


def wait_until(is_so: Callable[[], object]) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.01)


class Server:
    """An `ebus` of one tenant, whose config is written anew."""

    def __init__(self, directory: Path, engine: str, **more: Any) -> None:
        directory.mkdir()
        self.path = directory / "tenants.yaml"
        self._engine = engine
        self._write(**more)
        arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1", "--port", "0"]
        self.live: LiveServer = start(arguments, cwd=directory)
        self.live.wait_until_listening()

    def _write(self, **more: Any) -> None:
        tenants = [{"name": "alice", "api_key": KEY}]
        config = {"engine": self._engine, "watch_config": False, "tenants": tenants, **more}
        write_config(self.path, config)

    def reload(self, **more: Any) -> None:
        """Returns once it holds for every worker."""
        generation = self._generation()
        self._write(**more)
        self.live.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self._generation() > generation)

    def _generation(self) -> int:
        details = httpx.get(f"{self.live.url}/health?details=true", timeout=TIMEOUT_S).json()
        generation: int = details["config"]["generation"]
        return generation

    def close(self) -> None:
        assert self.live.stop() == 0, self.live.log
        self.live.kill()


class Writer:
    """Appends one event after the other over HTTP, to where it is told, until it is stopped."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stored: dict[int, int] = {}
        """Number → position, of what was acknowledged."""
        self.refused = 0
        self.troubles: list[str] = []
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S, headers={"X-API-Key": KEY}) as client:
            for number in count(1):
                while True:
                    event = {"type": "T", "data": number, "id": f"w-{number}", "stream": "s"}
                    answer = client.post(f"{self.url}/events", json=event)
                    if answer.status_code == 200:
                        self.stored[number] = answer.json()["position"]
                        break
                    if answer.json()["code"] != "read_only":
                        self.troubles.append(answer.text)
                        return
                    self.refused += 1
                    time.sleep(0.01)
                if number % 50 == 0:
                    path = f"{self.url}/subscriptions/mailer/position"
                    client.post(path, json={"position": number // 2})
                if self._is_stopped:
                    return

    def stop(self) -> None:
        self._is_stopped = True
        self._thread.join()


@contextmanager
def following(
    source: str, target: str, *options: str
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`ebus copy --follow`, and what it says."""
    command = [sys.executable, "-m", "ebus", "copy", source, target, "--follow", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=said.extend, args=(process.stdout,))
    reader.start()
    try:
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_tenant_moves_to_a_cluster_and_back_while_it_is_written_to(
    nats_server: NatsServer, tmp_path: Path, closing: ExitStack
) -> None:
    sqlite, nats = f"sqlite:{tmp_path}/data", f"{nats_server.url}?prefix=inuse"
    with SqliteEngine(tmp_path / "data") as engine:
        fill(engine.open("alice"), named(3_000))
    one = Server(tmp_path / "one", sqlite)
    closing.callback(one.close)
    other = Server(tmp_path / "other", nats, read_only=True)
    closing.callback(other.close)
    writer = Writer(one.live.url)
    closing.callback(writer.stop)
    for source, target, here, there in (
        (sqlite, nats, one, other),
        (nats, f"sqlite:{tmp_path}/back", other, None),
    ):
        wait_until(lambda: len(writer.stored) % 100 > 50 or writer.troubles)
        with following(source, target) as (process, said):
            wait_until(lambda: "Caught up" in "".join(said) or process.poll() is not None)
            before = len(writer.stored)
            wait_until(lambda: len(writer.stored) > before + 20 or writer.troubles)
            here.reload(read_only=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 0, said
        if there is not None:
            writer.url = there.live.url
            there.reload(read_only=False)
            moved_at = len(writer.stored)
            wait_until(lambda: len(writer.stored) > moved_at + 60 or writer.troubles)
    here.reload(read_only=False)
    writer.stop()
    assert writer.troubles == []
    assert writer.refused > 0
    last = max(number for number, at in writer.stored.items())
    assert list(writer.stored) == list(range(1, last + 1))
    assert list(writer.stored.values()) == list(range(3_001, 3_001 + last))
    with open_engine(nats) as engine, SqliteEngine(tmp_path / "back") as back:
        whole, store = engine.open("alice"), back.open("alice")
        head = store.head()
        assert exported(store).splitlines() == exported(whole).splitlines()[:head]
        events = whole.read(3_001).events
        assert [it.id for it in events] == [f"w-{n}" for n in range(1, len(events) + 1)]


def test_a_source_that_is_written_to_until_the_end_is_told_and_others_are_done(
    tmp_path: Path,
) -> None:
    source, target = f"sqlite:{tmp_path}/data", f"sqlite:{tmp_path}/target"
    is_over = threading.Event()
    with SqliteEngine(tmp_path / "data", durability="normal") as engine:
        alice, bob = engine.open("alice"), engine.open("bob")
        fill(bob, named(10))

        def write() -> None:
            while not is_over.is_set():
                alice.append([new_event()])

        thread = threading.Thread(target=write)
        thread.start()
        try:
            with following(source, target, "--all") as (process, said):
                wait_until(lambda: "Caught up" in "".join(said) or process.poll() is not None)
                fill(engine.open("carol"), named(20))  # who comes later
                wait_until((tmp_path / "target" / "carol.db").exists)
                process.send_signal(signal.SIGINT)
                assert process.wait(TIMEOUT_S) == 1, said
        finally:
            is_over.set()
            thread.join()
        assert "alice: the source was written to until the end" in "".join(said)
        assert "1 of 3 tenants were not copied" in "".join(said)
        with SqliteEngine(tmp_path / "target") as there:
            for name in ("bob", "carol"):
                assert exported(there.open(name)) == exported(engine.open(name))
            copied = exported(there.open("alice"))
        assert exported(alice).startswith(copied)
