"""A client that takes a stream no faster than it wants to."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from typing import Self

from benchmarks.errors import check
from benchmarks.servers import ANSWER_TIMEOUT_S, Server
from benchmarks.workload import Request

RECEIVE_BUFFER_BYTES = 64 * 1024
"""What the kernel may take for the client; more would hide how slow it is."""

PIECE_BYTES = 64 * 1024

_MARK = b'{"position":'


class SlowReader:
    """A stream that is being read. `events` is how many have begun to arrive."""

    def __init__(self, server: Server, request: Request) -> None:
        self.events = 0
        self.bytes = 0
        self._end = b""
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        self._connection.sock = socket.socket()
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._connection.sock.settimeout(ANSWER_TIMEOUT_S)
        self._connection.sock.connect(("127.0.0.1", server.port))
        self._connection.request(request.method, request.path, None, {"X-API-Key": request.key})
        self._response = self._connection.getresponse()
        check(self._response.status == 200, f"{request.path}: {self._response.status}")

    def read(self, size: int = PIECE_BYTES) -> bool:
        """Take the next bytes; says whether there were any."""
        piece = self._response.read(size)
        if not piece:
            check(self._end.endswith(b"]"), "the stream ended too soon")
            return False
        window = self._end + piece
        self.events += window.count(_MARK)
        self.bytes += len(piece)
        # What follows the last whole mark may hold the beginning of one.
        self._end = window[-len(_MARK) + 1 :]
        return True

    def read_all(self, bytes_per_s: float, each: Callable[[], None]) -> None:
        """Take the rest at this pace, and call `each` after every piece."""
        begun, already = time.perf_counter(), self.bytes
        while self.read():
            each()
            ahead_s = (self.bytes - already) / bytes_per_s - (time.perf_counter() - begun)
            if ahead_s > 0:
                time.sleep(ahead_s)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
