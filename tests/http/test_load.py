"""What goes wrong under load: full queues, clients that leave, held files, stops, slow readers."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import apsw
import pytest

from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.live_server import LiveServer, serving

PATIENT_MS = 600_000
"""Longer than any test holds a database."""

KEYS = {name: name[0] * 40 for name in ("alice", "bob", "carol")}


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


class Client:
    """One connection of one tenant, on which requests are sent and answers read by hand."""

    def __init__(
        self, server: LiveServer, tenant: str = "alice", *, receive_bytes: int | None = None
    ) -> None:
        self._tenant = tenant
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", server.port))
        self._stream: BinaryIO = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, method: str, path: str, body: object = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS[self._tenant]}\r\n"
        if content:
            head += f"Content-Length: {len(content)}\r\n"
        self.socket.sendall(f"{head}\r\n".encode() + content)

    def read(self) -> Answer | None:
        """The next answer, None when the connection ends without one."""
        try:
            status = self._stream.readline()
            if not status:
                return None
            fields = {}
            while (line := self._stream.readline()) != b"\r\n":
                name, _, value = line.decode().partition(":")
                fields[name.lower()] = value.strip()
            body = self._stream.read(int(fields.get("content-length", 0)))
        except ConnectionError:
            return None
        return Answer(int(status.split()[1]), fields, body)

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        self.send(method, path, body)
        answer = self.read()
        assert answer is not None, "no answer"
        return answer

    def append(self, data: object = None) -> Answer:
        return self.ask("POST", "/events", event(data))


def event(data: object = None) -> dict[str, Any]:
    return {"type": "T", "data": data, "timestamp": "2024-01-01T00:00:00Z"}


@contextmanager
def server_with(
    directory: Path, *, environment: dict[str, str] | None = None, **limits: int
) -> Iterator[LiveServer]:
    configure(directory, **limits)
    arguments = ["--config", "tenants.yaml"]
    with serving(arguments, cwd=directory, environment=environment) as server:
        yield server
    assert "Traceback" not in server.log


def configure(directory: Path, **limits: int) -> None:
    tenants = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    write_config(directory / "tenants.yaml", {"tenants": tenants, "limits": limits})


@contextmanager
def held(directory: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Another process holds alice's database. (Locks are of a connection, not of a process.)"""
    holder = apsw.Connection(str(directory / "data" / "alice.db"))
    holder.execute(f"BEGIN {how}")
    try:
        yield
    finally:
        holder.close()


def stored(directory: Path) -> list[Any]:
    """The data of alice's events in the order of their positions, read without ebus."""
    connection = sqlite3.connect(directory / "data" / "alice.db")
    rows = connection.execute("SELECT position, data FROM events ORDER BY position").fetchall()
    connection.close()
    assert [position for position, _ in rows] == list(range(1, len(rows) + 1))
    return [json.loads(data) for _, data in rows]


# A full queue


def test_a_full_queue_is_503_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with (
        server_with(tmp_path, max_queue_appends=5, busy_timeout_ms=PATIENT_MS) as server,
        ExitStack() as clients,
    ):
        connections = [clients.enter_context(Client(server)) for _ in range(40)]
        with held(tmp_path):
            for number, client in enumerate(connections):
                client.send("POST", "/events", event(number))
            # Those that are refused are told at once, while the others wait.
            refused = read_until(connections, lambda answers: len(answers) >= 30)
        answers = {**refused, **read_all(connections, set(range(40)) - set(refused))}
        assert {answer.status for answer in answers.values()} == {200, 503}
        assert {answer.status for answer in refused.values()} == {503}
        for answer in refused.values():
            assert answer.fields["retry-after"] == "1"
            assert json.loads(answer.body)["code"] == "store_overloaded"
        assert connections[0].append("after").status == 200
    acknowledged = {number for number, answer in answers.items() if answer.status == 200}
    assert sorted(stored(tmp_path)[:-1]) == sorted(acknowledged)


def read_until(
    clients: list[Client], enough: Callable[[dict[int, Answer]], bool]
) -> dict[int, Answer]:
    """Answers by client, in the order in which they come, until there are enough."""
    poll = select.poll()
    numbers = {client.socket.fileno(): number for number, client in enumerate(clients)}
    for descriptor in numbers:
        poll.register(descriptor, select.POLLIN)
    answers: dict[int, Answer] = {}
    while not enough(answers):
        ready = poll.poll(60_000)
        assert ready, "no more answers"
        for descriptor, _ in ready:
            answer = clients[numbers[descriptor]].read()
            assert answer is not None
            answers[numbers[descriptor]] = answer
            poll.unregister(descriptor)
    return answers


def read_all(clients: list[Client], numbers: set[int]) -> dict[int, Answer]:
    answers = {}
    for number in numbers:
        answer = clients[number].read()
        assert answer is not None
        answers[number] = answer
    return answers


# Clients that leave


@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_append_whose_client_left_is_stored_once_or_not_at_all(tmp_path: Path, how: str) -> None:
    with (
        server_with(tmp_path, busy_timeout_ms=PATIENT_MS) as server,
        Client(server) as staying,
    ):
        assert staying.append(-1).status == 200
        with held(tmp_path):
            leaving = [Client(server) for _ in range(20)]
            for number, client in enumerate(leaving):
                client.send("POST", "/events", event(number))
                if how == "reset":
                    client.socket.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                client.close()
            staying.send("POST", "/events", event(-2))
        answer = staying.read()
        assert answer is not None
        assert answer.status == 200
    data = stored(tmp_path)
    assert data[0] == -1
    assert len(set(data)) == len(data)
    assert set(data) <= {-1, -2, *range(20)}


# Groups


def test_bad_appends_in_a_group_harm_no_neighbour(tmp_path: Path) -> None:
    bad: dict[int, tuple[object, int]] = {
        3: (event("x" * 200), 413),
        7: ({**event(), "type": ""}, 400),
        11: ({**event(), "timestamp": "yesterday"}, 400),
    }
    with (
        server_with(tmp_path, max_event_bytes=100, busy_timeout_ms=PATIENT_MS) as server,
        ExitStack() as clients,
    ):
        connections = [clients.enter_context(Client(server)) for _ in range(20)]
        with held(tmp_path):  # so that they gather
            for number, client in enumerate(connections):
                body, _ = bad.get(number, (event(number), 200))
                client.send("POST", "/events", body)
        answers = read_all(connections, set(range(20)))
    for number, answer in answers.items():
        assert answer.status == bad.get(number, (None, 200))[1]
    assert sorted(stored(tmp_path)) == sorted(set(range(20)) - set(bad))


# A database that somebody else holds


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_database_that_is_held_too_long_is_503_and_works_again_afterwards(
    tmp_path: Path, how: str
) -> None:
    with server_with(tmp_path, busy_timeout_ms=50) as server, Client(server) as alice:
        assert alice.append(1).status == 200
        with held(tmp_path, how):
            refused = alice.append(2)
            assert refused.status == 503
            assert refused.fields["retry-after"] == "1"
            assert json.loads(refused.body)["code"] == "store_busy"
            assert alice.ask("GET", "/position").body == b'{"position":1}'
        assert alice.append(3).status == 200
    assert stored(tmp_path) == [1, 3]


def test_others_are_served_while_a_database_is_held(tmp_path: Path) -> None:
    with (
        server_with(tmp_path, busy_timeout_ms=PATIENT_MS) as server,
        Client(server) as alice,
        Client(server, "bob") as bob,
    ):
        with held(tmp_path):
            alice.send("POST", "/events", event("waits"))
            for position in range(1, 51):
                assert json.loads(bob.append().body)["position"] == position
            assert bob.ask("GET", "/health").status == 200
        answer = alice.read()
        assert answer is not None
        assert answer.status == 200


# Stops


class Load:
    """Appends that many connections send one after the other, until the server ends them.

    Every request that was sent is one of these: acknowledged, refused, or without an answer.
    """

    def __init__(self, server: LiveServer, *, connections: int = 16) -> None:
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.unanswered: list[tuple[int, bool]] = []
        """With whether all of it was sent before the stop was asked for."""
        self.stop_asked = threading.Event()
        self._numbers = iter(range(10**9))
        self._threads = [
            threading.Thread(target=self._append, args=(Client(server),))
            for _ in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def _append(self, client: Client) -> None:
        with client:
            while True:
                number = next(self._numbers)
                try:
                    client.send("POST", "/events", event(number))
                except OSError:
                    return
                early = not self.stop_asked.is_set()
                answer = client.read()
                if answer is None:
                    self.unanswered.append((number, early))
                    return
                (self.acknowledged if answer.status == 200 else self.refused).append(number)
                if answer.fields.get("connection") == "close":
                    return

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


def test_a_stop_answers_each_request_and_what_it_acknowledged_is_there_after_a_restart(
    tmp_path: Path,
) -> None:
    with server_with(tmp_path) as server:
        load = Load(server)
        wait_until(lambda: len(load.acknowledged) > 200)
        load.stop_asked.set()
        assert server.stop() == 0
        load.join()
    assert [number for number, early in load.unanswered if early] == []
    with server_with(tmp_path) as server, Client(server) as alice:
        head = json.loads(alice.ask("GET", "/position").body)["position"]
        assert head >= len(load.acknowledged)
    data = stored(tmp_path)
    assert len(set(data)) == len(data)
    assert set(load.acknowledged) <= set(data)
    assert set(load.refused).isdisjoint(data)
    assert {number for number, _ in load.unanswered}.isdisjoint(data)


def test_a_stop_while_a_group_waits_answers_each_of_it(tmp_path: Path) -> None:
    with (
        server_with(tmp_path, busy_timeout_ms=PATIENT_MS) as server,
        ExitStack() as clients,
    ):
        connections = [clients.enter_context(Client(server)) for _ in range(20)]
        for client in connections:
            assert client.ask("GET", "/position").status == 200
        with held(tmp_path):
            for number, client in enumerate(connections):
                client.send("POST", "/events", event(number))
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "Shutting down server..." in server.log)
        answers = read_all(connections, set(range(20)))
        assert server.process.wait(60) == 0
    acknowledged = [number for number, answer in answers.items() if answer.status == 200]
    assert len(acknowledged) == 20
    assert sorted(stored(tmp_path)) == acknowledged


def test_a_stop_while_a_database_is_held_refuses_what_cannot_be_stored(tmp_path: Path) -> None:
    environment = {"SHUTDOWN_TIMEOUT": "300ms"}
    with server_with(tmp_path, environment=environment, busy_timeout_ms=100) as server:
        with Client(server) as first, Client(server) as second, held(tmp_path):
            for client in (first, second):
                assert client.ask("GET", "/position").status == 200
                client.send("POST", "/events", event())
            server.process.send_signal(signal.SIGTERM)
            answers = [client.read() for client in (first, second)]
            assert server.process.wait(60) == 0
    assert [answer and answer.status for answer in answers] == [503, 503]
    assert stored(tmp_path) == []


# Slow readers


KIB = 1024


def slow_stream(server: LiveServer) -> Client:
    """A stream that has begun, and whose client takes next to nothing of it."""
    client = Client(server, receive_bytes=4_096)
    client.send("GET", "/events/stream?from=1")
    assert client.socket.recv(1) == b"H"
    return client


def fill(client: Client, *, mib: int) -> None:
    for _ in range(mib):
        batch = [event("x" * 10_000)] * 100
        assert client.ask("POST", "/events/batch", batch).status == 200


def wal_bytes(directory: Path) -> int:
    return (directory / "data" / "alice.db-wal").stat().st_size


def times_wal_begun(directory: Path) -> int:
    """How often the WAL was begun anew (sqlite.org/fileformat2.html, "WAL header")."""
    with (directory / "data" / "alice.db-wal").open("rb") as wal:
        return int.from_bytes(wal.read(16)[12:], "big")


def test_the_wal_stays_bounded_while_a_slow_reader_streams_under_full_write_load(
    tmp_path: Path,
) -> None:
    with server_with(tmp_path, wal_checkpoint_bytes=256 * KIB) as server:
        with Client(server) as writer:
            fill(writer, mib=20)
            with slow_stream(server) as stream:
                begun = times_wal_begun(tmp_path)
                sizes = []
                for _ in range(40):
                    fill(writer, mib=1)
                    sizes.append(wal_bytes(tmp_path))
                    assert len(stream.socket.recv(1 * KIB)) > 0
                assert times_wal_begun(tmp_path) > begun
                assert max(sizes) < 20 * KIB * KIB


def test_a_stream_that_is_left_half_way_lets_its_tenant_be_closed(tmp_path: Path) -> None:
    with server_with(tmp_path, max_open_tenants=1, max_eager_tenants=1) as server:
        with Client(server) as alice, Client(server, "bob") as bob:
            fill(alice, mib=20)
            with slow_stream(server):
                for _ in range(5):
                    assert bob.append().status == 200
                    assert "alice.db" in open_databases(server)

            def alice_is_closed() -> bool:
                # Which tenant stays is only asked when another is used.
                with Client(server, "carol") as carol:
                    assert carol.append().status == 200
                assert bob.append().status == 200
                return "alice.db" not in open_databases(server)

            wait_until(alice_is_closed)
            assert json.loads(alice.ask("GET", "/position").body)["position"] == 2_000


def open_databases(server: LiveServer) -> set[str]:
    names = set()
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.add(Path(os.readlink(descriptor)).name)
    return {name for name in names if name.endswith(".db")}


def test_streams_that_are_left_half_way_hold_no_thread(tmp_path: Path) -> None:
    """There are two threads that read, and ten streams that nobody reads any more."""
    with server_with(tmp_path, max_read_threads=2, max_tenant_reads=1) as server:
        with Client(server) as alice:
            fill(alice, mib=10)
            streams = [slow_stream(server) for _ in range(10)]
            assert len(json.loads(alice.ask("GET", "/events?from=1&to=300").body)) == 300
            for stream in streams:
                stream.close()
            assert len(json.loads(alice.ask("GET", "/events?from=1&to=300").body)) == 300


def test_a_slow_reader_takes_little_memory(tmp_path: Path) -> None:
    with server_with(tmp_path) as server, Client(server) as writer:
        fill(writer, mib=60)
        before = server.resident_bytes
        with slow_stream(server) as stream:
            for _ in range(20):
                assert len(stream.socket.recv(1 * KIB)) > 0
                assert writer.ask("GET", "/position").status == 200
            assert server.resident_bytes < before + 30 * KIB * KIB
