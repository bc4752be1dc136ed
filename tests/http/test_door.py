"""The door: who gets in, and who does not."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.http.conftest import TenantClient

ROUTES = [
    ("POST", "/events"),
    ("POST", "/events/batch"),
    ("GET", "/events?from=1"),
    ("GET", "/events/stream?from=1"),
    ("GET", "/position"),
    ("GET", "/subscriptions/s/position"),
    ("PUT", "/subscriptions/s/position"),
    ("GET", "/metrics"),
    ("GET", "/tenants"),
    ("GET", "/openapi.json"),
    ("GET", "/nope"),
    ("DELETE", "/events"),
]


def assert_unauthorized(answer: httpx.Response, detail: str) -> None:
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == detail


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_answered_without_a_key(client: TenantClient, method: str, path: str) -> None:
    answer = httpx.request(method, client.server.url + path, verify=False)
    assert_unauthorized(answer, "API key required")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_answered_for_a_wrong_key(client: TenantClient, method: str, path: str) -> None:
    wrong = client.key[:-1]
    answer = httpx.request(
        method, client.server.url + path, headers={"X-API-Key": wrong}, verify=False
    )
    assert_unauthorized(answer, "Invalid API key")
    assert wrong not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "KEY"},
        {"x-api-key": "KEY"},
        {"Authorization": "Bearer KEY"},
        {"authorization": "bearer KEY"},
        {"Authorization": "BEARER   KEY"},
        {"X-API-Key": "KEY", "Authorization": "Basic eDp5"},
        {"X-API-Key": "KEY", "Authorization": "Bearer other"},
    ],
)
def test_a_key_opens_its_tenant(client: TenantClient, headers: dict[str, str]) -> None:
    sent = {name: value.replace("KEY", client.key) for name, value in headers.items()}
    answer = httpx.get(f"{client.server.url}/metrics", headers=sent, verify=False)
    assert answer.json()["tenant"] == client.name


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"X-API-Key": ""}, "API key required"),
        ({"Authorization": "Bearer"}, "API key required"),
        ({"Authorization": "KEY"}, "API key required"),
        ({"Authorization": "Basic KEY"}, "API key required"),
        ({"Authorization": "ApiKey KEY"}, "API key required"),
        ({"X-API-Key": "Bearer KEY"}, "Invalid API key"),
        ({"X-API-Key": "KEY, KEY"}, "Invalid API key"),
        ({"X-API-Key": "KEYx"}, "Invalid API key"),
        ({"X-API-Key": "wrong", "Authorization": "Bearer KEY"}, "Invalid API key"),
        ({"Authorization": "Bearer KEY KEY"}, "Invalid API key"),
    ],
)
def test_what_is_not_exactly_one_key_opens_nothing(
    client: TenantClient, headers: dict[str, str], detail: str
) -> None:
    sent = {name: value.replace("KEY", client.key) for name, value in headers.items()}
    assert_unauthorized(
        httpx.get(f"{client.server.url}/position", headers=sent, verify=False), detail
    )


@pytest.mark.parametrize("header", ["X-API-Key:    ", "Authorization: Bearer ", "X-API-Key:"])
def test_an_empty_key_is_none(client: TenantClient, header: str) -> None:
    answer = exchange(client, f"GET /metrics HTTP/1.1\r\nHost: x\r\n{header}\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"API key required" in answer


def test_keys_are_told_apart_by_case(client: TenantClient) -> None:
    headers = {"X-API-Key": client.key.upper()}
    answer = httpx.get(f"{client.server.url}/position", headers=headers, verify=False)
    assert_unauthorized(answer, "Invalid API key")


@pytest.mark.parametrize("second", ["same", "other"])
@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
def test_a_header_that_comes_twice_opens_nothing(
    client: TenantClient, bystander: TenantClient, name: str, second: str
) -> None:
    scheme = "Bearer " if name == "Authorization" else ""
    keys = [client.key, client.key if second == "same" else bystander.key]
    headers = [(name, scheme + key) for key in keys]
    answer = httpx.post(f"{client.server.url}/events", headers=headers, json={}, verify=False)
    assert_unauthorized(answer, "Invalid API key")


def test_spaces_around_a_key_are_not_part_of_it(client: TenantClient) -> None:
    key = f"X-API-Key: \t {client.key} \t "
    answer = exchange(client, f"GET /metrics HTTP/1.1\r\nHost: x\r\n{key}\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert f'"tenant":"{client.name}"'.encode() in answer


def exchange(client: TenantClient, head: str) -> bytes:
    """Send what httpx would not, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_the_key_is_checked_before_the_body_is_read(client: TenantClient) -> None:
    head = "POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.server.port), timeout=60) as connection:
        connection.sendall(head.encode())  # and not one byte of the body
        assert connection.recv(64).startswith(b"HTTP/1.1 401 ")


def test_no_key_is_ever_logged(client: TenantClient) -> None:
    client.append()
    client.get("/events?from=x")
    assert client.key not in client.server.log
