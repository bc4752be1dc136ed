"""Keys with a scope, keys that end, addresses that try too many, and who sees whom."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from ebus.http.credentials import client_address
from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving

EVENT = {"type": "T", "data": 1, "timestamp": "2024-01-01T00:00:00Z"}

READS = [
    ("GET", "/events?from=1"),
    ("GET", "/events/stream?from=1"),
    ("GET", "/position"),
    ("GET", "/subscriptions/s/position"),
    ("GET", "/metrics"),
    ("GET", "/tenants"),
]
WRITES = [
    ("POST", "/events", EVENT),
    ("POST", "/events/batch", [EVENT]),
    ("PUT", "/subscriptions/s/position", {"position": 1}),
]

KEYS = {name: f"key-{name}-{'x' * 40}" for name in ("own", "both", "reads", "writes")}


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


@contextmanager
def server_with(directory: Path, *arguments: str, **top: Any) -> Iterator[LiveServer]:
    write_tenants(directory, **top)
    with serving(["--config", "tenants.yaml", *arguments], cwd=directory) as server:
        yield server
    assert not any(key in server.log for key in KEYS.values())


def write_tenants(directory: Path, **top: Any) -> None:
    alice = {
        "name": "alice",
        "api_key_sha256": digest(KEYS["own"]),
        "api_keys": [
            {"name": "both", "api_key_sha256": digest(KEYS["both"])},
            {"name": "reads", "api_key": KEYS["reads"], "scope": "read"},
            {"name": "writes", "api_key": KEYS["writes"], "scope": "write"},
        ],
    }
    bob = {"name": "bob", "api_key": "b" * 40}
    write_config(directory / "tenants.yaml", {"engine": "memory", "tenants": [alice, bob], **top})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with server_with(tmp_path_factory.mktemp("keys")) as server:
        yield server


def client_of(server: LiveServer, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"X-API-Key": key}, timeout=60, verify=False)


@pytest.mark.parametrize("key", ["own", "both"])
def test_a_key_of_both_scopes_may_do_everything(server: LiveServer, key: str) -> None:
    with client_of(server, KEYS[key]) as client:
        for method, path, body in WRITES:
            assert client.request(method, path, json=body).is_success
        for method, path in READS:
            assert client.request(method, path).is_success


@pytest.mark.parametrize(
    "headers",
    [{}, {"Accept": "text/html", "Connection": "close"}],
    ids=["the short way", "the long way"],
)
def test_a_key_that_may_only_read_writes_nothing(
    server: LiveServer, headers: dict[str, str]
) -> None:
    with client_of(server, KEYS["reads"]) as client:
        before = client.get("/metrics").json()["total_events"]
        for method, path, body in WRITES:
            answer = client.request(method, path, json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
            assert answer.json()["detail"] == "This API key may only read"
            assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
        for method, path in READS:
            assert client.request(method, path).is_success
        assert client.get("/metrics").json()["total_events"] == before
        assert client.delete("/events").status_code == 403


def test_a_key_that_may_only_write_reads_nothing(server: LiveServer) -> None:
    with client_of(server, KEYS["writes"]) as client:
        for method, path, body in WRITES:
            assert client.request(method, path, json=body).is_success
        for method, path in READS:
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
            assert answer.json()["detail"] == "This API key may only write"
        assert client.head("/position").status_code == 403


@pytest.mark.parametrize("key", KEYS)
def test_every_key_may_see_how_the_server_is_used(server: LiveServer, key: str) -> None:
    with client_of(server, KEYS[key]) as client:
        assert client.get("/openapi.json").is_success


@pytest.mark.parametrize("path", ["lease", "lease?wait=1s", "lease/", "/lease//", "%6Cease"])
@pytest.mark.parametrize("key", ["reads", "writes"])
@pytest.mark.parametrize("way", [{}, {"Connection": "close"}], ids=["short way", "long way"])
def test_a_lease_needs_a_key_for_both(
    server: LiveServer, key: str, path: str, way: dict[str, str]
) -> None:
    with client_of(server, KEYS["both"]) as client:
        client.post("/events", json=EVENT).raise_for_status()
        assert client.post("/subscriptions/leased/lease", json={}).status_code in {200, 204}
        before = client.get("/subscriptions/leased").json()
    with client_of(server, KEYS[key]) as client:
        answer = client.post(f"/subscriptions/leased/{path}", json={}, headers=way)
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    with client_of(server, KEYS["both"]) as client:
        assert client.get("/subscriptions/leased").json() == before


def test_a_key_that_may_only_write_can_end_leases_and_gets_no_event_for_it(
    server: LiveServer,
) -> None:
    with client_of(server, KEYS["both"]) as both, client_of(server, KEYS["writes"]) as writes:
        both.post("/events/batch", json=[EVENT, EVENT]).raise_for_status()
        held = (
            "/subscriptions/ended/lease/"
            + both.post(
                "/subscriptions/ended/lease", json={"max_events": 2, "max_attempts": 1}
            ).json()["lease"]
        )
        extended = writes.post(f"{held}/extend", json={"seconds": 60})
        assert extended.status_code == 200
        assert "events" not in extended.json()
        for what, body in (("ack", {"position": 1}), ("release", {"position": 2})):
            answer = writes.post(f"{held}/{what}", json=body)
            assert (answer.status_code, answer.content) == (204, b"")
        answer = writes.post("/subscriptions/ended/parked/2/redeliver")
        assert (answer.status_code, answer.content) == (204, b"")


def test_a_digest_is_no_key(server: LiveServer) -> None:
    with client_of(server, digest(KEYS["own"])) as client:
        assert client.get("/position").status_code == 401


def test_a_key_opens_nothing_from_its_end_on(tmp_path: Path) -> None:
    end_s = time.time() + 2
    keys = [
        {
            "name": "ends",
            "api_key": "e" * 40,
            "expires_at": datetime.fromtimestamp(end_s, UTC).isoformat(timespec="seconds"),
        },
        {"name": "ended", "api_key": "o" * 40, "expires_at": "2020-01-01"},
        {"name": "goes on", "api_key": "g" * 40, "expires_at": "2999-01-01"},
    ]
    tenants = [{"name": "alice", "api_keys": keys}]
    write_config(tmp_path / "tenants.yaml", {"engine": "memory", "tenants": tenants})
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        with client_of(server, "o" * 40) as ended:
            answer = ended.get("/position")
            assert (answer.status_code, answer.json()["code"]) == (401, "key_expired")
            assert answer.headers["www-authenticate"] == "Bearer"
        with client_of(server, "e" * 40) as ends, client_of(server, "g" * 40) as goes_on:
            first = ends.get("/position").status_code
            assert first == 200 or time.time() >= int(end_s)  # a machine may be slow to start
            while time.time() < end_s:
                time.sleep(0.05)
            assert ends.get("/position").status_code == 401
            assert goes_on.get("/position").status_code == 200
        assert "these API keys have expired: ended of alice" in server.log


# Addresses that try too many keys


def test_a_key_that_has_ended_counts_as_one_that_opens_nothing(tmp_path: Path) -> None:
    ended = {"name": "ended", "api_key": "o" * 40, "expires_at": "2020-01-01"}
    tenants = [{"name": "alice", "api_keys": [ended]}]
    config = {"engine": "memory", "tenants": tenants, **FEW}
    write_config(tmp_path / "tenants.yaml", config)
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        assert statuses(server, ["o" * 40] * 5) == [401] * 3 + [429] * 2


def test_a_request_beyond_a_keys_scope_counts_as_one(tmp_path: Path) -> None:
    limits = {"tenant_limits": {"max_requests_per_second": 0.01, "max_request_burst": 2}}
    with server_with(tmp_path, **limits) as server, client_of(server, KEYS["reads"]) as reads:
        found = [reads.post("/events", json=EVENT).status_code for _ in range(3)]
        assert found == [403, 403, 429]


def statuses(server: LiveServer, keys: list[str], **headers: str) -> list[int]:
    with httpx.Client(base_url=server.url, headers=headers, timeout=60, verify=False) as client:
        return [client.get("/position", headers={"X-API-Key": key}).status_code for key in keys]


WRONG = [f"wrong-{number}" for number in range(8)]
FEW = {"limits": {"max_failed_keys_per_minute": 3}}


@pytest.mark.parametrize("path", ["/metrics", "/tenants", "/openapi.json", "/nowhere"])
def test_keys_cannot_be_guessed_on_any_path(tmp_path: Path, path: str) -> None:
    with server_with(tmp_path, **FEW) as server:
        with httpx.Client(base_url=server.url, timeout=60, verify=False) as client:
            found = [client.get(path, headers={"X-API-Key": key}).status_code for key in WRONG]
        assert found == [401] * 3 + [429] * 5


def test_an_address_that_tries_too_many_keys_is_429_but_its_good_keys_are_not(
    tmp_path: Path,
) -> None:
    with server_with(tmp_path, **FEW) as server:
        assert statuses(server, WRONG) == [401] * 3 + [429] * 5
        assert statuses(server, [KEYS["own"], "wrong", KEYS["own"]]) == [200, 429, 200]
        refused = httpx.get(f"{server.url}/position", headers={"X-API-Key": "wrong"}, verify=False)
        assert refused.json()["code"] == "too_many_failed_keys"
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        missing = httpx.get(f"{server.url}/position", verify=False)
        assert (missing.status_code, missing.json()["code"]) == (401, "key_required")


def test_workers_count_failed_keys_together(tmp_path: Path) -> None:
    with server_with(tmp_path, "--workers", "2", **FEW, engine="sqlite") as server:
        found = [statuses(server, ["wrong"])[0] for _ in range(20)]  # a connection each
        assert found.count(401) == 3


def test_whoever_is_no_trusted_proxy_cannot_name_an_address(tmp_path: Path) -> None:
    with server_with(tmp_path, **FEW) as server:
        found = [
            statuses(server, ["wrong"], **{"X-Forwarded-For": f"192.0.2.{number}"})[0]
            for number in range(8)
        ]
        assert found == [401] * 3 + [429] * 5


def test_a_trusted_proxy_names_the_address(tmp_path: Path) -> None:
    with server_with(tmp_path, **FEW, trusted_proxies=["127.0.0.1"]) as server:

        def tried(forwarded: str) -> list[int]:
            return statuses(server, WRONG, **{"X-Forwarded-For": forwarded})

        assert tried("192.0.2.1") == [401] * 3 + [429] * 5
        assert tried("192.0.2.2") == [401] * 3 + [429] * 5
        assert tried("192.0.2.99, 192.0.2.2") == [429] * 8  # the left one is the client's word
        assert tried("2001:db8::1") == [401] * 3 + [429] * 5
        assert tried("2001:db8::2") == [429] * 8  # of the same /64


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["198.51.100.7:1234"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:1234"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, gar\xffbage, 10.0.0.2"], "10.0.0.2"),
    ],
)
def test_where_a_request_comes_from(peer: str, forwarded: list[str], expected: str) -> None:
    trusted = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    assert client_address((peer, 1), headers, trusted) == ip_address(expected)


def test_a_peer_without_an_address_is_nobody() -> None:
    assert client_address(None, [(b"x-forwarded-for", b"192.0.2.1")], []) is None


# Who sees whom


@pytest.mark.parametrize(
    ("visible", "names"), [(None, ["alice", "bob"]), ("all", ["alice", "bob"]), ("own", ["alice"])]
)
def test_which_tenants_are_shown(tmp_path: Path, visible: str | None, names: list[str]) -> None:
    top = {} if visible is None else {"tenants_visible": visible}
    with server_with(tmp_path, **top) as server, client_of(server, KEYS["own"]) as alice:
        assert alice.get("/tenants").json() == {"tenants": names, "count": len(names)}


def test_a_key_reaches_neither_the_process_list_nor_the_log(tmp_path: Path) -> None:
    write_tenants(tmp_path)
    arguments = ["--config", "tenants.yaml", "--access-log", "--log-format", "json"]
    with serving(arguments, cwd=tmp_path, from_nothing=True) as server:
        key = KEYS["own"]
        with client_of(server, key) as alice:
            alice.post("/events", json=EVENT)
            alice.get("/events?from=x")
        title = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert key.encode() not in title
        with socket.create_connection(("127.0.0.1", server.port)) as broken:
            broken.sendall(b"GET / HTTP/1.1\r\nX-API-Key: " + key.encode() + b"\r\nx\r\n\r\n")
            assert key.encode() not in broken.recv(65_536)
    assert not any(key in server.log for key in KEYS.values())
