"""Targets of requests that can be read, and lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.conftest import House, house
from tests.hostile.replies import check_log, check_reply, replies
from tests.hostile.shapes import get
from tests.hostile.talking import LAST, connected

NO_URLS = {
    "a host and no path": b"GET http://x HTTP/1.1",
    "a host and a query": b"GET http://x?from=1 HTTP/1.1",
    "a host and a fragment": b"GET http://x#y HTTP/1.1",
    "a file": b"GET file:///etc/passwd HTTP/1.1",
    "no host": b"GET http:///position HTTP/1.1",
    "a port that is none": b"GET http://x:y/position HTTP/1.1",
    "a port of more than 16 bits": b"GET http://x:99999/position HTTP/1.1",
    "a host of marks": b"GET http://!/position HTTP/1.1",
    "half an address": b"GET http://[::1/position HTTP/1.1",
    "an address of marks": b"GET http://[,]/position HTTP/1.1",
    "two users": b"GET http://a@b@x/position HTTP/1.1",
    "a host for OPTIONS": b"OPTIONS http://x HTTP/1.1",
    "a host to connect to": b"CONNECT x:80 HTTP/1.1",
}

OTHER_VERSIONS = {
    "HTTP/0.9": b"GET /position HTTP/0.9",
    "HTTP/2.0": b"GET /position HTTP/2.0",
    "HTTP/2.0 with a body": b"POST /events HTTP/2.0",
}


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("targets")) as found:
        yield found


def statuses(house: House, *pieces: bytes) -> list[int]:
    """Of the replies to these pieces, each sent once something of the reply before has come."""
    received = b""
    with connected(house.server) as connection:
        for piece in pieces:
            connection.sendall(piece.replace(b"KEY", house.alice.key.encode()))
            received += connection.recv(65_536)
        while part := connection.recv(65_536):
            received += part
    found = replies(received)
    for reply in found:
        check_reply(reply)
    check_log(house.server.log)
    return [reply.status for reply in found]


LINES = pytest.mark.parametrize(
    "line", [*NO_URLS.values(), *OTHER_VERSIONS.values()], ids=[*NO_URLS, *OTHER_VERSIONS]
)
FIELDS = pytest.mark.parametrize("field", [b"X-API-Key: KEY", b"X-A: b"], ids=["key", "no key"])


@FIELDS
@LINES
def test_what_leads_nowhere_is_refused_and_fails_nothing(
    lonely: House, line: bytes, field: bytes
) -> None:
    request = get(line=line).replace(b"X-API-Key: KEY", field)
    assert statuses(lonely, request + get() + LAST) == [400]


@pytest.mark.parametrize(
    "before", [get(), get(b"Connection: keep-alive, x")], ids=["short", "long"]
)
@LINES
def test_it_is_refused_too_after_a_request_that_was_served(
    lonely: House, line: bytes, before: bytes
) -> None:
    assert statuses(lonely, before, get(line=line) + get() + LAST) == [200, 400]


@LINES
def test_the_answers_before_it_still_come(lonely: House, line: bytes) -> None:
    stream = get() + get(b"Connection: keep-alive, x") + get(line=line) + get() + LAST
    assert statuses(lonely, stream) in ([200, 200], [200, 200, 400])
