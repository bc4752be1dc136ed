"""A server whose storage is away: what does not need it is answered, what needs it says so."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ebus.core import aio
from ebus.core import lane as lane_module
from ebus.core.errors import StoreRefused, StoreUnavailable
from ebus.http import live as live_module
from ebus.http import outage, scraping
from tests.breaking import HEALTH, BreakingEngine, Switch, installed
from tests.http.conftest import write_config
from tests.http.in_process import InProcess, key_of, serving_in_process
from tests.http.tails import JSON, NDJSON, SSE, Follower
from tests.live_server import serving

ADMIN_KEY = "the-admin-key-" + "x" * 32
TENANTS = ("alice", "bob", *(f"t{number}" for number in range(30)))
PATIENCE_S = 30.0


class Served:
    """A server, and what breaks its storage."""

    def __init__(self, server: InProcess, switch: Switch) -> None:
        self.server = server
        self.switch = switch

    def ask(self, method: str, path: str, *, key: str = "", **more: Any) -> httpx.Response:
        if key:
            more["headers"] = {"X-API-Key": key, **more.get("headers", {})}
        return httpx.request(method, self.server.url + path, timeout=60, verify=False, **more)

    def until_well(self) -> None:
        wait_for(lambda: self.ask("GET", "/health").status_code == 200)

    def send(self, tenant: str, *types: str) -> None:
        events = [{"type": kind, "data": 1} for kind in types]
        answer = self.ask("POST", "/events/batch", key=key_of(tenant), json=events)
        assert answer.status_code == 200, answer.text

    def follow(
        self, tenant: str, form: str = NDJSON, query: dict[str, int] | None = None, **more: Any
    ) -> Follower:
        query = {"from": 1, **(query or {})}
        return Follower(self.server.port, key_of(tenant), form, query, **more)


def serve(directory: Path, engine: BreakingEngine) -> AbstractContextManager[InProcess]:
    return serving_in_process(
        directory,
        engine,
        tenants=TENANTS,
        admin_key_sha256=hashlib.sha256(ADMIN_KEY.encode()).hexdigest(),
    )


@pytest.fixture(scope="module")
def patient() -> Iterator[None]:
    """Nobody waits for as long as they would."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aio, "HEALTH_PATIENCE_S", 0.2)
        patched.setattr(aio, "SIZES_PATIENCE_S", 0.2)
        patched.setattr(scraping, "STALLED_S", 0.2)
        patched.setattr(lane_module, "IN_VAIN_S", 0.0)
        patched.setattr(live_module, "HEARTBEAT_S", 0.2)
        patched.setattr(outage, "LONGEST_PAUSE_S", 0.5)
        yield


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, patient: None) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("away")
    (directory / "switch").mkdir()
    switch = Switch(directory / "switch")
    with serve(directory, BreakingEngine(switch)) as server:
        yield Served(server, switch)


others = iter(TENANTS[2:])


@pytest.fixture
def tenant() -> str:
    return next(others)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(30) as threads:
        yield threads


# What does not need the storage


@pytest.mark.parametrize("how", ["hanging", "unreachable"])
def test_what_needs_no_storage_is_answered_while_it_is_away(served: Served, how: str) -> None:
    ask = served.ask
    with getattr(served.switch, how)():
        assert ask("GET", "/health").status_code == 503
        assert ask("GET", "/health?details=true").status_code == 503
        assert ask("GET", "/ui").status_code == 200
        assert ask("GET", "/docs").status_code == 200
        assert ask("GET", "/tenants", key=key_of("alice")).status_code == 200
        assert ask("GET", "/events?from=1").status_code == 401
        assert ask("GET", "/events?from=1", key="not-a-key").status_code == 401
        assert ask("POST", "/events", key="not-a-key", json={}).status_code == 401
        assert ask("GET", "/events?from=1", key=ADMIN_KEY).status_code == 403
        assert ask("POST", "/events", key=key_of("alice"), content=b"{").status_code == 400
        assert ask("GET", "/metrics", key=ADMIN_KEY).status_code == 200
        text = ask("GET", "/metrics", key=ADMIN_KEY, headers={"Accept": "text/plain"})
        assert text.status_code == 200
        assert f"ebus_scrape_unanswered_tenants {len(TENANTS)}" in text.text
        assert ask("GET", "/admin/tenants", key=ADMIN_KEY).status_code == 200
        assert ask("GET", "/admin/tenants/alice", key=ADMIN_KEY).status_code == 200
    served.until_well()


def test_checks_of_the_health_that_come_together_do_not_wait_for_each_other(
    served: Served, threads: ThreadPoolExecutor
) -> None:
    with served.switch.hanging():
        checks = [threads.submit(served.ask, "GET", "/health") for _ in range(30)]
        assert {check.result(PATIENCE_S).status_code for check in checks} == {503}
    served.until_well()


# What needs it

LEASE = "/subscriptions/s/lease"
CALLS: dict[str, tuple[str, str, Any]] = {
    "append": ("POST", "/events", {"type": "T", "data": 1}),
    "append a batch": ("POST", "/events/batch", [{"type": "T", "data": 1}]),
    "read": ("GET", "/events?from=1", None),
    "read by type": ("GET", "/events?type=T", None),
    "read the last": ("GET", "/events?last=2", None),
    "read and wait": ("GET", "/events?from=9&wait=20s", None),
    "stream": ("GET", "/events/stream?from=1", None),
    "follow": ("GET", "/events/stream?from=1&follow=true", None),
    "follow the last": ("GET", "/events/stream?last=1&follow=true", None),
    "position": ("GET", "/position", None),
    "streams": ("GET", "/streams", None),
    "metrics": ("GET", "/metrics", None),
    "subscriptions": ("GET", "/subscriptions", None),
    "subscription": ("GET", "/subscriptions/s", None),
    "forget": ("DELETE", "/subscriptions/s", None),
    "checkpoint": ("GET", "/subscriptions/s/position", None),
    "save": ("PUT", "/subscriptions/s/position", {"position": 1}),
    "lease": ("POST", LEASE, {}),
    "lease and wait": ("POST", f"{LEASE}?wait=20s", {}),
    "acknowledge": ("POST", f"{LEASE}/x/ack", {}),
    "extend": ("POST", f"{LEASE}/x/extend", {}),
    "release": ("POST", f"{LEASE}/x/release", {}),
    "redeliver": ("POST", "/subscriptions/s/parked/1/redeliver", None),
    "drop": ("DELETE", "/subscriptions/s/parked/1", None),
}


@pytest.mark.parametrize(
    ("call", "form"),
    [
        (call, form)
        for call in CALLS
        for form in (JSON, NDJSON, SSE)
        if form == JSON or "/stream?" in CALLS[call][1]
    ],
)
def test_what_needs_it_is_503_and_says_when_to_come_again(
    served: Served, call: str, form: str
) -> None:
    method, path, body = CALLS[call]
    short = [("X-API-Key", key_of("alice")), ("Accept", form)]
    long = [*short, ("X-Way", "long"), ("X-Way", "long")]
    with served.switch.unreachable():
        for headers in (short, long):
            answer = served.ask(method, path, json=body, headers=headers)
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] == "store_unavailable"
            assert answer.headers["Retry-After"] == "5"
            assert "nobody" not in answer.text


def test_a_tenant_that_hangs_holds_up_nobody_else(
    served: Served, threads: ThreadPoolExecutor, tenant: str
) -> None:
    served.send(tenant, "A")
    with served.switch.hanging(tenant):
        paths = ["/events?from=1", "/position", "/subscriptions", "/subscriptions/s"] * 6
        hanging = [threads.submit(served.ask, "GET", path, key=key_of(tenant)) for path in paths]
        event = {"type": "B", "data": 1}
        hanging.append(
            threads.submit(served.ask, "POST", "/events", key=key_of(tenant), json=event)
        )
        served.switch.until_hanging(5, tenant)
        with served.follow("bob") as follower:
            for count in range(1, 11):
                served.send("bob", "T")
                follower.take(count)
        served.until_well()
        metrics = served.ask(
            "GET", "/metrics", key=ADMIN_KEY, headers={"Accept": "text/plain"}
        ).text
        assert 'ebus_head_position{tenant="bob"}' in metrics
        assert f'ebus_head_position{{tenant="{tenant}"}}' not in metrics
    for one in hanging:
        one.result(PATIENCE_S)


# Tails


LONG_WAY = {"X-Way": "long"}


@pytest.mark.parametrize(
    ("how", "form", "way"),
    [
        ("unreachable", JSON, {}),
        ("unreachable", NDJSON, LONG_WAY),
        ("unreachable", SSE, {}),
        ("hanging", SSE, LONG_WAY),
        ("hanging", NDJSON, {}),
    ],
)
def test_a_tail_goes_on_when_the_storage_is_back(
    served: Served, tenant: str, how: str, form: str, way: dict[str, str]
) -> None:
    served.send(tenant, "A", "B")
    with served.follow(tenant, form, headers=way) as follower:
        follower.take(2)
        with getattr(served.switch, how)(tenant):
            silent = len(follower.text)
            follower.until(lambda: len(follower.text) > silent + 2)  # it says that it is there
        served.send(tenant, "C")
        follower.take(3)
        assert follower.positions == [1, 2, 3]


def test_a_tail_that_is_still_in_the_history_goes_on_too(served: Served, tenant: str) -> None:
    for _ in range(20):
        served.send(tenant, *["T"] * 500)
    with served.follow(tenant, receive_bytes=4096) as follower:
        follower.take(1)
        with served.switch.unreachable(tenant):
            follower.until(lambda: follower.text.endswith(b"\n\n"))
            assert len(follower.events) < 10_000
        follower.take(10_000)
        assert follower.positions == list(range(1, 10_001))


def test_a_tail_up_to_a_position_goes_on_and_ends_there(served: Served, tenant: str) -> None:
    served.send(tenant, "A")
    with served.follow(tenant, query={"to": 2}) as follower:
        follower.take(1)
        with served.switch.unreachable(tenant):
            silent = len(follower.text)
            follower.until(lambda: len(follower.text) > silent + 2)
        served.send(tenant, "B", "C")
        follower.to_the_end()
        assert follower.positions == [1, 2]


def test_a_client_that_has_no_more_to_say_before_the_answer_begins_is_not_kept(
    served: Served, tenant: str
) -> None:
    served.send(tenant, "A")
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=60) as connection:
        lines = [
            "GET /events/stream?follow=true HTTP/1.1",
            "Host: x",
            f"X-API-Key: {key_of(tenant)}",
            f"Accept: {NDJSON}",
        ]
        with served.switch.hanging(tenant):
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            served.switch.until_hanging(1, tenant)
            connection.shutdown(socket.SHUT_WR)
            # Who asks on another connection is answered after that was heard.
            assert served.ask("GET", "/ui").status_code == 200
        with connection.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n0\r\n\r\n")


# The beginning and the end


def test_a_server_starts_without_its_storage_and_serves_once_it_is_there(
    tmp_path: Path, patient: None
) -> None:
    switch = Switch(tmp_path)
    with switch.unreachable() as away, serve(tmp_path / "served", BreakingEngine(switch)) as server:
        served = Served(server, switch)
        assert served.ask("GET", "/health").status_code == 503
        answer = served.ask("POST", "/events", key=key_of("alice"), json={"type": "T", "data": 1})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        away()
        served.until_well()
        served.send("alice", "A")


def test_a_storage_that_was_away_at_the_start_is_not_used_before_it_is_well(
    tmp_path: Path, patient: None
) -> None:
    """What keeps a server from starting keeps one from serving that started without looking."""
    switch = Switch(tmp_path)
    with switch.unreachable() as away, serve(tmp_path / "served", BreakingEngine(switch)) as server:
        served = Served(server, switch)
        with switch.broken(HEALTH):
            away()
            event = {"type": "T", "data": 1}
            answer = served.ask("POST", "/events", key=key_of("alice"), json=event)
            assert answer.status_code == 503
        served.send("alice", "A")
        position = served.ask("GET", "/position", key=key_of("alice"))
        assert position.json() == {"position": 1}


def test_a_tenant_that_cannot_be_reached_at_the_start_keeps_nobody_from_being_served(
    tmp_path: Path, patient: None
) -> None:
    switch = Switch(tmp_path)
    engine = BreakingEngine(switch)
    with switch.unreachable("alice") as away, serve(tmp_path / "served", engine) as server:
        served = Served(server, switch)
        served.send("bob", "A")
        served.until_well()
        assert served.ask("GET", "/position", key=key_of("alice")).status_code == 503
        away()
        served.send("alice", "A")


@pytest.mark.parametrize("who", ["_", "alice"])
def test_a_server_does_not_start_where_more_is_wrong_than_that(
    tmp_path: Path, patient: None, who: str
) -> None:
    switch = Switch(tmp_path)
    with switch.broken(who), pytest.raises((StoreUnavailable, StoreRefused)):
        with serve(tmp_path / "served", BreakingEngine(switch)):
            pytest.fail("it has started")


def in_a_process(directory: Path) -> tuple[Switch, dict[str, str]]:
    (directory / "switch").mkdir()
    configure(directory, "first")
    environment = {**installed(directory / "site"), "SHUTDOWN_TIMEOUT": "200ms"}
    return Switch(directory / "switch"), environment


def configure(directory: Path, key: str) -> None:
    tenants = [{"name": name, "api_key": f"{key_of(name)}-{key}"} for name in TENANTS[:2]]
    engine = f"breaking:{directory / 'switch'}"
    write_config(
        directory / "tenants.yaml", {"engine": engine, "tenants": tenants, "watch_config": False}
    )


def test_a_server_whose_storage_does_not_come_back_obeys_its_operator(tmp_path: Path) -> None:
    """It takes a config that revokes a key, and it stops when it is told to."""
    switch, environment = in_a_process(tmp_path)
    with (
        serving(
            ["--config", "tenants.yaml"],
            cwd=tmp_path,
            environment=environment,
            from_nothing=True,
        ) as server,
        ThreadPoolExecutor(4) as threads,
    ):

        def ask(key: str) -> int:
            headers = {"X-API-Key": f"{key_of('alice')}-{key}"}
            url = f"{server.url}/events"
            body = {"type": "T", "data": 1}
            try:
                answer = httpx.post(url, headers=headers, json=body, timeout=60, verify=False)
            except httpx.TransportError:
                return 0
            return answer.status_code

        assert ask("first") == 200
        with switch.hanging():
            asked = threads.submit(ask, "first")
            switch.until_hanging()
            configure(tmp_path, "second")
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "config reloaded" in server.log or "not reloaded" in server.log)
            assert "config reloaded: keys of 2 changed [alice bob]" in server.log
            assert ask("first") == 401
            assert server.stop() == 1
            assert "the storage engine does not answer: 1 tenants are left open" in server.log
            assert asked.result(PATIENCE_S) in {0, 503}


def test_a_server_whose_storage_is_away_stops_well(tmp_path: Path) -> None:
    switch, environment = in_a_process(tmp_path)
    arguments = ["--config", "tenants.yaml"]
    with (
        switch.unreachable(),
        serving(arguments, cwd=tmp_path, environment=environment, from_nothing=True) as server,
    ):
        assert "the storage cannot be reached, and is waited for: there is nobody" in server.log
        assert server.stop() == 0


def wait_for(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.01)
