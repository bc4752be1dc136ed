"""Bytes to a server on a connection of their own, and all that comes back."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.hostile.tenants import Resident
from tests.live_server import LiveServer

PATIENCE_S = 30.0
"""Far more than a request and all time limits of the server take together."""

LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""After it the server closes. Where it is answered, what came before has ended as it should."""


def connected(server: LiveServer) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def _unless_closed() -> Iterator[None]:
    """Up to where the server has closed. To run out of time is no such thing."""
    try:
        yield
    except OSError as error:
        if not (isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN):
            raise


def talk(server: LiveServer, *pieces: bytes, half_close: bool = False) -> bytes:
    """Send each piece by itself and read until the server closes. Fails when it does not.

    What cannot be sent any more, because the server has closed, is left out.
    """
    received = b""
    with connected(server) as connection:
        with _unless_closed():
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        with _unless_closed():
            while part := connection.recv(65_536):
                received += part
    return received


def talk_in_turns(server: LiveServer, pieces: Sequence[bytes]) -> bytes:
    """The same, but each piece is sent once the one before has been read.

    That is so when somebody who has asked after it is answered. Of several workers, where
    another one may answer, it is only likely.
    """
    received = b""
    with connected(server) as connection, connected(server) as other:
        with _unless_closed():
            for piece in pieces:
                connection.sendall(piece)
                other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                other.recv(4_096)
        with _unless_closed():
            while part := connection.recv(65_536):
                received += part
    return received


def cut(text: bytes, places: Iterable[int]) -> list[bytes]:
    """The text in pieces, none of them empty."""
    edges = sorted({0, *places, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def request(
    tenant: Resident | None, line: bytes, *fields: bytes, body: bytes | None = None
) -> bytes:
    """A request as bytes, with the tenant's key, the length of its body if any, and one host."""
    lines = [b"%b HTTP/1.1" % line]
    if not any(field.startswith(b"Host:") for field in fields):
        lines.append(b"Host: x")
    if tenant is not None:
        lines.append(b"X-API-Key: %b" % tenant.key.encode())
    lines += fields
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def all_workers_answer(server: LiveServer) -> None:
    """Every new connection is served. One worker that hangs would leave about half of 40 alone."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: talk(server, LAST), range(40)))
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers), answers
