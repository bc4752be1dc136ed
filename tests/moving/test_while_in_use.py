"""A tenant that is written to moves to another server as the docs say, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

import httpx
import pytest

from ebus.backends.sqlite import SqliteEngine
from ebus.core.engine import open_engine
from ebus.testing.events import new_event
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


def wait_until_caught_up(process: subprocess.Popen[str], said: list[str]) -> None:
    wait_until(lambda: "Caught up" in "".join(said) or process.poll() is not None)


class Server:
    """An `ebus` of one tenant."""

    def __init__(self, directory: Path, engine: str, *, read_only: bool) -> None:
        directory.mkdir()
        self.config = directory / "tenants.yaml"
        self.config.write_text(
            f"engine: {engine}\nwatch_config: false\nread_only: {str(read_only).lower()}\n"
            f"tenants: [{{name: alice, api_key: {KEY}}}]\n"
        )
        self.config.chmod(0o600)
        arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1", "--port", "0"]
        self.live: LiveServer = start(arguments, cwd=directory)
        self.live.wait_until_listening()

    def close(self) -> None:
        assert self.live.stop() == 0, self.live.log
        self.live.kill()


def move_as_documented(directory: Path, source: str, target: str, old: Server, new: Server) -> str:
    """Run the script of docs/moving.md; returns what the copy has said."""
    page = Path(__file__, "../../../docs/moving.md").resolve().read_text()
    [script] = re.findall("```bash\n(set -e\n.*?)```", page, re.DOTALL)
    directory.mkdir()
    for name, server in (("old.yaml", old), ("new.yaml", new)):
        (directory / name).symlink_to(server.config)
    ran = subprocess.run(
        ["bash", "-c", script.replace("sed -i", "sed -i --follow-symlinks")],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SOURCE": source,
            "TARGET": target,
            "OLD": old.live.url,
            "OLD_PID": str(old.live.process.pid),
            "NEW": new.live.url,
            "NEW_PID": str(new.live.process.pid),
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + (directory / "copy.log").read_text()
    return ran.stdout


class Writer:
    """Appends one event after the other over HTTP, as through a proxy to one of two servers."""

    def __init__(self, *servers: Server) -> None:
        self.servers = [it.live.url for it in servers]
        """The next one is tried when the first one has writers wait."""
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
                event = {"type": "T", "data": number, "id": f"w-{number}", "stream": "s"}
                position = self._surely(client, "events", event).get("position")
                if position is None or self._is_stopped:
                    return
                self.stored[number] = position
                if number % 20 == 0:
                    saved = {"position": number // 2}
                    self._surely(client, "subscriptions/mailer/position", saved)

    def _surely(self, client: httpx.Client, path: str, body: object) -> dict[str, int]:
        while not self._is_stopped:
            answer = client.post(f"{self.servers[0]}/{path}", json=body)
            if answer.is_success:
                return answer.json() if answer.content else {}
            if answer.json()["code"] != "read_only":
                self.troubles.append(answer.text)
                break
            self.refused += 1
            self.servers.append(self.servers.pop(0))
        return {}

    def wait_for(self, more: int) -> None:
        """Until so many more are stored."""
        enough = len(self.stored) + more
        wait_until(lambda: len(self.stored) >= enough or self.troubles)

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
    first, second = f"sqlite:{tmp_path}/data", f"sqlite:{tmp_path}/back"
    nats = f"{nats_server.url}?prefix=inuse"
    with SqliteEngine(tmp_path / "data") as engine:
        fill(engine.open("alice"), named(2_500))
    one = Server(tmp_path / "one", first, read_only=False)
    closing.callback(one.close)
    two = Server(tmp_path / "two", nats, read_only=True)
    closing.callback(two.close)
    three = Server(tmp_path / "three", second, read_only=True)
    closing.callback(three.close)
    writer = Writer(one, two, three)
    closing.callback(writer.stop)
    there = move_as_documented(tmp_path / "there", first, nats, one, two)
    writer.wait_for(50)
    back = move_as_documented(tmp_path / "again", nats, second, two, three)
    writer.wait_for(50)
    writer.stop()
    assert writer.troubles == []
    assert writer.refused > 0
    last = len(writer.stored)
    assert list(writer.stored.items()) == [(n, 2_500 + n) for n in range(1, last + 1)]
    with open_engine(first) as old, open_engine(nats) as middle, open_engine(second) as new:
        stores = [engine.open("alice") for engine in (old, middle, new)]
        wires_of = [exported(store).splitlines(keepends=True) for store in stores]
        saved = [store.checkpoint("mailer") for store in stores]
    assert wires_of[0] == wires_of[2][: len(wires_of[0])]
    assert wires_of[1] == wires_of[2][: len(wires_of[1])]
    assert sha256(b"".join(wires_of[0])).hexdigest() in there
    assert sha256(b"".join(wires_of[1])).hexdigest() in back
    assert len(wires_of[2]) - 2_500 - last in {0, 1}  # the last answer may not have been waited for
    assert saved == sorted(saved, key=lambda it: it or 0)
    assert last - 40 < 2 * (saved[2] or 0) <= last


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
            # Whoever writes may by chance not get a turn just before the end, but not each time.
            status, attempts = 0, 0
            while status == 0 and attempts < 20:
                attempts += 1
                with following(source, target, "--all") as (process, said):
                    wait_until_caught_up(process, said)
                    if attempts == 1:
                        fill(engine.open("carol"), named(20))  # who comes later
                    wait_until((tmp_path / "target" / "carol.db").exists)
                    process.send_signal(signal.SIGINT)
                    status = process.wait(TIMEOUT_S)
            assert status == 1, said
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
