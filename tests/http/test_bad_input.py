"""What a client may send wrongly: refused with the right status and a reason, changing nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from msgspec import UNSET

from tests.http.conftest import TenantClient

AT = "2024-01-01T00:00:00Z"
EVENT = {"type": "T", "data": 1, "timestamp": AT}
MIB = 1024 * 1024


def observation(client: TenantClient) -> object:
    """All that a client can see of its tenant."""
    return (
        client.get("/position").json(),
        client.get("/events?from=1").content,
        client.get("/metrics").json()["total_events"],
        client.get("/subscriptions/s/position").json(),
    )


@pytest.fixture(autouse=True)
def nothing_changes(client: TenantClient) -> Iterator[None]:
    """Each test starts with two events and a checkpoint, and must leave them as they are."""
    client.post("/events/batch", json=[EVENT, EVENT])
    client.put("/subscriptions/s/position", json={"position": 1})
    before = observation(client)
    yield
    assert observation(client) == before


def assert_problem(answer: httpx.Response, status: int, *, said: str = "") -> None:
    """The answer is a complete problem document with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) - {"index", "field"} == {"type", "title", "status", "detail", "code"}
    assert isinstance(problem.get("index", 0), int)
    assert isinstance(problem.get("field", ""), str)
    assert problem["status"] == status
    assert all(isinstance(problem[name], str) and problem[name] for name in ("title", "code"))
    assert said in problem["detail"]
    assert "/tmp" not in answer.text


# Bodies

NOT_JSON = {
    "nothing": b"",
    "white space": b" \n",
    "an unfinished object": b'{"type":',
    "bare words": b"hello",
    "NaN": b'{"type":"T","data":NaN}',
    "infinity": b'{"type":"T","data":-Infinity}',
    "a leading zero": b'{"type":"T","data":01}',
    "single quotes": b"{'type':'T','data':1}",
    "a trailing comma": b'{"type":"T","data":1,}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"T","data":1}',
    "a control character in a string": b'{"type":"T","data":"\x01"}',
    "bad UTF-8 in data": b'{"type":"T","data":"\xff"}',
    "bad UTF-8 in the type": b'{"type":"\xc3\x28","data":1}',
    "overlong UTF-8": b'{"type":"T","data":"\xc0\x80"}',
    "a surrogate in UTF-8": b'{"type":"T","data":"\xed\xa0\x80"}',
    "a lone high surrogate in data": b'{"type":"T","data":"\\ud800"}',
    "a lone low surrogate in data": b'{"type":"T","data":"\\udc00 x"}',
    "a lone surrogate in the type": b'{"type":"\\ud800","data":1}',
    "a lone surrogate in a key": b'{"type":"T","data":{"\\udfff":1}}',
    "100,000 open brackets": b'{"type":"T","data":' + b"[" * 100_000 + b"}",
    "100,000 nested brackets": b'{"type":"T","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "two documents": b'{"type":"T","data":1}{"type":"T","data":1}',
    "NDJSON": b'{"type":"T","data":1}\n{"type":"T","data":1}\n',
    "UTF-16": '{"type":"T","data":1}'.encode("utf-16"),
}
NO_EVENT = {
    "null": b"null",
    "a number": b"5",
    "text": b'"T"',
    "an array": b"[]",
    "an array of an event": json.dumps([EVENT]).encode(),
    "an empty object": b"{}",
    "no type": b'{"data":1}',
    "no data": b'{"type":"T"}',
    "a type that is null": b'{"type":null,"data":1}',
    "a type that is a number": b'{"type":1,"data":1}',
    "an empty type": b'{"type":"","data":1}',
    "256 characters of type": json.dumps({"type": "x" * 256, "data": 1}).encode(),
    "a newline in the type": b'{"type":"a\\nb","data":1}',
    "a NUL in the type": b'{"type":"a\\u0000b","data":1}',
    "a C1 control character in the type": b'{"type":"a\\u0085b","data":1}',
    "data that nests 513 deep": b'{"type":"T","data":' + b"[" * 513 + b"]" * 513 + b"}",
    "a type in capitals": b'{"TYPE":"T","data":1}',
}
BAD_TIMES = [
    None,
    5,
    "",
    " ",
    "2024-02-30T00:00:00Z",
    "2023-02-29T00:00:00Z",
    "2024-13-01T00:00:00Z",
    "2024-00-01T00:00:00Z",
    "2024-01-01",
    "2024-01-01T00:00:00",
    "2024-01-01 00:00:00Z",
    "2024-01-01T00:00:00.1234567890Z",
    "2024-01-01T00:00:00.Z",
    "2024-01-01T24:00:00Z",
    "2024-01-01T00:60:00Z",
    "2024-01-01T00:00:60Z",
    "2024-01-01T00:00:00+24:00",
    "2024-01-01T00:00:00+0200",
    "2024-01-01T00:00:00z",
    "2024-01-01T00:00:00Z\n",
    "24-01-01T00:00:00Z",
    "٢٠٢٤-01-01T00:00:00Z",
    "now",
]


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("path", ["/events", "/events/batch", "/subscriptions/s/position"])
def test_what_is_not_one_json_document_is_400(client: TenantClient, path: str, body: bytes) -> None:
    body = b"[" + body + b"]" if path == "/events/batch" and body.startswith(b"{") else body
    assert_problem(client.post(path, content=body), 400)


@pytest.mark.parametrize("body", NO_EVENT.values(), ids=NO_EVENT.keys())
def test_what_is_no_event_is_400(client: TenantClient, body: bytes) -> None:
    assert_problem(client.post("/events", content=body), 400, said="$")


@pytest.mark.parametrize("body", NO_EVENT.values(), ids=NO_EVENT.keys())
def test_a_batch_with_one_that_is_no_event_is_400_and_says_which(
    client: TenantClient, body: bytes
) -> None:
    batch = b"[" + json.dumps(EVENT).encode() + b"," + body + b"]"
    assert_problem(client.post("/events/batch", content=batch), 400, said="$[1]")


@pytest.mark.parametrize(
    ("member", "field", "said"),
    [
        ({"type": 5}, "type", ".type: Expected `str`, got `int`"),
        ({"type": ""}, "type", ".type: must not be empty"),
        ({"type": UNSET}, "type", ": Object missing required field `type`"),
        ({"data": UNSET}, "data", ": Object missing required field `data`"),
        ({"id": 4}, "id", ".id: Expected `str | null`, got `int`"),
        ({"id": "x" * 256}, "id", ".id: has 256 characters"),
        ({"metadata": {"a": 1}}, "metadata", ".metadata: must be a flat map of texts: Expected"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata", ".metadata: has 20008 bytes"),
        ({"timestamp": "now"}, "timestamp", ".timestamp: must be"),
    ],
    ids=lambda it: str(it)[:40],
)
def test_a_problem_names_the_event_and_the_member_wherever_it_stands(
    client: TenantClient, member: dict[str, Any], field: str, said: str
) -> None:
    bad = {name: value for name, value in {**EVENT, **member}.items() if value is not UNSET}
    for path, body, place, index in (
        ("/events", bad, "$", None),
        ("/events/batch", [EVENT, bad], "$[1]", 1),
        ("/events/batch", {"events": [EVENT, EVENT, bad]}, "$.events[2]", 2),
    ):
        problem = client.post(path, json=body).json()
        assert problem["status"] in {400, 413}
        assert problem["detail"].startswith(place + said), problem
        assert (problem.get("index"), problem["field"]) == (index, field)


def test_a_long_name_is_not_told_back_whole(client: TenantClient) -> None:
    answer = client.post("/events/batch", json={"events": [EVENT], "x" * 100_000: 1})
    assert_problem(answer, 400, said="unknown field")
    assert len(answer.content) < 1_000


@pytest.mark.parametrize("timestamp", BAD_TIMES, ids=repr)
def test_what_is_no_time_is_400(client: TenantClient, timestamp: object) -> None:
    bad = {**EVENT, "timestamp": timestamp}
    assert_problem(client.post("/events", json=bad), 400, said="$.timestamp: ")
    answer = client.post("/events/batch", json=[EVENT, bad])
    assert_problem(answer, 400, said="$[1].timestamp: ")


@pytest.mark.parametrize("body", [b"null", b"{}", b"[null]", b"[1]", b"5", b'"x"', b"[[]]"])
def test_what_is_no_batch_is_400(client: TenantClient, body: bytes) -> None:
    assert_problem(client.post("/events/batch", content=body), 400, said="$")


def test_an_empty_batch_is_400(client: TenantClient) -> None:
    assert_problem(client.post("/events/batch", content=b"[]"), 400, said="at least one event")


def test_1001_events_are_400(client: TenantClient) -> None:
    answer = client.post("/events/batch", json=[EVENT] * 1_001)
    assert_problem(answer, 400, said="Batch size limited to 1000 events")


def test_a_hundred_thousand_events_are_400(client: TenantClient) -> None:
    body = b"[" + b",".join([b'{"type":"T","data":1}'] * 100_000) + b"]"
    assert_problem(client.post("/events/batch", content=body), 400, said="limited to 1000")


@pytest.mark.parametrize(
    "body",
    [
        b'{"position":"5"}',
        b'{"position":-1}',
        b'{"position":1.5}',
        b'{"position":null}',
        b'{"position":true}',
        b'{"position":9223372036854775808}',
        b'{"position":1e3}',
        b'{"Position":5}',
        b"{}",
        b"[]",
        b"null",
        b"5",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_is_no_position_is_400(client: TenantClient, method: str, body: bytes) -> None:
    answer = client.request(method, "/subscriptions/s/position", content=body)
    assert_problem(answer, 400, said="$")


# Sizes


def test_an_event_over_1_mib_is_413_and_says_which(client: TenantClient) -> None:
    large = {**EVENT, "data": "x" * MIB}
    assert_problem(client.post("/events", json=large), 413, said="$: has 10")
    assert_problem(client.post("/events/batch", json=[EVENT, large]), 413, said="$[1]: has 10")


@pytest.mark.parametrize("path", ["/events", "/events/batch", "/subscriptions/s/position"])
def test_a_17_mib_body_is_413(client: TenantClient, path: str) -> None:
    body = b'{"type":"T","data":"' + b"x" * 17 * MIB + b'"}'
    assert_problem(client.post(path, content=body), 413, said="at most 16777216 bytes")


def test_a_17_mib_body_of_unknown_length_is_413(client: TenantClient) -> None:
    parts = (b"x" * MIB for _ in range(17))
    assert_problem(client.post("/events", content=parts), 413)


def test_a_body_that_says_it_is_too_large_is_not_waited_for(client: TenantClient) -> None:
    head = (
        f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {client.key}\r\n"
        f"Content-Length: {17 * MIB}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


# Content types


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "application/x-ndjson", "json", "*/*"]
)
@pytest.mark.parametrize("path", ["/events", "/events/batch", "/subscriptions/s/position"])
def test_what_is_not_called_json_is_415(client: TenantClient, path: str, content_type: str) -> None:
    answer = client.post(path, json=EVENT, headers={"Content-Type": content_type})
    assert_problem(answer, 415, said="application/json")


# Queries


@pytest.mark.parametrize(
    "value",
    [
        "",
        "abc",
        "-1",
        "1e3",
        "1.0",
        "+5",
        "%2B5",
        "%205",
        "5%20",
        "5%0A",
        "0x10",
        "1_000",
        "99999999999999999999",
        "9223372036854775808",
        "%D9%A1",
        "%00",
        "%ff",
        "1&NAME=2",
    ],
)
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/events?from=", "from"),
        ("/events?from=1&to=", "to"),
        ("/events/stream?from=", "from"),
        ("/events/stream?from=1&batch_size=", "batch_size"),
    ],
)
def test_what_is_no_number_is_400(client: TenantClient, path: str, name: str, value: str) -> None:
    answer = client.get(path + value.replace("NAME", name))
    assert_problem(answer, 400, said=f"Invalid '{name}' parameter")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/events", "from"),
        ("/events?to=5", "from"),
        ("/events?From=1", "from"),
        ("/events/stream", "from"),
        ("/events/stream?from=1&batch_size=0", "batch_size"),
    ],
)
def test_a_missing_or_senseless_number_is_400(client: TenantClient, path: str, name: str) -> None:
    assert_problem(client.get(path), 400, said=f"Invalid '{name}' parameter")


def test_a_thousand_parameters_are_400(client: TenantClient) -> None:
    assert_problem(client.get("/events?from=1" + "&x=1" * 1_000), 400)


# Paths and methods


@pytest.mark.parametrize(
    "id",
    [
        quote("a b"),
        quote("für"),
        quote("日本"),
        "%00",
        "%0A",
        "%ff",
        "%22",
        "%3Cscript%3E",
        "a%5Cb",
        "a%3Fb",
        "a%23b",
        "a%25b",
        "x" * 256,
        "%2E%2E",
        "%2E",
        "s%0A",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
def test_a_subscription_id_that_a_path_cannot_hold_is_400(
    client: TenantClient, method: str, id: str
) -> None:
    body = b'{"position":9}' if method != "GET" else None
    answer = client.request(method, f"/subscriptions/{id}/position", content=body)
    assert_problem(answer, 400, said="ubscription id")
    if id.startswith("%2E"):
        assert_problem(answer, 400, said="not be . or ..")


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/",
        "/subscriptions/s/lease/x",
        "/subscriptions/s/parked",
        "/subscriptions/s/nope",
        "/streams/s",
        "/subscriptions/a/b/position",
        "/subscriptions/a%2Fb/position",
        "/subscriptions/s/position/more",
        "/events/1",
        "/events/batch/1",
        "/Events",
        "/schema",
        "/%00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_404(client: TenantClient, method: str, path: str) -> None:
    assert_problem(client.request(method, path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/events", {"GET", "POST"}),
        ("PATCH", "/events", {"GET", "POST"}),
        ("GET", "/events/batch", {"POST"}),
        ("POST", "/events/stream", {"GET"}),
        ("POST", "/position", {"GET"}),
        ("DELETE", "/subscriptions/s/position", {"GET", "POST", "PUT"}),
        ("POST", "/subscriptions", {"GET"}),
        ("POST", "/subscriptions/s", {"GET", "DELETE"}),
        ("GET", "/subscriptions/s/lease", {"POST"}),
        ("GET", "/subscriptions/s/lease/x/ack", {"POST"}),
        ("PUT", "/subscriptions/s/lease/x/release", {"POST"}),
        ("GET", "/subscriptions/s/parked/1/redeliver", {"POST"}),
        ("POST", "/subscriptions/s/parked/1", {"DELETE"}),
        ("POST", "/streams", {"GET"}),
        ("POST", "/metrics", {"GET"}),
        ("PUT", "/tenants", {"GET"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("PROPFIND", "/events", {"GET", "POST"}),
    ],
)
def test_an_unknown_method_is_405_and_says_which_are_known(
    client: TenantClient, method: str, path: str, allowed: set[str]
) -> None:
    answer = client.request(method, path)
    assert_problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) - {"OPTIONS"} == allowed


# Connections


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW /events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /events?from=1 HTTP/1.1\r\nHost: x\r\nX-API-Key: a\x00b\r\n\r\n",
        b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_is_refused_or_cut_off(client: TenantClient, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)
    assert answer == b"" or answer.split(b" ", 2)[1] in (b"400", b"401", b"404")


def raw(client: TenantClient, *pieces: bytes) -> bytes:
    """Send each piece by itself and read until the server closes."""
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = b""
        for piece in pieces[:-1]:
            connection.sendall(piece)
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                answer += connection.recv(65_536)
        connection.settimeout(60)
        with suppress(OSError):
            connection.sendall(pieces[-1])
        with suppress(ConnectionResetError):
            answer += b"".join(iter(lambda: connection.recv(65_536), b""))
        return answer


@pytest.mark.parametrize("field", [b"X-A: %b\r\n" % (b"a" * 1_000), b"x" * 1_000])
def test_a_head_without_end_is_431(client: TenantClient, field: bytes) -> None:
    begun = b"GET /health HTTP/1.1\r\nX-B: "
    pieces = [begun, *[field * 100] * 10]
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        answer = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            for piece in pieces:
                connection.sendall(piece)
            answer = connection.recv(1_024)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert client.get("/health").status_code == 200


def test_a_large_head_with_a_large_body_is_fine(client: TenantClient) -> None:
    answer = client.get("/position", headers={"X-Padding": "x" * 60_000})
    assert answer.status_code == 200


def test_a_key_in_a_trailer_opens_nothing(client: TenantClient) -> None:
    answer = raw(
        client,
        b"POST /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b'15\r\n{"type":"T","data":1}\r\n0\r\nX-API-Key: %b\r\n\r\n' % client.key.encode(),
    )
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_body_is_never_taken_for_a_request(client: TenantClient) -> None:
    """With an Upgrade, the parser hands back what follows as another protocol."""
    smuggled = (
        b"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\nContent-Length: 21\r\n\r\n"
        b'{"type":"S","data":1}' % client.key.encode()
    )
    outer = (
        b"POST /events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        b"X-API-Key: %b\r\nContent-Length: %d\r\n\r\n" % (client.key.encode(), len(smuggled))
    )
    answer = raw(client, outer, smuggled)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_client_that_leaves_in_the_middle_of_its_body_stores_nothing(
    client: TenantClient,
) -> None:
    head = (
        f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {client.key}\r\n"
        "Content-Length: 100\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.sendall(head.encode() + b'{"type":"T","data":1')
