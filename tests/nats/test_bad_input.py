"""What operators do to streams, and what does not fit into them: refused in words, and whole."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from ebus import NewEvent
from ebus.backends.jetstream import committing, writing
from ebus.cli import main
from ebus.core.errors import (
    EventTooLarge,
    StoreDamaged,
    StoreForeign,
    StoreFull,
    StoreNewer,
    StoreRefused,
    StoreUnavailable,
)
from ebus.core.filter import Filter
from ebus.core.limits import KIB, MIB
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName
from tests.http.conftest import write_config
from tests.live_server import serving
from tests.nats.configuration import SYSTEM_ACCOUNT
from tests.nats.engines import Staff, address_at, engine_at
from tests.nats.servers import NatsCluster, NatsServer

ROOMS = f"""
accounts {{
  {SYSTEM_ACCOUNT}
  SMALL {{ jetstream: {{ max_file: 256KB }}, users: [ {{ user: small, password: small }} ] }}
  FEW {{ jetstream: {{ max_streams: 3 }}, users: [ {{ user: few, password: few }} ] }}
}}
"""

AT = "2024-01-01T00:00:00Z"
KEY = "acme-secret-key-123-aaaaaaaaaaaaaaaa"


@pytest.fixture(scope="module")
def rooms(nats_directory: Path) -> Iterator[NatsServer]:
    """A server with accounts that may store little. It takes messages of 1 MiB, as they all do."""
    with NatsServer(nats_directory / "rooms", config=ROOMS) as server:
        yield server


@pytest.fixture
def staff(nats_server: NatsServer) -> Staff:
    return Staff(nats_server.url)


@pytest.fixture
def looked_at_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are looked at before each commit, and not every few seconds."""
    monkeypatch.setattr(writing, "LOOK_AGAIN_S", 0.0)


def as_user(server: NatsServer, user: str) -> str:
    return f"nats://{user}:{user}@127.0.0.1:{server.port}"


def event(size: int = 1) -> NewEvent:
    return NewEvent.of("T", "x" * size)


# Room


def fill(store: TenantStore) -> int:
    """Append until there is no room; returns how many events there are."""
    for stored in range(100):
        try:
            store.append([event(32 * KIB)])
        except StoreFull:
            assert stored
            return stored
    raise AssertionError("it takes everything")


def test_an_account_without_room_refuses_writes_and_is_read(rooms: NatsServer, prefix: str) -> None:
    with engine_at(as_user(rooms, "small"), prefix=prefix) as engine:
        store = engine.open("acme")
        stored = fill(store)
        assert store.head() == stored
        assert len(store.read(1).events) == stored
        with pytest.raises(StoreFull):
            store.append([event(32 * KIB) for _ in range(10)])
        assert store.head() == stored
        engine.drop("acme")


def test_an_account_with_no_stream_left_makes_half_of_no_tenant(
    rooms: NatsServer, prefix: str
) -> None:
    with engine_at(as_user(rooms, "few"), prefix=prefix) as engine:
        engine.open("a")
        with pytest.raises(StoreFull, match="maximum number of streams"):
            engine.open("b")
        assert engine.tenants() == ["a"]
        names = Staff(as_user(rooms, "few")).names()
        assert sorted(names) == [f"KV_{prefix}-a", f"{prefix}-a"]


def test_a_stream_that_an_operator_has_limited_is_full_and_not_emptied(
    nats_server: NatsServer, staff: Staff, prefix: str, looked_at_always: None
) -> None:
    with engine_at(nats_server.url, prefix=prefix) as engine:
        store = engine.open("acme")
        store.append([event()])
        staff.change(f"{prefix}-acme", max_msgs=2, max_bytes=100_000)
        store.append([event()])
        for events in ([event()], [event(), event()], [event(200_000)]):
            with pytest.raises(StoreFull):
                store.append(events)
        assert [it.position for it in store.read(1).events] == [1, 2]


# Size


def test_an_event_that_the_servers_do_not_take_is_refused_before_it_is_sent(
    rooms: NatsServer, prefix: str
) -> None:
    with engine_at(as_user(rooms, "small"), prefix=prefix) as engine:
        store = engine.open("acme")
        with pytest.raises(EventTooLarge, match="NATS is set to take") as caught:
            store.append([event(), event(MIB - 100), event()])
        assert caught.value.index == 1
        assert store.head() == 0
        store.append([event()])
        engine.drop("acme")


def test_over_http_too_large_is_413_and_full_is_507(
    rooms: NatsServer, prefix: str, tmp_path: Path
) -> None:
    address = address_at(as_user(rooms, "small"), prefix=prefix)
    tenants = [{"name": "acme", "api_key": KEY}]
    write_config(tmp_path / "tenants.yaml", {"engine": address, "tenants": tenants})
    checked = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "tenants.yaml")])
    assert checked.exit_code == 0
    assert "max_payload of the servers is 1048576 bytes" in checked.stderr
    with (
        serving(["--config", "tenants.yaml"], cwd=tmp_path) as server,
        httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60) as client,
    ):
        small = {"type": "T", "data": "x", "timestamp": AT}
        large = {**small, "data": "x" * (MIB - 100)}
        for path, body in (("/events", large), ("/events/batch", [small, large])):
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (413, "event_too_large")
        assert client.get("/position").json()["position"] == 0
        answers = [
            client.post("/events", json={**small, "data": "x" * 32 * KIB}) for _ in range(10)
        ]
        stored = sum(it.is_success for it in answers)
        assert stored
        assert (answers[-1].status_code, answers[-1].json()["code"]) == (507, "store_full")
        assert client.get("/position").json()["position"] == stored
        assert len(client.get("/events?from=1").json()) == stored
        assert client.get("/health").status_code == 200
        assert "max_payload of the servers is 1048576 bytes" in server.log
    with engine_at(as_user(rooms, "small"), prefix=prefix) as engine:
        engine.drop("acme")


# Streams of others


def test_a_stream_of_that_name_that_is_not_ours_is_left_alone(
    nats_server: NatsServer, staff: Staff, prefix: str
) -> None:
    staff.make(f"{prefix}-acme", subjects=[f"{prefix}-theirs"])
    staff.make(f"KV_{prefix}-other", subjects=[f"{prefix}-theirs-too"])
    with engine_at(nats_server.url, prefix=prefix) as engine:
        for name in ("acme", "other"):
            with pytest.raises(StoreForeign, match="somebody else's"):
                engine.open(name)
            with pytest.raises(StoreForeign):
                engine.drop(name)
        assert engine.absent([TenantName("acme"), TenantName("other"), TenantName("new")]) == {
            "new"
        }
        for name in ("acme", "other"):
            with pytest.raises(StoreForeign):
                engine.inspect(name)
    ours = sorted(it for it in staff.names() if prefix in it)
    assert ours == [f"KV_{prefix}-other", f"{prefix}-acme"]


@pytest.mark.parametrize("deleted", ["{}-acme", "KV_{}-acme"])
def test_a_tenant_of_which_a_stream_was_deleted_does_not_begin_anew(
    nats_server: NatsServer, staff: Staff, prefix: str, deleted: str
) -> None:
    with engine_at(nats_server.url, prefix=prefix) as engine:
        acme = engine.open("acme")
        acme.append([NewEvent.of("A", {})])
        acme.save_checkpoint("mailer", 1)
    staff.delete(deleted.format(prefix))
    with engine_at(nats_server.url, prefix=prefix) as engine:
        assert not engine.absent([TenantName("acme")])
        with pytest.raises(StoreDamaged, match="both have to be there"):
            engine.inspect("acme")
        with pytest.raises(StoreDamaged, match="both have to be there"):
            engine.open("acme")
        engine.drop("acme")
        assert engine.inspect("acme") == "new"
        assert engine.open("acme").checkpoint("mailer") is None


def test_a_stream_with_subjects_of_ours_is_told(
    nats_server: NatsServer, staff: Staff, prefix: str
) -> None:
    staff.make(f"{prefix}-theirs", subjects=[f"{prefix}.acme.>"])
    with engine_at(nats_server.url, prefix=prefix) as engine:
        with pytest.raises(StoreForeign, match="set another prefix"):
            engine.open("acme")
    assert [it for it in staff.names() if prefix in it] == [f"{prefix}-theirs"]


def test_a_stream_of_a_newer_ebus_is_left_alone(
    nats_server: NatsServer, staff: Staff, prefix: str
) -> None:
    with engine_at(nats_server.url, prefix=prefix) as engine:
        engine.open("acme")
        for stored in ("2", "new"):
            staff.change(f"{prefix}-acme", metadata={"ebus.tenant": "acme", "ebus.format": stored})
            with engine_at(nats_server.url, prefix=prefix) as other, pytest.raises(StoreNewer):
                other.open("acme")


@pytest.mark.parametrize(
    ("which", "changes", "reason"),
    [
        ("", {"max_age": 3_600_000_000_000}, "max_age is set"),
        ("", {"discard": "old", "max_msgs": 1000}, "discard is old, with a limit"),
        ("", {"max_msgs_per_subject": 5}, "max_msgs_per_subject is set"),
        ("", {"allow_direct": False}, "allow_direct is off"),
        ("", {"subjects": ["elsewhere.{prefix}"]}, "its subjects are others"),
        ("KV_", {"max_age": 3_600_000_000_000}, "max_age is set"),
    ],
    ids=["age", "discard", "per-subject", "direct", "subjects", "bucket"],
)
def test_a_stream_that_would_lose_events_is_refused_when_it_is_opened_and_later(
    which: str,
    changes: dict[str, Any],
    reason: str,
    nats_server: NatsServer,
    staff: Staff,
    prefix: str,
    looked_at_always: None,
) -> None:
    stream = f"{which}{prefix}-acme"
    with engine_at(nats_server.url, prefix=prefix) as engine:
        store = engine.open("acme")
        store.append([event()])
        before = staff.ask(f"STREAM.INFO.{stream}")["config"]
        staff.change(stream, **json.loads(json.dumps(changes).replace("{prefix}", prefix)))
        with pytest.raises(StoreRefused, match=reason):
            store.append([event()])
        assert store.head() == 1
        with engine_at(nats_server.url, prefix=prefix) as other:
            with pytest.raises(StoreRefused, match=reason):
                other.open("acme")
        staff.ask(f"STREAM.UPDATE.{stream}", before)
        assert store.append([event()]).last_position == 2


@pytest.mark.parametrize("which", ["", "KV_"])
def test_a_stream_that_is_deleted_under_us_is_missed(
    which: str, nats_server: NatsServer, staff: Staff, prefix: str, looked_at_always: None
) -> None:
    with engine_at(nats_server.url, prefix=prefix) as engine:
        store = engine.open("acme")
        store.append([event()])
        staff.delete(f"{which}{prefix}-acme")
        with pytest.raises(StoreDamaged, match="was deleted"):
            store.append([event()])
        with pytest.raises(StoreDamaged, match="was deleted"):
            store.save_checkpoint("c", 1)
        if which:
            with engine_at(nats_server.url, prefix=prefix) as other:
                with pytest.raises(StoreDamaged, match=f"KV_{prefix}-acme was deleted"):
                    other.open("acme")
        else:
            with pytest.raises(StoreDamaged, match="was deleted"):
                store.read(1)


@pytest.mark.parametrize("events", [0, 1, 2, 3])
def test_nothing_is_appended_to_another_log_of_the_same_name(
    events: int, nats_server: NatsServer, prefix: str, looked_at_always: None
) -> None:
    with (
        engine_at(nats_server.url, prefix=prefix) as engine,
        engine_at(nats_server.url, prefix=prefix) as other,
    ):
        store = engine.open("acme")
        store.append([event()] * 2)
        other.drop("acme")
        new = other.open("acme")
        if events:
            new.append([event()] * events)
        with pytest.raises(StoreDamaged, match="is another one now"):
            store.append([event()])
        with pytest.raises(StoreDamaged, match="is another one now"):
            store.head()
        assert new.head() == events


def test_names_that_differ_in_case_are_tenants_of_their_own(
    nats_server: NatsServer, prefix: str
) -> None:
    with engine_at(nats_server.url, prefix=prefix) as engine:
        for number, name in enumerate(("acme", "Acme", "ACME"), 1):
            store = engine.open(name)
            store.append([event()] * number)
            store.save_checkpoint("c", number)
        engine.drop("Acme")
        assert engine.tenants() == ["ACME", "acme"]
        assert [engine.open(it).head() for it in ("acme", "Acme", "ACME")] == [1, 0, 3]
        assert [engine.open(it).checkpoint("c") for it in ("acme", "Acme", "ACME")] == [1, None, 3]


# Time


def moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_a_clock_that_jumps_back_parts_no_events_from_their_order(
    nats_server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 0

    def at(seconds: int) -> None:
        nonlocal now_ns
        now_ns = seconds * 10**9

    clock = SimpleNamespace(time_ns=lambda: now_ns, monotonic=time.monotonic)
    monkeypatch.setattr(committing, "time", clock)

    def between(store: TenantStore, since: int | None, until: int | None) -> Any:
        wanted = Filter(
            since=None if since is None else moment(since),
            until=None if until is None else moment(until),
        )
        forwards = [it.position for it in store.read(1, filter=wanted).events]
        backwards = [it.position for it in store.read(1, filter=wanted, backwards=True).events]
        assert backwards == forwards[::-1]
        return forwards

    with (
        engine_at(nats_server.url, prefix=prefix) as engine,
        engine_at(nats_server.url, prefix=prefix) as other,
    ):
        # 1 and 4 of one server, 2 and 3 of another; the clock goes back before 2 and before 4.
        store, theirs = engine.open("acme"), other.open("acme")
        for seconds, server in ((1000, store), (500, theirs), (2000, theirs), (1500, store)):
            at(seconds)
            server.append([event()])
        at(3000)
        store.append([event()])
        assert between(store, None, None) == [1, 2, 3, 4, 5]
        assert between(store, 1001, None) == [3, 4, 5]
        assert between(store, 500, 1001) == [1, 2]
        assert between(store, 1500, 2001) == [3, 4]
        assert between(store, 2001, None) == [5]
        assert between(store, None, 1000) == []
        store.trim(2)  # 4 is looked at before 3 now
        assert between(store, 1501, None) == [3, 4, 5]


# A cluster


def test_a_cluster_without_a_quorum_refuses_and_comes_back(
    nats_cluster: NatsCluster, prefix: str
) -> None:
    with engine_at(nats_cluster.url, prefix=prefix, replicas=3, timeout_s=1.5) as engine:
        store = open_patiently(engine, "acme")
        store.append([event()])
        nats_cluster.wait_current(f"{prefix}-acme")
        try:
            for server in nats_cluster.servers[1:]:
                server.pause()
            with pytest.raises(StoreUnavailable):
                store.append([event()])
            with pytest.raises(StoreUnavailable):
                engine.open("new")
        finally:
            nats_cluster.make_whole()
        nats_cluster.wait_current(f"{prefix}-acme")
    with engine_at(nats_cluster.url, prefix=prefix, replicas=3) as engine:
        store = engine.open("acme")
        before = store.head()
        assert before in {1, 2}  # nobody could tell
        assert store.append([event()]).last_position == before + 1


def open_patiently(engine: Any, name: str) -> Any:
    """Once a leader has been elected."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return engine.open(name)
        except StoreUnavailable:
            assert time.monotonic() < deadline
