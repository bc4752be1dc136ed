"""Requests that arrive at once go a short way, and are answered as those on the long one are."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus.http.problems import Problem
from ebus.http.protocol import EbusProtocol
from tests.http.conftest import write_config
from tests.http.test_settings import KEYS, server_with
from tests.live_server import LiveServer, serving

TENANTS = 2_000
LIMITS = {
    "max_body_bytes": 2_000,
    "max_event_bytes": 500,
    "max_batch_events": 3,
    "max_failed_keys_per_minute": 1_000_000,  # when the first 429 comes depends on the time
}
EVENT = b'{"type":"T","data":{"a":[1,"\xc3\xa9"]},"timestamp":"2024-01-01T00:00:00Z"}'
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module", params=["plain", "compressing"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp(request.param)
    tenants = [{"name": f"t{at}", "api_key": key(at).decode()} for at in range(TENANTS)]
    config = {"engine": "memory", "tenants": tenants, "limits": LIMITS}
    write_config(directory / "tenants.yaml", config)
    environment = {"ENABLE_GZIP": str(request.param == "compressing")}
    with serving(["--config", "tenants.yaml"], cwd=directory, environment=environment) as server:
        yield server
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def numbers(server: LiveServer) -> Iterator[int]:
    return itertools.count()


def key(number: int) -> bytes:
    return b"key-of-%036d" % number


@pytest.fixture
def keys(server: LiveServer, numbers: Iterator[int]) -> list[bytes]:
    """The keys of three new tenants."""
    return [key(next(numbers)) for _ in range(3)]


@pytest.fixture(scope="module")
def reader(server: LiveServer) -> bytes:
    """The key of a tenant with two events, to whom nobody writes any more."""
    tenant = key(TENANTS - 1)
    talk(server, [post(b"/events/batch", b"[%b,%b]" % (EVENT, EVENT), tenant)])
    return tenant


def request(
    line: bytes, tenant: bytes | None, *fields: bytes, body: bytes | None = None, host: bytes = b"x"
) -> bytes:
    lines = [line, b"Host: %b" % host]
    if tenant is not None:
        lines.append(b"X-API-Key: %b" % tenant)
    lines += fields
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def post(path: bytes, body: bytes, tenant: bytes, *fields: bytes) -> bytes:
    return request(b"POST %b HTTP/1.1" % path, tenant, *fields, body=body)


def get(path: bytes, tenant: bytes, *fields: bytes) -> bytes:
    return request(b"GET %b HTTP/1.1" % path, tenant, *fields)


def talk(server: LiveServer, pieces: Sequence[bytes]) -> bytes:
    """All that the server answers to the pieces, each of which it reads by itself.

    A last request asks it to close the connection. The date is left out, and the other fields
    of a head, whose order has no meaning (RFC 9110, 5.3), are sorted.
    """
    answers = b""
    with connected(server) as connection, connected(server) as other:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError), other.makefile("rb") as stream:
            for piece in pieces:
                connection.sendall(piece)
                other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                read_answer(stream)  # whoever asks later is answered after all has been read
            connection.sendall(LAST)
        with suppress(ConnectionError):
            while part := connection.recv(65_536):
                answers += part
    return re.sub(rb"(HTTP/1\.1 \d+ [^\r]*\r\n)((?:[^\r]+\r\n)*)\r\n", _sorted_head, answers)


def _sorted_head(head: re.Match[bytes]) -> bytes:
    fields = [
        line
        for line in head[2].splitlines(True)
        if not line.startswith((b"date: ", b"x-request-id: "))
    ]
    return b"".join([head[1], *sorted(fields), b"\r\n"])


def connected(server: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def read_answer(stream: BinaryIO) -> bytes:
    """The status line of an answer that says how long it is, once it has come as a whole."""
    status = stream.readline()
    length = 0
    while (line := stream.readline().lower()) not in (b"\r\n", b""):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    stream.read(length)
    return status


def statuses_one_by_one(server: LiveServer, pieces: Sequence[bytes]) -> list[int]:
    """How a connection's requests are answered, each of which waits for the answer before it.

    None goes the long way because of the others.
    """
    with connected(server) as connection, connection.makefile("rb") as stream:
        statuses = []
        for piece in pieces:
            connection.sendall(piece)
            statuses.append(int(read_answer(stream).split()[1]))
        return statuses


# One request, three ways

LARGE = b'{"type":"T","data":"%b"}' % (b"x" * 600)
OVERSIZED = b'{"type":"T","data":"%b"}' % (b"x" * 2_000)

WITH_BODY: dict[str, tuple[bytes, bytes, tuple[bytes, ...]]] = {
    "an event": (b"/events", EVENT, ()),
    "an event as JSON": (b"/events", EVENT, (b"Content-Type: application/json",)),
    "an event as curl sends it": (
        b"/events",
        EVENT,
        (b"Content-Type: application/x-www-form-urlencoded",),
    ),
    "an event as JSON in UTF-8": (
        b"/events",
        EVENT,
        (b"Content-Type: application/json; charset=utf-8",),
    ),
    "an event as text": (b"/events", EVENT, (b"Content-Type: text/plain",)),
    "an event as nothing": (b"/events", EVENT, (b"Content-Type:",)),
    "an event of type JSON in capitals": (
        b"/events",
        EVENT,
        (b"Content-Type: APPLICATION/JSON",),
    ),
    "an event with a query": (b"/events?from=1", EVENT, ()),
    "an event that is too large": (b"/events", LARGE, ()),
    "a body that is too large": (b"/events", OVERSIZED, ()),
    "no body": (b"/events", b"", ()),
    "no JSON": (b"/events", b'{"type":', ()),
    "no UTF-8": (b"/events", b'{"type":"T","data":"\xff"}', ()),
    "no event": (b"/events", b'{"data":1}', ()),
    "an event without a type": (b"/events", b'{"type":"","data":1}', ()),
    "an event at no time": (b"/events", b'{"type":"T","data":1,"timestamp":"x"}', ()),
    "a batch": (b"/events/batch", b"[%b,%b]" % (EVENT, EVENT), ()),
    "an empty batch": (b"/events/batch", b"[]", ()),
    "a batch of too many": (b"/events/batch", b"[%b]" % b",".join([EVENT] * 4), ()),
    "a batch with a bad event": (b"/events/batch", b'[%b,{"type":"","data":1}]' % EVENT, ()),
    "a batch that is an event": (b"/events/batch", EVENT, ()),
    "a body that says continue": (b"/events", EVENT, (b"Expect: 100-continue",)),
    "a connection that closes": (b"/events", EVENT, (b"Connection: close",)),
    "a connection that stays": (b"/events", EVENT, (b"Connection: keep-alive",)),
    "a connection that stays, in capitals": (b"/events", EVENT, (b"Connection: Keep-Alive",)),
    "a header that comes twice": (b"/events", EVENT, (b"Accept: a/b", b"Accept: c/d")),
    "an encoded path": (b"/%65vents", EVENT, ()),
    "a slash at the end": (b"/events/", EVENT, ()),
    "two slashes": (b"//events", EVENT, ()),
    "a path in capitals": (b"/EVENTS", EVENT, ()),
    "an absolute URL": (b"http://x/events", EVENT, ()),
    "a client that unpacks": (b"/events", EVENT, (b"Accept-Encoding: gzip",)),
    "a client that unpacks nothing": (b"/events", EVENT, (b"Accept-Encoding: identity",)),
    "a position to which nobody posts": (b"/position", EVENT, ()),
    "a checkpoint": (b"/subscriptions/s/position", b'{"position":1}', ()),
}

PATHS = [
    b"/position",
    b"/position?x=1",
    b"/position#fragment",
    b"/events?from=1",
    b"/events?from=1&to=1",
    b"/events?from=2&to=1",
    b"/events?from=0",
    b"/events?from=3",
    b"/events?to=1",
    b"/events",
    b"/events?",
    b"/events?from=",
    b"/events?from=x",
    b"/events?from=-1",
    b"/events?from=1&from=2",
    b"/events?from=%31",
    b"/events?from=1+",
    b"/events?from=1&x=%ff",
    b"/events?from=1&x=\xc3\xa9",
    b"/events?from=1?from=2",
    b"/events?from=9223372036854775807",
    b"/events?from=9223372036854775808",
    b"/events?" + b"&".join(b"a%d=1" % at for at in range(101)),
    b"/events/stream?from=1",
    b"/events/stream?from=1&batch_size=1",
    b"/events/stream?from=1&batch_size=0",
    b"/events/stream?from=1&batch_size=99999999",
    b"/events/stream?from=9",
    b"/events/stream",
    b"/events/batch",
    b"/tenants",
    b"/nowhere",
    b"/health",
    b"*",
    b"http://x/position",
    b"http://x/events?from=1",
    b"/posi%74ion",
    b"/position/",
    b"/position;a=1",
]

TWICE = (b"X-Way: long", b"X-Way: long")
"""A header that comes twice is out of the ordinary, and means nothing."""


@pytest.mark.parametrize("case", WITH_BODY)
def test_a_request_with_a_body_is_answered_the_same_at_once_and_in_pieces(
    server: LiveServer, keys: list[bytes], case: str
) -> None:
    path, body, fields = WITH_BODY[case]
    whole = talk(server, [post(path, body, keys[0], *fields)])
    twice = talk(server, [post(path, body, keys[1], *fields, *TWICE)])
    cut = post(path, body, keys[2], *fields)
    head = cut.index(b"\r\n\r\n") + 4
    pieces = [cut[:20], cut[20:head], cut[head : head + 7], cut[head + 7 :]]
    assert twice == whole
    assert talk(server, [piece for piece in pieces if piece]) == whole
    assert whole.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("path", PATHS)
def test_a_request_without_a_body_is_answered_the_same_on_both_ways(
    server: LiveServer, reader: bytes, path: bytes
) -> None:
    whole = talk(server, [get(path, reader)])
    assert talk(server, [get(path, reader, *TWICE)]) == whole
    assert whole.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("method", [b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"get"])
def test_another_method_is_answered_the_same_at_once_and_in_pieces(
    server: LiveServer, reader: bytes, method: bytes
) -> None:
    raw = request(b"%b /position HTTP/1.1" % method, reader)
    whole = talk(server, [raw])
    assert talk(server, [raw[:4], raw[4:30], raw[30:]]) == whole
    assert whole.startswith(b"HTTP/1.1 ")


ODD: dict[str, bytes] = {
    "no key": request(b"GET /position HTTP/1.1", None),
    "an empty key": request(b"GET /position HTTP/1.1", b""),
    "a wrong key": request(b"GET /position HTTP/1.1", b"wrong"),
    "a wrong key and a body": request(b"POST /events HTTP/1.1", b"wrong", body=EVENT),
    "two keys": request(b"GET /position HTTP/1.1", b"KEY", b"X-API-Key: other"),
    "a bearer": request(b"GET /position HTTP/1.1", None, b"Authorization: Bearer KEY"),
    "a bearer in small letters": request(
        b"GET /position HTTP/1.1", None, b"authorization: bearer  KEY "
    ),
    "a wrong bearer": request(b"GET /position HTTP/1.1", None, b"Authorization: Bearer no"),
    "another scheme": request(b"GET /position HTTP/1.1", None, b"Authorization: Basic KEY"),
    "a key and a wrong bearer": request(
        b"GET /position HTTP/1.1", b"KEY", b"Authorization: Bearer no"
    ),
    "HTTP/1.0": request(b"GET /position HTTP/1.0", b"KEY"),
    "HTTP/1.0 that stays": request(b"GET /position HTTP/1.0", b"KEY", b"Connection: keep-alive"),
    "no host": b"GET /position HTTP/1.1\r\nX-API-Key: KEY\r\n\r\n",
    "a GET with a body": request(b"GET /position HTTP/1.1", b"KEY", body=b"nobody reads this"),
    "a stream with a body": request(b"GET /events/stream?from=1 HTTP/1.1", b"KEY", body=b"x"),
    "a chunked body": request(b"POST /events HTTP/1.1", b"KEY", b"Transfer-Encoding: chunked")
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT),
    "a chunked body with a trailer": request(
        b"POST /events HTTP/1.1", b"KEY", b"Transfer-Encoding: chunked"
    )
    + b"%x\r\n%b\r\n0\r\nX-API-Key: other\r\n\r\n" % (len(EVENT), EVENT),
    "an upgrade": request(
        b"GET /position HTTP/1.1", b"KEY", b"Connection: upgrade", b"Upgrade: h2c"
    ),
    "an upgrade that nobody asks for": request(b"GET /position HTTP/1.1", b"KEY", b"Upgrade: h2c"),
    "several that unpack": request(
        b"GET /events?from=1 HTTP/1.1", b"KEY", b"Accept-Encoding: br, zstd;q=0.5"
    ),
    "no HTTP": b"hello\r\n\r\n",
    "a header without a name": b"GET /position HTTP/1.1\r\n: x\r\n\r\n",
    "a length that is none": b"POST /events HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    "lines that end in LF": b"GET /position HTTP/1.1\nHost: x\nX-API-Key: KEY\n\n",
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_out_of_the_ordinary_is_answered_the_same_at_once_and_in_pieces(
    server: LiveServer, keys: list[bytes], case: str
) -> None:
    whole = talk(server, [ODD[case].replace(b"KEY", keys[0])])
    raw = ODD[case].replace(b"KEY", keys[1])
    at = max(5, len(raw) - 3)
    assert talk(server, [raw[:7], raw[7:at], raw[at:]]) == whole
    assert whole.startswith(b"HTTP/1.1 ")


# Several requests on one connection

SEQUENCE = st.lists(
    st.sampled_from(
        [
            lambda key: post(b"/events", EVENT, key),
            lambda key: post(b"/events/batch", b"[%b,%b]" % (EVENT, EVENT), key),
            lambda key: post(b"/events", b"{", key),
            lambda key: post(b"/events", EVENT, b"wrong"),
            lambda key: post(b"/events", OVERSIZED, key),
            lambda key: post(b"/events", EVENT, key, *TWICE),
            lambda key: get(b"/events?from=1", key),
            lambda key: get(b"/events/stream?from=1&batch_size=1", key),
            lambda key: get(b"/position", key),
            lambda key: get(b"/metrics", key).replace(b"metrics", b"nowhere"),
            lambda key: request(b"PUT /subscriptions/s/position HTTP/1.1", key, body=b"{}"),
            lambda key: request(b"HEAD /position HTTP/1.1", key),
            lambda key: (
                request(b"POST /events HTTP/1.1", key, b"Transfer-Encoding: chunked")
                + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT)
            ),
        ]
    ),
    min_size=1,
    max_size=6,
)


@given(data=st.data())
def test_requests_that_are_cut_anywhere_are_answered_in_order_as_one_by_one(
    server: LiveServer, numbers: Iterator[int], data: st.DataObject
) -> None:
    sequence = data.draw(SEQUENCE)
    first, second = key(next(numbers)), key(next(numbers))
    one_by_one = [request(first) for request in sequence]
    together = b"".join(request(second) for request in sequence)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(together) - 1), max_size=4)))
    pieces = [together[a:b] for a, b in itertools.pairwise([0, *cuts, len(together)])]
    assert talk(server, pieces) == talk(server, one_by_one)


def test_pipelined_appends_are_stored_in_the_order_of_their_requests(
    server: LiveServer, keys: list[bytes]
) -> None:
    bodies = [b'{"type":"T","data":%d,"timestamp":"2024-01-01T00:00:00Z"}' % n for n in range(50)]
    answers = talk(server, [b"".join(post(b"/events", body, keys[0]) for body in bodies)])
    data = [int(number) for number in re.findall(rb'"data":(\d+),', answers)]
    positions = [int(number) for number in re.findall(rb'"position":(\d+),', answers)]
    assert data == list(range(50))
    assert positions == list(range(1, 51))


def test_each_request_of_a_connection_has_a_key_of_its_own(
    server: LiveServer, keys: list[bytes]
) -> None:
    first, second, _ = keys
    bearer = request(b"GET /position HTTP/1.1", None, b"Authorization: Bearer %b" % first)
    asked = [
        post(b"/events", EVENT, first),
        get(b"/position", second),
        get(b"/position", first),
        get(b"/position", first[:-1]),
        get(b"/position", first + b"0"),
        request(b"GET /position HTTP/1.1", None),
        get(b"/position", b""),
        get(b"/position", second),
        bearer,
        get(b"/position", first),
    ]
    said = talk(server, asked)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", said)]
    assert statuses[:-1] == [200, 200, 200, 401, 401, 401, 401, 200, 200, 200]
    positions = [int(number) for number in re.findall(rb'"position":(\d+)', said)]
    assert positions == [1, 0, 1, 0, 1, 1]
    assert statuses_one_by_one(server, asked) == statuses[:-1]


def test_a_key_that_comes_twice_is_none(server: LiveServer, keys: list[bytes]) -> None:
    first, second, _ = keys
    said = statuses_one_by_one(
        server,
        [
            get(b"/position", first),
            get(b"/position", first, b"X-API-Key: %b" % first),
            get(b"/position", first, b"x-api-key: %b" % second),
            get(b"/position", b"wrong", b"X-API-Key: %b" % first),
            get(b"/position", b"wrong", b"Authorization: Bearer %b" % first),
            request(b"GET /position HTTP/1.1", None, *[b"Authorization: Bearer %b" % first] * 2),
            get(b"/position", first, b"Authorization: Bearer wrong"),
        ],
    )
    assert said == [200, 401, 401, 401, 401, 401, 200]


@pytest.mark.parametrize("bad", [{b"x-api-key": b"\x0b"}, {b"x-api-key": b""}, {}])
def test_what_is_no_key_never_has_the_digest_of_the_last_one(bad: dict[bytes, bytes]) -> None:
    connection = EbusProtocol.__new__(EbusProtocol)
    connection._key = connection._key_digest = b""
    digest = connection.key_digest({b"x-api-key": b"good"})
    for _ in range(2):  # it is not remembered either
        with pytest.raises(Problem):
            connection.key_digest(bad)
    assert connection.key_digest({b"x-api-key": b"good"}) == digest
    assert connection.key_digest({b"authorization": b"Bearer other"}) != digest


# Time limits between and within requests

ALICE = KEYS["alice"].encode()
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that does not wait long for the next request."""
    with server_with(tmp_path_factory.mktemp("hasty"), {"IDLE_TIMEOUT": "200ms"}) as server:
        yield server


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that does not wait long for the rest of a request."""
    with server_with(tmp_path_factory.mktemp("strict"), {"READ_TIMEOUT": "200ms"}) as server:
        yield server


BOTH_WAYS = pytest.mark.parametrize("fields", [(), TWICE], ids=["short", "long"])


@BOTH_WAYS
def test_a_connection_is_closed_when_it_idles_after_its_last_request(
    hasty: LiveServer, fields: tuple[bytes, ...]
) -> None:
    with connected(hasty) as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(get(b"/position", ALICE, *fields))
            assert read_answer(stream) == OK
        assert stream.read() == b""


@BOTH_WAYS
def test_a_head_that_does_not_end_is_cut_off_after_good_requests_too(
    strict: LiveServer, fields: tuple[bytes, ...]
) -> None:
    with connected(strict) as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(get(b"/position", ALICE, *fields))
            assert read_answer(stream) == OK
        connection.sendall(get(b"/position", ALICE)[:-2])
        assert stream.read() == b""


def test_a_head_that_does_not_end_is_cut_off_when_it_came_with_a_good_request(
    strict: LiveServer,
) -> None:
    with connected(strict) as connection, connection.makefile("rb") as stream:
        connection.sendall(get(b"/position", ALICE) + get(b"/position", ALICE)[:-2])
        assert read_answer(stream) == OK
        assert stream.read() == b""


def test_a_body_that_does_not_arrive_is_408_after_a_good_request_too(strict: LiveServer) -> None:
    with connected(strict) as connection, connection.makefile("rb") as stream:
        connection.sendall(get(b"/position", ALICE) + post(b"/events", EVENT, ALICE)[:-1])
        assert read_answer(stream) == OK
        assert read_answer(stream) == b"HTTP/1.1 408 Request Timeout\r\n"
