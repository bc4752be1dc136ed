"""The floor `writes`: what reaches many tails, written to one socket after the other.

    python -m benchmarks.writes

takes any port and says which on standard error, in the words of `ebus serve`. It answers each
append, as `benchmarks.cases.tails` sends it, and then writes one event to everybody who follows.
It parses, stores and waits for nothing: no server with one thread gets an event there sooner.
"""

from __future__ import annotations

import select
import socket
import sys

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    b'id: 1\ndata: {"position":1,"type":"OrderPlaced","data":{"order":"A-001"},'
    b'"timestamp":"2024-01-01T00:00:00.000000000Z"}\n\n'
)
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_BEGIN = _HEAD + _CHUNK
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def serve(listening: socket.socket) -> None:
    """Serve until the process is ended."""
    followers: dict[int, socket.socket] = {}
    connections: dict[int, socket.socket] = {}
    poll = select.epoll()
    poll.register(listening, select.EPOLLIN)
    while True:
        for number, _ in poll.poll():
            if number == listening.fileno():
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = connections[number]
            said = connection.recv(65_536)
            if not said:
                followers.pop(number, None)
                connections.pop(number).close()
            elif said.startswith(b"GET "):
                followers[number] = connection
                connection.sendall(_BEGIN)
            else:
                connection.sendall(_ANSWER)
                for follower in followers.values():
                    follower.send(_CHUNK)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listening:
        sys.stderr.write(f"Server listening on 127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stderr.flush()
        serve(listening)


if __name__ == "__main__":
    main()
