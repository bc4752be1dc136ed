"""A TCP proxy before a NATS server, which understands what goes through and may lose some of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Literal

import msgspec

Way = Literal["pass", "drop", "twice", "cut", "hold"]
"""What becomes of a message: `cut` passes it on and then breaks the connection, `twice` passes it
on once more; what is held goes on, over another connection, when it is let go."""


class Published(msgspec.Struct, frozen=True):
    """What a client publishes."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes


class Answered(msgspec.Struct, frozen=True):
    """What a server sends to the inbox of such a request."""

    request: Published
    number: int
    """Which one of its answers it is, from 1 on."""
    headers: bytes
    payload: bytes


class Instead(msgspec.Struct, frozen=True):
    """Another answer."""

    headers: bytes
    payload: bytes


class Faults:
    """What is to happen. Called in the threads of connections, with one lock for all."""

    def published(self, message: Published) -> Way:
        return "pass"

    def answered(self, answer: Answered) -> Way | Instead:
        """How it goes on, or what comes instead."""
        return "pass"


class Proxy:
    def __init__(self, port: int) -> None:
        self.faults = Faults()
        self.connections = 0
        self._upstream = port
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._held: list[bytes] = []
        self._requests: dict[str, tuple[Published, int]] = {}
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def location(self) -> str:
        return f"//127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Break every connection."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        """Send what is held, in order, and wait until the server has taken it."""
        with (
            socket.create_connection(("127.0.0.1", self._upstream)) as server,
            server.makefile("rb") as answers,
        ):
            options = b'CONNECT {"verbose":false,"pedantic":false,"headers":true}'
            server.sendall(b"%b\r\n%bPING\r\n" % (options, b"".join(self._held)))
            self._held.clear()
            while answers.readline() != b"PONG\r\n":
                pass

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._connect, args=(client,)))
                self._threads[-1].start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as server:
            self._open |= {client, server}
            upwards = threading.Thread(target=self._carry, args=(self._upwards, client, server))
            upwards.start()
            self._carry(self._downwards, server, client)
            upwards.join()
            self._open -= {client, server}

    @staticmethod
    def _carry(
        work: Callable[[BinaryIO, socket.socket], None], source: socket.socket, sink: socket.socket
    ) -> None:
        with suppress(OSError, ValueError), source.makefile("rb") as stream:
            work(stream, sink)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _upwards(self, stream: BinaryIO, sink: socket.socket) -> None:
        while line := stream.readline():
            verb, *words = line.split()
            if verb not in (b"PUB", b"HPUB"):
                sink.sendall(line)
                continue
            has_headers = verb == b"HPUB"
            sizes = words[-2:] if has_headers else [b"0", words[-1]]
            names = words[: -2 if has_headers else -1]
            body = stream.read(int(sizes[1]) + 2)
            headers, payload = body[: int(sizes[0])], body[int(sizes[0]) : -2]
            reply = names[1].decode() if len(names) > 1 else ""
            message = Published(names[0].decode(), reply, headers, payload)
            with self._lock:
                way = self.faults.published(message)
                if reply:
                    self._requests[reply] = message, 0
            if way == "hold":
                self._held.append(line + body)
            elif way != "drop":
                sink.sendall((line + body) * (2 if way == "twice" else 1))
            if way == "cut":
                return

    def _downwards(self, stream: BinaryIO, sink: socket.socket) -> None:
        while line := stream.readline():
            verb, *words = line.split()
            if verb == b"INFO":  # not of other ways to the server
                known = json.loads(line.partition(b" ")[2])
                known.pop("connect_urls", None)
                line = b"INFO " + json.dumps(known).encode() + b"\r\n"
            if verb not in (b"MSG", b"HMSG"):
                sink.sendall(line)
                continue
            has_headers = verb == b"HMSG"
            sizes = words[-2:] if has_headers else [b"0", words[-1]]
            body = stream.read(int(sizes[1]) + 2)
            headers, payload = body[: int(sizes[0])], body[int(sizes[0]) : -2]
            subject = words[0].decode()
            way: Way | Instead = "pass"
            with self._lock:
                if subject in self._requests:
                    request, number = self._requests[subject]
                    self._requests[subject] = request, number + 1
                    way = self.faults.answered(Answered(request, number + 1, headers, payload))
            if isinstance(way, Instead):
                sizes = [b"%d" % len(way.headers), b"%d" % len(way.headers + way.payload)]
                verb = b"HMSG" if way.headers else b"MSG"
                line = b" ".join([verb, *words[:2], *sizes[0 if way.headers else 1 :]]) + b"\r\n"
                body = way.headers + way.payload + b"\r\n"
            if way != "drop":
                sink.sendall((line + body) * (2 if way == "twice" else 1))
            if way == "cut":
                return


@contextmanager
def proxy_before(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
