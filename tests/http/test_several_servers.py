"""Two servers over one storage: who waits at one is woken by what is written through the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from ebus.http import live as live_module
from ebus.http import subscription_watch
from tests.http.in_process import InProcess, key_of, serving_in_process
from tests.http.tails import FORMS, NDJSON, WAYS, Follower
from tests.shared_memory import SharedEngine, SharedLog

LONG_S = 60.0


class Servers(NamedTuple):
    here: InProcess
    elsewhere: InProcess
    logs: dict[str, SharedLog]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers that look for nothing by themselves while anybody waits."""
    logs: dict[str, SharedLog] = {}
    directory = tmp_path_factory.mktemp("several")
    names = tuple(f"t{number}" for number in range(40))
    with (
        pytest.MonkeyPatch.context() as patched,
        serving_in_process(directory / "a", SharedEngine(logs), tenants=names) as here,
        serving_in_process(directory / "b", SharedEngine(logs), tenants=names) as elsewhere,
    ):
        patched.setattr(live_module, "HEARTBEAT_S", 3600.0)
        patched.setattr(subscription_watch, "LOOK_AGAIN_S", 3600.0)
        yield Servers(here, elsewhere, logs)


class Tenant:
    """One tenant, at both servers."""

    def __init__(self, name: str, servers: Servers) -> None:
        self.name = name
        self.servers = servers
        self.here = servers.here.client(name)
        self.elsewhere = servers.elsewhere.client(name)

    def send(self, *types: str) -> None:
        events = [{"type": kind, "data": 1} for kind in types]
        self.elsewhere.post("/events/batch", json=events).raise_for_status()

    def until_watched(self, watchers: int = 1) -> None:
        log = self.servers.logs[self.name]
        with log.changed:
            assert log.changed.wait_for(lambda: len(log.watchers) == watchers, LONG_S)


names = iter(range(40))


@pytest.fixture
def tenant(servers: Servers) -> Iterator[Tenant]:
    tenant = Tenant(f"t{next(names)}", servers)
    with tenant.here, tenant.elsewhere:
        yield tenant


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@WAYS
@FORMS
def test_a_tail_goes_on_with_what_is_appended_elsewhere(
    tenant: Tenant, form: str, way: dict[str, str]
) -> None:
    tenant.send("A")
    with Follower(
        tenant.servers.here.port, key_of(tenant.name), form, {"from": 1}, headers=way
    ) as follower:
        follower.take(1)
        tenant.until_watched()
        for count in (2, 3):
            tenant.send("B")
            follower.take(count)
        assert follower.positions == [1, 2, 3]


def test_tails_at_both_see_every_event_once_and_in_order(tenant: Tenant) -> None:
    ports = (tenant.servers.here.port, tenant.servers.elsewhere.port)
    here, elsewhere = [Follower(port, key_of(tenant.name), NDJSON, {"from": 1}) for port in ports]
    with here, elsewhere:
        for _ in range(20):
            tenant.send("A", "B")
            tenant.here.post("/events", json={"type": "C", "data": 1}).raise_for_status()
        for follower in (here, elsewhere):
            follower.take(60)
            assert follower.positions == list(range(1, 61))


@WAYS
def test_a_read_that_waits_gets_what_is_appended_elsewhere(
    tenant: Tenant, threads: ThreadPoolExecutor, way: dict[str, str]
) -> None:
    tenant.send("A")
    waits = threads.submit(tenant.here.get, f"/events?from=2&wait={LONG_S:.0f}", headers=way)
    tenant.until_watched()
    assert not waits.done()
    tenant.send("B")
    answer = waits.result(LONG_S / 2)
    assert [event["position"] for event in answer.json()] == [2]


def ask_for_lease(client: httpx.Client, wait_s: float = LONG_S) -> httpx.Response:
    return client.post(f"/subscriptions/s/lease?wait={wait_s:.0f}", json={"max_events": 2})


def _append(tenant: Tenant, lease: dict[str, Any]) -> None:
    tenant.send("A", "B")


def _release(tenant: Tenant, lease: dict[str, Any]) -> None:
    path = f"/subscriptions/s/lease/{lease['lease']}/release"
    tenant.elsewhere.post(path, json={"failed": False}).raise_for_status()


def _rewind(tenant: Tenant, lease: dict[str, Any]) -> None:
    tenant.elsewhere.put("/subscriptions/s/position", json={"position": 0}).raise_for_status()


def _delete(tenant: Tenant, lease: dict[str, Any]) -> None:
    tenant.elsewhere.delete("/subscriptions/s").raise_for_status()


@pytest.mark.parametrize(
    ("happens", "first"), [(_append, 3), (_release, 1), (_rewind, 1), (_delete, 1)]
)
def test_who_waits_for_a_lease_gets_what_becomes_free_elsewhere(
    tenant: Tenant,
    threads: ThreadPoolExecutor,
    happens: Callable[[Tenant, dict[str, Any]], None],
    first: int,
) -> None:
    tenant.send("A", "B")
    lease = ask_for_lease(tenant.elsewhere, 0).json()
    waits: Future[httpx.Response] = threads.submit(ask_for_lease, tenant.here)
    tenant.until_watched()
    assert not waits.done()
    happens(tenant, lease)
    answer = waits.result(LONG_S / 2)
    assert answer.status_code == 200
    assert answer.json()["first_position"] == first
