"""Appending events and reading them back, over HTTP."""

from __future__ import annotations

import json
import re
import socket
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.http.conftest import TenantClient

AT = "2024-01-01T00:00:00Z"


def batch(size: int, data: object = None) -> list[dict[str, object]]:
    return [{"type": "T", "data": data or at, "timestamp": AT} for at in range(size)]


# Appending


def test_an_event_comes_back_with_its_position(client: TenantClient) -> None:
    answer = client.append(data={"order": "A-001"})
    assert answer.status_code == 200
    assert answer.content == (
        b'{"position":1,"type":"OrderPlaced","data":{"order":"A-001"},'
        b'"timestamp":"2024-01-01T00:00:00Z"}'
    )


def test_every_tenant_counts_from_one(client: TenantClient, bystander: TenantClient) -> None:
    assert client.append().json()["position"] == 1
    assert bystander.append().json()["position"] == 1
    assert client.append().json()["position"] == 2
    assert len(bystander.get("/events?from=1").json()) == 1


@pytest.mark.parametrize(
    "data",
    [
        "1.0",
        "0.10",
        "1e400",
        "-0",
        "12345678901234567890123456789012345678901234567890",
        '{"b":1,"a":2}',
        '{"a":1,"a":2}',
        '{ "spaced" : [ 1 , 2 ],\n"lines":\ttrue }',
        '"caf\\u00e9 \\ud83d\\ude00 \\u003c"',
        '"<&>café"',
        '"},{\\"position\\":9"',
        "null",
        "[]",
        "[" * 512 + "]" * 512,
    ],
)
def test_data_comes_back_byte_for_byte(client: TenantClient, data: str) -> None:
    body = f'{{"type":"T","data":{data},"timestamp":"{AT}"}}'.encode()
    stored = f'{{"position":1,"type":"T","data":{data},"timestamp":"{AT}"}}'.encode()
    assert client.post("/events", content=body).content == stored
    assert client.get("/events?from=1").content == b"[" + stored + b"]"
    assert client.get("/events/stream?from=1").content == b"[" + stored + b"]"


@pytest.mark.parametrize(
    "timestamp",
    [
        "2024-01-01T00:00:00Z",
        "2024-05-06T07:08:09.123456789+02:00",
        "2024-02-29T23:59:59.5-12:30",
        "2024-05-06T07:08:09+00:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
    ],
)
def test_a_time_keeps_its_offset_and_its_nanoseconds(client: TenantClient, timestamp: str) -> None:
    client.post("/events", json={"type": "T", "data": 1, "timestamp": timestamp})
    assert client.get("/events?from=1").json()[0]["timestamp"] == timestamp


def test_an_event_without_a_time_gets_the_servers_clock(client: TenantClient) -> None:
    answer = client.post("/events", json={"type": "T", "data": 1}).json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", answer["timestamp"])
    moment = datetime.fromisoformat(answer["timestamp"][:19] + "+00:00")
    assert abs(datetime.now(UTC) - moment) < timedelta(hours=1)
    assert client.get("/events?from=1").json() == [answer]


def test_unknown_fields_and_a_sent_position_are_ignored(client: TenantClient) -> None:
    body = {"position": 77, "type": "T", "data": 1, "timestamp": AT, "trace": "x"}
    assert client.post("/events", json=body).json() == {
        "position": 1,
        "type": "T",
        "data": 1,
        "timestamp": AT,
    }


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "Application/JSON; charset=utf-8"]
)
def test_json_may_be_called_json_or_nothing_at_all(
    client: TenantClient, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/events", content=b'{"type":"T","data":1}', headers=headers)
    assert answer.status_code == 200


def test_what_curl_calls_its_data_is_taken_as_json(client: TenantClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = client.post("/events", content=b'{"type":"T","data":1}', headers=headers)
    assert answer.status_code == 200


def test_a_batch_takes_contiguous_positions(client: TenantClient) -> None:
    client.append()
    assert client.post("/events/batch", json=batch(3)).json() == {
        "saved": 3,
        "first_position": 2,
        "last_position": 4,
    }
    assert [event["data"] for event in client.get("/events?from=2").json()] == [0, 1, 2]


def test_a_batch_may_hold_a_thousand_events(client: TenantClient) -> None:
    assert client.post("/events/batch", json=batch(1_000)).json()["last_position"] == 1_000


def test_one_bad_event_keeps_its_whole_batch_out(client: TenantClient) -> None:
    events = batch(5)
    events[3]["type"] = ""
    answer = client.post("/events/batch", json=events)
    assert answer.status_code == 400
    assert answer.json()["detail"] == "$[3].type: must not be empty"
    assert client.position() == 0


def test_a_body_may_come_in_chunks(client: TenantClient) -> None:
    parts = iter([b'{"type":"T",', b'"data":', b"1}"])
    assert client.post("/events", content=parts).json()["position"] == 1


# Reading


@pytest.mark.parametrize(
    ("query", "positions"),
    [
        ("from=1", [1, 2, 3, 4, 5]),
        ("from=0", [1, 2, 3, 4, 5]),
        ("from=2&to=3", [2, 3]),
        ("from=4&to=4", [4]),
        ("from=4&to=100", [4, 5]),
        ("from=4&to=2", []),
        ("from=1&to=0", []),
        ("from=6", []),
        ("from=9223372036854775807", []),
        ("to=2&from=1", [1, 2]),
        ("from=1&unknown=x", [1, 2, 3, 4, 5]),
    ],
)
def test_a_range_is_inclusive_at_both_ends(
    client: TenantClient, query: str, positions: list[int]
) -> None:
    client.post("/events/batch", json=batch(5))
    answer = client.get(f"/events?{query}")
    assert answer.status_code == 200
    assert [event["position"] for event in answer.json()] == positions


def test_a_range_that_is_cut_says_where_to_go_on(client: TenantClient) -> None:
    for _ in range(11):
        client.post("/events/batch", json=batch(1_000))
    first = client.get("/events?from=1")
    assert len(first.json()) == 10_000
    assert first.links["next"]["url"] == "/events?from=10001"
    second = client.get(first.links["next"]["url"])
    assert [event["position"] for event in second.json()] == list(range(10_001, 11_001))
    assert "Link" not in second.headers


def test_the_rest_of_a_bounded_range_keeps_its_bound(client: TenantClient) -> None:
    for _ in range(11):
        client.post("/events/batch", json=batch(1_000))
    first = client.get("/events?from=1&to=10500")
    assert first.links["next"]["url"] == "/events?from=10001&to=10500"
    assert len(client.get(first.links["next"]["url"]).json()) == 500


@pytest.mark.parametrize("query", ["from=1&to=10000", "from=1001", "from=1001&to=11000"])
def test_a_range_that_just_fits_is_not_cut(client: TenantClient, query: str) -> None:
    for _ in range(11):
        client.post("/events/batch", json=batch(1_000))
    answer = client.get(f"/events?{query}")
    assert len(answer.json()) == 10_000
    assert "Link" not in answer.headers


def test_large_events_are_sent_page_by_page_and_are_all_there(client: TenantClient) -> None:
    for _ in range(3):
        client.post("/events/batch", json=batch(10, "x" * 500_000))
    for path in ("/events?from=2", "/events/stream?from=2"):
        with client.stream("GET", path) as answer:
            assert answer.headers["transfer-encoding"] == "chunked"
            assert "Link" not in answer.headers
            events = json.loads(answer.read())
        assert [event["position"] for event in events] == list(range(2, 31))
        assert {len(event["data"]) for event in events} == {500_000}


@pytest.mark.parametrize(
    "batch_size", ["", "&batch_size=1", "&batch_size=7", "&batch_size=1000000"]
)
def test_a_stream_is_the_same_array_whatever_its_batches(
    client: TenantClient, batch_size: str
) -> None:
    client.post("/events/batch", json=batch(20))
    with client.stream("GET", f"/events/stream?from=3{batch_size}") as answer:
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["transfer-encoding"] == "chunked"
        events = json.loads(answer.read())
    assert [event["position"] for event in events] == list(range(3, 21))


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_stream_of_nothing_is_an_empty_array(client: TenantClient, start: int) -> None:
    assert client.get(f"/events/stream?from={start}").json() == []


def test_the_position_is_the_last_one_given(client: TenantClient) -> None:
    assert client.position() == 0
    client.post("/events/batch", json=batch(3))
    assert client.position() == 3


def test_a_client_that_has_said_all_gets_its_answer(client: TenantClient) -> None:
    body = b'{"type":"T","data":1}'
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: {client.key}\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"position":1' in answer


# What an operator asks


def test_metrics_are_of_one_tenant(client: TenantClient, bystander: TenantClient) -> None:
    client.post("/events/batch", json=batch(3))
    bystander.append()
    metrics = client.get("/metrics").json()
    assert (metrics["tenant"], metrics["total_events"]) == (client.name, 3)
    assert isinstance(metrics["timestamp"], int)


def test_tenants_are_listed_in_the_order_of_the_config_file(client: TenantClient) -> None:
    listed = client.get("/tenants").json()
    assert listed["count"] == len(listed["tenants"])
    assert listed["tenants"][:3] == ["tenant-0", "tenant-1", "tenant-2"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_needs_no_key(client: TenantClient, method: str) -> None:
    answer = httpx.request(method, f"{client.server.url}/health", verify=False)
    assert answer.status_code == 200
    assert answer.content == (b'{"status":"healthy"}' if method == "GET" else b"")
