"""`ebus serve --workers 2`: several processes that look like one from outside."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.backends.test_sqlite_takeover import original_file, row
from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.live_server import LiveServer, start

KEY = {"X-API-Key": "a" * 40}
EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With the config of a single tenant in it."""
    tenants = [{"name": "alice", "api_key": KEY["X-API-Key"]}]
    write_config(tmp_path / "tenants.yaml", {"tenants": tenants, "durability": "normal"})
    return tmp_path


def started(directory: Path, *, port: int = 0, workers: int = 2) -> LiveServer:
    arguments = ["serve", "--config", "tenants.yaml", "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--workers", str(workers)]
    return start(arguments, cwd=directory, environment={"SHUTDOWN_TIMEOUT": "20s"})


@contextmanager
def serving(directory: Path) -> Iterator[LiveServer]:
    """Two workers that serve. However the block leaves them, none of them outlives it."""
    server = started(directory)
    try:
        server.wait_until_listening()
        yield server
    finally:
        workers = workers_of(server) if server.process.poll() is None else []
        server.kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def workers_of(server: LiveServer) -> list[int]:
    process = server.process.pid
    return [int(it) for it in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Writers:
    """Threads that append, each over connections of its own, until they are told to stop.

    A request that got no answer is one of which nobody knows, and is not counted.
    """

    def __init__(self, server: LiveServer, *, threads: int = 4) -> None:
        self.positions: list[int] = []
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._append) for _ in range(threads)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, more: int) -> None:
        wanted = len(self.positions) + more
        wait_until(lambda: len(self.positions) >= wanted)

    def _append(self) -> None:
        while not self._stop.is_set():
            # A connection is one worker's: many short ones meet all of them.
            with suppress(OSError, http.client.HTTPException), connected(self._server) as client:
                for _ in range(5):
                    status, answer = append(client)
                    if status == 200:
                        self.positions.append(answer["position"])


@contextmanager
def connected(server: LiveServer) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    client: http.client.HTTPConnection, method: str, path: str, body: object = None
) -> tuple[int, Any]:
    """The status and the document of the answer."""
    client.request(method, path, None if body is None else json.dumps(body), KEY)
    answer = client.getresponse()
    return answer.status, json.loads(answer.read())


def append(client: http.client.HTTPConnection) -> tuple[int, Any]:
    return ask(client, "POST", "/events", EVENT)


def stored(directory: Path) -> list[int]:
    connection = sqlite3.connect(directory / "data" / "alice.db")
    positions = [position for (position,) in connection.execute("SELECT position FROM events")]
    connection.close()
    return positions


def assert_all_stored(directory: Path, acknowledged: list[int]) -> None:
    """Positions are contiguous, each given out once, and nothing acknowledged is missing."""
    positions = stored(directory)
    assert positions == list(range(1, len(positions) + 1))
    assert len(acknowledged) == len(set(acknowledged))
    assert set(acknowledged) <= set(positions)


# Serving


def test_two_workers_give_out_one_numbering(directory: Path) -> None:
    with serving(directory) as server:
        workers = workers_of(server)
        assert len(workers) == 2
        before = [writes_of(worker) for worker in workers]
        with Writers(server) as writers:
            for worker, writes in zip(workers, before, strict=True):
                wait_until(lambda: writes_of(worker) > writes + 100)  # noqa: B023
        with connected(server) as client:
            head = ask(client, "GET", "/position")
        assert head == (200, {"position": len(writers.positions)})
        assert server.stop() == 0
    assert sorted(writers.positions) == list(range(1, len(writers.positions) + 1))
    assert_all_stored(directory, writers.positions)


def writes_of(process: int) -> int:
    """How often this process has written, to files and sockets."""
    counters = Path(f"/proc/{process}/io").read_text()
    match = re.search(r"^syscw: (\d+)$", counters, re.MULTILINE)
    assert match is not None
    return int(match[1])


def test_what_one_worker_acknowledged_every_worker_shows_at_once(directory: Path) -> None:
    with serving(directory) as server:
        for position in range(1, 51):
            with connected(server) as client:
                assert append(client)[1]["position"] == position
            with connected(server) as client:
                assert ask(client, "GET", "/position")[1]["position"] == position
                assert len(ask(client, "GET", f"/events?from={position}")[1]) == 1
        assert server.stop() == 0


def test_the_start_is_told_once(directory: Path) -> None:
    with serving(directory) as server:
        assert server.stop() == 0
    told = [re.sub(r"^[^ ]+ [^ ]+ |\d+$", "", line) for line in server.lines]
    # A worker says this, and the rest its parent, which it does not wait for.
    told.remove("What an acknowledgement is worth: survives the process, not a power cut")
    assert told == [
        "=== ebus Multi-Tenant Server ===",
        "Config file: tenants.yaml",
        "Initialized 1 tenants: [alice]",
        "Data directory: data",
        "Server listening on 127.0.0.1:",
        "Shutting down server...",
        "Server stopped",
    ]


def test_the_first_start_on_a_file_of_the_original_server_takes_it_over_once(
    directory: Path,
) -> None:
    original_file(directory / "data", [row(position) for position in range(1, 8)], name="alice")
    with serving(directory) as server:
        with connected(server) as client:
            assert append(client)[1]["position"] == 8
        assert server.stop() == 0
    assert server.log.count("took over all 7 events") == 1
    assert stored(directory) == list(range(1, 9))


# A worker that dies


def test_a_worker_that_is_killed_is_replaced_and_nothing_acknowledged_is_lost(
    directory: Path,
) -> None:
    with serving(directory) as server:
        killed, other = workers_of(server)
        before = max(writes_of(killed), writes_of(other))
        with Writers(server) as writers:
            writers.wait_for(20)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: f"(process {killed}) ended with SIGKILL" in server.log)
            wait_until(lambda: len(workers_of(server)) == 2)
            [new] = set(workers_of(server)) - {other}
            wait_until(lambda: writes_of(new) > before + 100)
        assert server.stop() == 0
    assert_all_stored(directory, writers.positions)


# The end


def test_a_stop_under_load_stops_all_and_loses_nothing_acknowledged(directory: Path) -> None:
    with serving(directory) as server:
        workers = workers_of(server)
        with Writers(server) as writers:
            writers.wait_for(50)
            assert server.stop() == 0
        assert all(map(has_ended, workers))
    assert_all_stored(directory, writers.positions)
    assert [file.name for file in (directory / "data").iterdir()] == ["alice.db"]


def test_ctrl_c_reaches_every_process_and_stops_them_cleanly(directory: Path) -> None:
    command = [sys.executable, "-m", "ebus", "serve", "--config", "tenants.yaml"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", "--workers", "2"],
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the signal must not reach the test itself
    )
    server = LiveServer(process)
    try:
        server.wait_until_listening()
        with Writers(server) as writers:
            writers.wait_for(20)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        server.kill()
    assert server.lines[-1].endswith("Server stopped")
    assert "Traceback" not in server.log
    assert_all_stored(directory, writers.positions)


def test_when_the_first_process_is_killed_the_workers_stop_by_themselves(directory: Path) -> None:
    with serving(directory) as server:
        workers = workers_of(server)
        try:
            with Writers(server) as writers:
                writers.wait_for(20)
                server.process.kill()
                wait_until(lambda: all(map(has_ended, workers)))
        finally:
            for worker in workers:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
    assert_all_stored(directory, writers.positions)
    assert [file.name for file in (directory / "data").iterdir()] == ["alice.db"]


def test_a_second_signal_ends_all_at_once(directory: Path) -> None:
    """What is under way would otherwise have 20 s."""
    with serving(directory) as server, half_sent(server):
        workers = workers_of(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: sum(map(has_ended, workers)) == 1)  # the other waits for the request
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert all(map(has_ended, workers))


def test_a_request_that_is_under_way_when_all_stop_is_still_answered(directory: Path) -> None:
    with serving(directory) as server, half_sent(server) as connection:
        workers = workers_of(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: sum(map(has_ended, workers)) == 1)
        connection.sendall(b"}")
        assert connection.recv(1_024).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0
    assert stored(directory) == [1]


def half_sent(server: LiveServer) -> socket.socket:
    """A request that a worker has begun to read, and waits for the end of."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head = (
        f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY['X-API-Key']}\r\n"
        "Expect: 100-continue\r\nContent-Length: 21\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1_024).startswith(b"HTTP/1.1 100 ")
    connection.sendall(b'{"type":"T","data":1')
    return connection


# Starts that fail


def test_a_start_that_fails_says_why_once_and_leaves_no_process(directory: Path) -> None:
    (directory / "data").mkdir()
    foreign = sqlite3.connect(directory / "data" / "alice.db")
    foreign.execute("CREATE TABLE invoices (number)")
    foreign.close()
    server = started(directory)
    try:
        assert server.process.wait(60) == 1
    finally:
        server.kill()
    assert server.log.count("alice.db is a SQLite database of another program") == 1
    assert "Traceback" not in server.log


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_refused(directory: Path, workers: int) -> None:
    with serving(directory) as first:
        second = started(directory, port=first.port, workers=workers)
        try:
            assert second.process.wait(60) == 1
        finally:
            second.kill()
        assert f"Failed to listen on 127.0.0.1:{first.port}: address already in use" in second.log
        assert first.stop() == 0
