"""A server in front of the real one that misbehaves when it is told to."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import httpx

Way = Literal[
    "pass",
    "lose",
    "late",
    "half",
    "drop",
    "overloaded",
    "unavailable",
    "stopping",
    "gateway",
    "expired",
    "cut",
    "short",
    "empty",
    "junk",
]
"""How one request is treated.

`lose` passes it on and closes without the answer, `half` in the midst of the answer, `cut` in
the midst of a stream's event; `late` passes it on and answers 504; `drop` closes without passing
it on; the next four refuse it with a 503 and Retry-After, `expired` as if of a lease that has
run out; `short` ends a stream behind its first
event, `empty` before it, as if that were the end; `junk` answers 200 with what is none of ebus.
"""

EXPIRED = b'{"status":409,"code":"lease_lost","detail":"it ran out","title":""}'

REFUSALS = {
    "overloaded": b'{"status":503,"code":"server_overloaded","detail":"too many","title":""}',
    "unavailable": b'{"status":503,"code":"store_unavailable","detail":"no disk","title":""}',
    "stopping": b'{"status":503,"code":"store_closed","detail":"the server stops","title":""}',
    "gateway": b"<html>503 Service Unavailable</html>",
}


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = httpx.Client(base_url=url, timeout=60, verify=False)
        self.ways: deque[Way] = deque()
        self.retry_after = "0"
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        way: Way = self.server.ways.popleft() if self.server.ways else "pass"
        if way == "drop":
            self._hang_up()
        elif way in REFUSALS:
            self._answer(503, REFUSALS[way], {"Retry-After": self.server.retry_after})
        elif way == "expired":
            self._answer(409, EXPIRED, {})
        elif way == "junk":
            self._answer(200, b"<html>It works!</html>", {})
        else:
            self._pass_on(way, body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _pass_on(self, way: Way, body: bytes) -> None:
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("host", "connection", "accept-encoding")
        }
        with self.server.upstream.stream(
            self.command, self.path, content=body or None, headers=headers
        ) as answer:
            if answer.headers.get("content-type", "").startswith("application/x-ndjson"):
                self._pass_stream(way, answer)
                return
            content = answer.read()
        if way == "lose":
            self._hang_up()
            return
        if way == "late":
            self._answer(504, b"<html>504 Gateway Timeout</html>", {})
            return
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name in ("content-type", "link", "retry-after", "etag")
        }
        self._answer(answer.status_code, content, kept, half=way == "half")

    def _pass_stream(self, way: Way, answer: httpx.Response) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for piece in answer.iter_raw():
                sent = piece
                if way == "cut":  # within the second event
                    sent = piece[: piece.index(b"\n") + 20]
                elif way in ("short", "empty"):
                    sent = piece[: piece.index(b"\n") + 1] if way == "short" else b"\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent))
                self.wfile.flush()
                if way == "cut":
                    self._hang_up()
                    return
                if way in ("short", "empty"):
                    break
            self.wfile.write(b"0\r\n\r\n")

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str], *, half: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def proxy_before(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
        proxy.upstream.close()
