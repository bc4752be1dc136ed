"""What many clients, or slow ones, can take of a server: a bounded part, and others are served."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.http.conftest import write_config
from tests.http.test_load import Answer, Client, held
from tests.http.test_settings import wait_until
from tests.live_server import LiveServer, serving

KEYS = {name: name[0] * 40 for name in ("alice", "bob", "carol")}
KIB, MIB = 1024, 1024 * 1024


@contextmanager
def server_with(
    directory: Path, *, engine: str = "memory", **settings: str
) -> Iterator[LiveServer]:
    tenants = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    write_config(directory / "tenants.yaml", {"engine": engine, "tenants": tenants})
    arguments = ["--config", "tenants.yaml"]
    with serving(arguments, cwd=directory, environment=settings) as server:
        yield server
    assert "Traceback" not in server.log


def large_event(size: int) -> dict[str, object]:
    return {"type": "T", "data": "x" * size}


def batch(size: int) -> list[dict[str, object]]:
    """A body of this many bytes or a little more."""
    return [large_event(MIB // 2)] * (2 * size // MIB) + [large_event(0)]


def begin_body(client: Client, tenant: str, announced: int, sent: int = 0) -> None:
    """Send a head and so much of its body."""
    head = (
        f"POST /events/batch HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS[tenant]}\r\n"
        f"Content-Length: {announced}\r\n\r\n"
    )
    client.socket.sendall(head.encode() + b" " * sent)


def code(answer: Answer | None) -> str:
    assert answer is not None
    found = json.loads(answer.body)["code"]
    assert isinstance(found, str)
    return found


def assert_overloaded(answer: Answer | None) -> None:
    assert answer is not None
    assert (answer.status, code(answer)) == (503, "server_overloaded")
    assert answer.fields["retry-after"] == "1"


# Slow bodies


class Trickle:
    """Connections on which a large body each comes at 1 kB/s, until the server ends them."""

    def __init__(self, server: LiveServer, count: int, *, at_once: int) -> None:
        self.answers: list[bytes] = []
        self._open: list[socket.socket] = []
        for _ in range(count):
            client = Client(server)
            begin_body(client, "alice", 16 * MIB, at_once)
            client.socket.setblocking(False)
            self._open.append(client.socket)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        poll = select.poll()
        by_number = {connection.fileno(): connection for connection in self._open}
        for number in by_number:
            poll.register(number, select.POLLIN)
        pause = threading.Event()
        while by_number:
            for number, _ in poll.poll(0):
                with suppress(ConnectionError):
                    self.answers.append(by_number[number].recv(4 * KIB))
                poll.unregister(number)
                by_number.pop(number).close()
            for connection in by_number.values():
                with suppress(OSError):
                    connection.send(b" " * 100)
            pause.wait(0.1)


@pytest.mark.parametrize("at_once", [0, 1 * MIB], ids=["slow", "fast at first"])
def test_500_large_bodies_at_1_kb_a_second_take_little_memory_and_no_good_clients_place(
    tmp_path: Path, at_once: int
) -> None:
    settings = {"READ_TIMEOUT": "4s", "MAX_INFLIGHT_BODY_BYTES": str(64 * MIB)}
    with (
        server_with(tmp_path, engine="sqlite", **settings) as server,
        Client(server, "bob") as bob,
    ):
        assert bob.append().status == 200
        before = server.resident_bytes
        trickle = Trickle(server, 500, at_once=at_once)
        served, most = 0, 0
        while trickle.goes_on:
            assert bob.append().status == 200
            assert bob.ask("POST", "/events/batch", batch(256 * KIB)).status == 200
            with Client(server) as alice:
                assert alice.append().status == 200
            assert bob.ask("GET", "/health").status == 200
            most = max(most, server.resident_bytes)
            served += 1
        assert served > 10
        statuses = [answer[9:12] for answer in trickle.answers]
        assert set(statuses) <= {b"408", b"503"}
        assert b"408" in statuses
        assert most < before + 128 * MIB
        # All of it is free again.
        with Client(server) as alice:
            assert alice.ask("POST", "/events/batch", batch(15 * MIB)).status == 200


def test_a_body_that_trickles_in_is_408_however_steadily_it_comes(tmp_path: Path) -> None:
    body = json.dumps(large_event(0)).encode().ljust(10_000)
    with server_with(tmp_path, READ_TIMEOUT="500ms") as server, Client(server) as client:
        head = f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEYS['alice']}\r\n"
        client.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for byte in body:
            client.socket.sendall(bytes([byte]))
            if select.select([client.socket], [], [], 0.01)[0]:
                break
        answer = client.read()
        assert answer is not None
        assert (answer.status, code(answer)) == (408, "request_timeout")
        assert client.read() is None


# Bytes of bodies


FULL = {"MAX_INFLIGHT_BODY_BYTES": str(4 * MIB)}


@contextmanager
def full_of(server: LiveServer, tenant: str, *sizes: int) -> Iterator[list[Client]]:
    """Bodies of a tenant that have come so far, and do not go on."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server, tenant)) for _ in sizes]
        for client, size in zip(clients, sizes, strict=True):
            begin_body(client, tenant, 8 * MIB, size)
            wait_until_read(server, client)
        yield clients


def wait_until_read(server: LiveServer, client: Client) -> None:
    """Until the server has looked at all that the client has sent it."""
    wait_until_taken(client)
    with Client(server) as other:  # whoever asks later is answered after all that was taken
        assert other.ask("GET", "/health").status == 200


def wait_until_taken(client: Client) -> None:
    """Until the server has taken from the kernel all that the client has sent it."""
    own, remote = client.socket.getsockname()[1], client.socket.getpeername()[1]
    ends = {f":{own:04X} :{remote:04X}": slice(0, 8), f":{remote:04X} :{own:04X}": slice(9, 17)}

    def is_taken() -> bool:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, other, _, queues, *_ = line.split()
            queue = ends.get(f"{local[8:]} {other[8:]}")
            if queue is not None and queues[queue] != "00000000":
                return False
        return True

    wait_until(is_taken)


def test_a_body_beyond_the_bound_is_503_and_small_ones_are_not(tmp_path: Path) -> None:
    with (
        server_with(tmp_path, **FULL) as server,
        full_of(server, "alice", 2 * MIB, 1536 * KIB),
        Client(server) as alice,
    ):
        assert_overloaded(alice.ask("POST", "/events/batch", batch(1 * MIB)))
        assert alice.append().status == 200  # on the same connection
        assert alice.ask("POST", "/events", large_event(60 * KIB)).status == 200
        body = json.dumps(large_event(60 * KIB)).encode()
        begin_body(alice, "alice", len(body) + 2)
        for piece in (b"[", body[:100], body[100:30_000], body[30_000:], b"]"):
            alice.socket.sendall(piece)
            wait_until_read(server, alice)
        answer = alice.read()
        assert answer is not None
        assert answer.status == 200


def test_what_a_client_held_that_leaves_half_way_is_free_again(tmp_path: Path) -> None:
    with server_with(tmp_path, **FULL) as server, Client(server) as alice:
        for _ in range(3):
            with full_of(server, "alice", 2 * MIB, 1536 * KIB):
                assert alice.ask("POST", "/events/batch", batch(1 * MIB)).status == 503
            wait_until(lambda: alice.ask("POST", "/events/batch", batch(3 * MIB)).status == 200)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/events/batch", batch(3 * MIB), 200),
        ("/events/batch", [None] * MIB, 400),
        ("/subscriptions/s/position", " " * 3 * MIB, 400),
        ("/nowhere", batch(3 * MIB), 404),
    ],
)
def test_what_a_request_held_is_free_once_it_is_answered(
    tmp_path: Path, path: str, body: object, status: int
) -> None:
    with server_with(tmp_path, **FULL) as server, Client(server) as alice:
        for _ in range(4):
            assert alice.ask("POST", path, body).status == status
        with full_of(server, "bob", 1 * MIB):
            assert alice.ask("POST", "/events/batch", batch(2 * MIB)).status == 200


def test_a_body_that_has_the_room_to_itself_may_be_larger_than_that(tmp_path: Path) -> None:
    with server_with(tmp_path, MAX_INFLIGHT_BODY_BYTES="1") as server, Client(server) as alice:
        assert alice.ask("POST", "/events/batch", batch(3 * MIB)).status == 200
        with full_of(server, "alice", 1 * MIB):
            assert_overloaded(alice.ask("POST", "/events/batch", batch(1 * MIB)))


def test_the_tenant_that_holds_most_gives_way_to_others(tmp_path: Path) -> None:
    with (
        server_with(tmp_path, **FULL) as server,
        full_of(server, "alice", 1 * MIB, 1280 * KIB, 1 * MIB) as bodies,
        full_of(server, "carol", 512 * KIB),
        Client(server, "bob") as bob,
    ):
        assert bob.ask("POST", "/events/batch", batch(1 * MIB)).status == 200
        assert_overloaded(bodies[1].read())  # the largest of them
        for client in (bodies[0], bodies[2]):
            assert select.select([client.socket], [], [], 0)[0] == []


# Connections


def take_all(server: LiveServer, stack: ExitStack, count: int) -> list[Client]:
    return [stack.enter_context(Client(server)) for _ in range(count)]


def is_closed(client: Client) -> bool:
    """Whether the server has closed the connection, without having said anything."""
    return bool(select.select([client.socket], [], [], 0)[0]) and client.socket.recv(1) == b""


def test_clients_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    with server_with(tmp_path, MAX_CONNECTIONS="50") as server, ExitStack() as stack:
        silent = take_all(server, stack, 500)
        with Client(server) as alice:
            wait_until(lambda: tries(server, "alice"))
            for client in silent[:100]:
                with suppress(OSError):
                    client.socket.sendall(b"GET / HTTP/1.1\r\nX: ")  # or half of it
            for _ in range(50):
                wait_until(lambda: tries(server, "alice"))
        assert sockets(server) < 50 + 128 + 20
        del alice


def tries(server: LiveServer, tenant: str) -> bool:
    """Whether a client that is new is served."""
    with Client(server, tenant) as client:
        try:
            client.send("POST", "/events", large_event(0))
            answer = client.read()
        except OSError:
            return False
        return answer is not None and answer.status == 200


def sockets(server: LiveServer) -> int:
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    count = 0
    for descriptor in descriptors.iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(descriptor).startswith("socket:")
    return count


def test_who_never_asked_makes_room_before_who_has_and_then_who_idles_longest(
    tmp_path: Path,
) -> None:
    with server_with(tmp_path, MAX_CONNECTIONS="3") as server, ExitStack() as stack:
        first, silent = take_all(server, stack, 2)
        assert first.append().status == 200
        [second] = take_all(server, stack, 1)
        assert second.append().status == 200
        wait_until(lambda: tries(server, "bob"))
        assert is_closed(silent)
        assert not is_closed(first)
        assert second.append().status == 200
        third = stack.enter_context(Client(server, "bob"))
        assert third.append().status == 200
        wait_until(lambda: tries(server, "carol"))
        assert is_closed(first)
        assert second.append().status == 200
        assert third.append().status == 200


def test_connections_that_wait_for_an_answer_stay_and_further_ones_are_503_but_for_health(
    tmp_path: Path,
) -> None:
    settings = {"MAX_CONNECTIONS": "3"}
    with (
        server_with(tmp_path, engine="sqlite", **settings) as server,
        ExitStack() as stack,
    ):
        busy = take_all(server, stack, 3)
        with held(tmp_path):
            for client in busy:
                client.send("POST", "/events", large_event(0))
                wait_until_taken(client)
            for _ in range(3):
                with Client(server, "bob") as refused:
                    answer = refused.ask("GET", "/position")
                    assert (answer.status, code(answer)) == (503, "too_many_connections")
                    assert answer.fields["retry-after"] == "1"
                    assert answer.fields["connection"] == "close"
                    assert refused.read() is None
                with Client(server, "bob") as probe:
                    answer = probe.ask("GET", "/health")
                    assert answer.status == 200
                    assert answer.fields["connection"] == "close"
                    assert probe.read() is None
            # Many more say nothing: beyond 128 of them nobody is asked any more.
            crowd = take_all(server, stack, 200)
            last = crowd[-1].read()
            assert last is not None
            assert (last.status, code(last)) == (503, "too_many_connections")
            assert last.fields["retry-after"] == "1"
            wait_until(lambda: all(is_ended(client) for client in crowd))
        for client in busy:
            answered = client.read()
            assert answered is not None
            assert answered.status == 200
        assert server.log.count("all 3 connections are taken") == 1


def is_ended(client: Client) -> bool:
    """Whether the server has closed the connection, whatever it said before."""
    client.socket.setblocking(False)
    try:
        while client.socket.recv(4 * KIB):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_where_bodies_take_all_connections_one_of_the_tenant_with_most_is_broken_off(
    tmp_path: Path,
) -> None:
    with server_with(tmp_path, MAX_CONNECTIONS="4") as server, ExitStack() as stack:
        clients = take_all(server, stack, 4)
        tenants = ["carol", "alice", "alice", "alice"]
        for client, tenant in zip(clients, tenants, strict=True):
            begin_body(client, tenant, 8 * MIB, 1_000)
            wait_until_taken(client)
        wait_until(lambda: tries(server, "bob"))
        answer = clients[1].read()
        assert_overloaded(answer)
        assert answer is not None
        assert answer.fields["connection"] == "close"
        assert not is_ended(clients[0])


# Heads


def ask(server: LiveServer, raw: bytes) -> bytes:
    """All that the server answers until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        answer = b""
        with suppress(ConnectionError):
            connection.sendall(raw)
        with suppress(ConnectionError):
            while part := connection.recv(64 * KIB):
                answer += part
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    settings = {"IDLE_TIMEOUT": "20s", "READ_TIMEOUT": "20s"}
    with server_with(tmp_path_factory.mktemp("heads"), **settings) as server:
        yield server


ALICE = b"Host: x\r\nX-API-Key: " + KEYS["alice"].encode() + b"\r\n"
CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize("path", [b"/position", b"/metrics"], ids=["short way", "long way"])
@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["whole", "unfinished"])
@pytest.mark.parametrize(
    "field",
    [
        b"".join(b"X-%d: 1\r\n" % number for number in range(105)),
        b"".join(b"X: 1\r\n" for _ in range(105)),
        b"X: " + b"x" * 66_000 + b"\r\n",
        b"X: " + b"x" * 200_000 + b"\r\n",
    ],
    ids=["107 headers", "107 of the same", "64 KiB", "200 KB"],
)
def test_a_head_that_is_too_large_is_431_though_it_comes_at_once(
    server: LiveServer, path: bytes, end: bytes, field: bytes
) -> None:
    answer = ask(server, b"GET %b HTTP/1.1\r\n%b%b%b" % (path, ALICE, field, end))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert b"200 OK" not in answer


@pytest.mark.parametrize("path", [b"/position", b"/metrics"], ids=["short way", "long way"])
def test_a_head_that_just_fits_is_fine(server: LiveServer, path: bytes) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 600) for number in range(97))
    answer = ask(server, b"GET %b HTTP/1.1\r\n%b%b%b\r\n" % (path, ALICE, CLOSE, fields))
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_trailer_without_end_is_cut_off(server: LiveServer) -> None:
    """The parser keeps it. This is one that is not looked at: the key is missing."""
    head = b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    before = server.resident_bytes
    answer = ask(server, head + b"x" * 50 * MIB)
    assert answer == b"" or answer[9:12] in (b"401", b"431")
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert server.resident_bytes < before + 20 * MIB


def test_chunk_extensions_without_end_are_cut_off(server: LiveServer) -> None:
    head = b"POST /events HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n1;x=" % ALICE
    answer = ask(server, head + b"x" * 5 * MIB)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_a_chunked_body_of_large_chunks_is_no_head(server: LiveServer) -> None:
    body = json.dumps(batch(2 * MIB)).encode()
    answer = ask(
        server,
        b"POST /events/batch HTTP/1.1\r\n%b%bTransfer-Encoding: chunked\r\n\r\n" % (ALICE, CLOSE)
        + b"%x\r\n%b\r\n0\r\nX: %b\r\n\r\n" % (len(body), body, b"x" * 10_000),
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_after_100_requests_that_wait_the_connection_is_closed(server: LiveServer) -> None:
    event = json.dumps(large_event(0)).encode()
    request = b"POST /events HTTP/1.1\r\n%bX: 1\r\nX: 2\r\nContent-Length: %d\r\n\r\n%b" % (
        ALICE,
        len(event),
        event,
    )
    answer = ask(server, request * 300)
    assert answer.count(b"HTTP/1.1 200 OK") == 101  # one that was under way, and those
    assert answer.count(b"connection: close") == 1


# Host, upgrades, HTTP/1.0


@pytest.mark.parametrize("path", [b"/position", b"/metrics"], ids=["short way", "long way"])
@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: x\r\nHost: x\r\n",
        b"Host: x\r\nHost: y\r\n",
        b"Host: x y\r\n",
        b"Host: x/y\r\n",
        b"Host: a@b\r\n",
        b"Host: x:port\r\n",
    ],
)
def test_a_request_without_one_host_is_400(server: LiveServer, path: bytes, hosts: bytes) -> None:
    key = ALICE.partition(b"\r\n")[2]
    good = b"GET %b HTTP/1.1\r\n%b\r\n" % (path, ALICE)
    bad = b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, hosts, key)
    answer = ask(server, bad)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in answer
    answer = ask(server, good + bad + good)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 200 ") == 1


@pytest.mark.parametrize("path", [b"/position", b"/metrics"], ids=["short way", "long way"])
@pytest.mark.parametrize(
    "host", [b"x", b"x:80", b"", b"127.0.0.1:8080", b"[::1]:8080", b"a-b.c_d:1", b"%C3%A9"]
)
def test_a_host_is_any_that_a_uri_can_have(server: LiveServer, path: bytes, host: bytes) -> None:
    key = ALICE.partition(b"\r\n")[2]
    answer = ask(server, b"GET %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (path, host, key, CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_http_1_0_needs_no_host_but_may_not_have_two(server: LiveServer) -> None:
    key = ALICE.partition(b"\r\n")[2]
    assert ask(server, b"GET /position HTTP/1.0\r\n%b\r\n" % key).startswith(b"HTTP/1.1 200 ")
    answer = ask(server, b"GET /position HTTP/1.0\r\n%bHost: x\r\n\r\n" % ALICE)
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("cut", [0, 10, 150, 195], ids=str)
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_a_request_that_offers_an_upgrade_has_its_body_read(
    server: LiveServer, cut: int, chunked: bool
) -> None:
    body = json.dumps(large_event(5)).encode()
    length = b"Content-Length: %d" % len(body)
    if chunked:
        length, body = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    raw = (
        b"POST /events HTTP/1.1\r\n%bConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\n%b\r\n\r\n%b" % (ALICE, length, body)
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (raw[:cut], raw[cut:]):
            connection.sendall(piece)
            select.select([connection], [], [], 0.05)
        answer = b"".join(iter(lambda: connection.recv(4 * KIB), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"type":"T","data":"xxxxx"' in answer
    assert b"connection: close" in answer


def test_http_1_0_gets_no_chunks(tmp_path: Path) -> None:
    with server_with(tmp_path) as server, Client(server) as alice:
        for _ in range(3):
            assert alice.append("x" * 100).status == 200
        for keep in (b"", b"Connection: keep-alive\r\n"):
            request = b"GET /events/stream?from=1&batch_size=1 HTTP/1.0\r\n%b%b\r\n"
            answer = ask(server, request % (ALICE, keep))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"transfer-encoding" not in head.lower()
            assert [event["position"] for event in json.loads(body)] == [1, 2, 3]
        # What says how long it is does so still, also when it is nothing.
        answer = ask(server, b"GET /position HTTP/1.0\r\n%b\r\n" % ALICE)
        assert answer.endswith(b'content-length: 14\r\nconnection: close\r\n\r\n{"position":3}')
        answer = ask(server, b"HEAD /health HTTP/1.0\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
