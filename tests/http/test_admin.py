"""Tenants made and changed at run time, with one process and with several workers."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest

from ebus.backends.sqlite import SqliteEngine
from tests.http.admins import FILE_KEY, FILED, Administered, administered
from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.live_server import serving

ANNAS_KEY = "key-of-anna-" + "x" * 32


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Administered]:
    anna = {"name": "anna", "api_key_sha256": hashlib.sha256(ANNAS_KEY.encode()).hexdigest()}
    directory = tmp_path_factory.mktemp("admin")
    with administered(directory, request.param, admin_keys=[anna]) as server:
        server.secrets.append(ANNAS_KEY)
        yield server


def test_a_tenant_that_was_made_is_served_by_every_worker_at_once(server: Administered) -> None:
    answer = server.ask("POST", "/admin/tenants", json={"tenant": "made"})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert made["key"].startswith("ebus_")
    assert made["key_name"] == "key-1"
    assert made["tenant"] == {
        "tenant": "made",
        "source": "registry",
        "state": "active",
        "created_at": made["tenant"]["created_at"],
        "durability": None,
        "limits": {},
        "keys": [{"name": "key-1", "scope": "both", "expires_at": None}],
        "figures": None,
    }
    assert server.statuses(made["key"]) == {200}
    assert server.append(made["key"]).json()["position"] == 1
    assert "made" in server.ask("GET", "/tenants", key=made["key"]).json()["tenants"]
    assert "made" not in server.ask("GET", "/tenants", key=made["key"]).headers


def test_a_name_is_taken_by_the_registry_the_file_or_data_from_before(
    server: Administered,
) -> None:
    server.create("taken")
    server.append(server.create("kept"))
    said = server.ask("POST", "/admin/tenants", json={"tenant": "Kept"}).json()["detail"]
    assert "a tenant kept, which differs" in said  # and is not data that nobody needs
    for name in ("taken", "Taken", "filed", "FILED"):
        assert server.refused("POST", "/tenants", json={"tenant": name}) == (409, "tenant_exists")
    (server.data / "before.db").write_bytes(b"")
    (server.data / "before.db-wal").write_bytes(b"x")
    assert server.refused("POST", "/tenants", json={"tenant": "before"}) == (409, "tenant_exists")
    (server.data / "before.db").unlink()
    (server.data / "before.db-wal").unlink()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_body"),
        ({"tenant": 1}, "invalid_body"),
        ({"tenant": "ok", "extra": 1}, "invalid_body"),
        ({"tenant": "ok", "scope": "admin"}, "invalid_body"),
        ({"tenant": "ok", "durability": "none"}, "invalid_body"),
        ({"tenant": "a/b"}, "invalid_tenant_name"),
        ({"tenant": ""}, "invalid_tenant_name"),
        ({"tenant": "x" * 300}, "invalid_tenant_name"),
        ({"tenant": "ok", "limits": {"max_eggs": 1}}, "invalid_limits"),
        ({"tenant": "ok", "limits": {"max_stored_events": -1}}, "invalid_limits"),
        ({"tenant": "ok", "key_name": "a b"}, "invalid_input"),
    ],
)
def test_what_makes_no_tenant(server: Administered, body: object, code: str) -> None:
    assert server.refused("POST", "/tenants", json=body) == (400, code)
    assert server.refused("GET", "/tenants/ok") == (404, "unknown_tenant")


def test_of_two_admins_who_make_the_same_tenant_at_once_one_does(server: Administered) -> None:
    statuses: list[int] = []
    begin = threading.Barrier(4)

    def create() -> None:
        begin.wait()
        statuses.append(
            server.ask("POST", "/admin/tenants", json={"tenant": "at-once"}).status_code
        )

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 409, 409, 409]


def test_a_suspended_tenant_is_let_in_nowhere_until_it_is_resumed(server: Administered) -> None:
    key = server.create("paused")
    server.append(key)
    assert server.done("POST", "/tenants/paused/suspend")["state"] == "suspended"
    assert server.done("POST", "/tenants/paused/suspend")["state"] == "suspended"
    assert server.statuses(key) == {403}
    assert server.append(key).json()["code"] == "tenant_suspended"
    assert "paused" not in server.ask("GET", "/tenants", key=FILE_KEY).json()["tenants"]
    wait_until(lambda: not server.done("GET", "/tenants/paused")["figures"]["is_open"])
    assert server.done("POST", "/tenants/paused/resume")["state"] == "active"
    assert server.statuses(key) == {200}
    assert server.append(key).json()["position"] == 2


@pytest.mark.parametrize("path", ["keys", "rotate-key"])
def test_no_cache_keeps_a_key(server: Administered, path: str) -> None:
    server.create(f"cached-{path}")
    answer = server.ask("POST", f"/admin/tenants/cached-{path}/{path}", json={})
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")


def test_a_tail_ends_when_its_tenant_is_suspended(server: Administered) -> None:
    key = server.create("tailed")
    server.append(key)
    tail = f"{server.server.url}/events/stream?follow=true"
    headers = {"X-API-Key": key, "Accept": "application/x-ndjson"}
    with httpx.stream("GET", tail, headers=headers, timeout=60, verify=False) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.done("POST", "/tenants/tailed/suspend")
        assert not [line for line in lines if line]  # it ends


def test_the_admin_paths_are_for_the_admin_key_alone(server: Administered) -> None:
    for path in ("/tenants", "/tenants/filed", "/trash", "/audit", "/nothing"):
        assert server.refused("GET", path, key=FILE_KEY) == (403, "insufficient_scope")
        assert server.refused("GET", path, key="") == (401, "key_required")
        assert server.refused("GET", path, key="wrong") == (401, "key_invalid")
    assert server.refused("GET", "/nothing") == (404, "not_found")
    assert server.refused("PUT", "/tenants") == (405, "method_not_allowed")
    assert server.ask("GET", "/position").json()["code"] == "admin_key"


@pytest.mark.parametrize("path", ["//admin", "///admin", "/%2fadmin", "/admin/"])
def test_no_way_of_writing_the_path_lets_a_tenants_key_in(server: Administered, path: str) -> None:
    for further in ("/tenants", "/tenants/filed", "/trash", "/audit"):
        answer = server.ask("GET", f"{path}{further}", key=FILE_KEY)
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    for method, further in (
        ("POST", "/tenants"),
        ("POST", "/tenants/filed/suspend"),
        ("DELETE", "/tenants/filed"),
        ("DELETE", "/trash/filed-0"),
    ):
        assert server.ask(method, f"{path}{further}", key=FILE_KEY).status_code == 403


def test_a_tenant_of_the_file_is_read_only_here(server: Administered) -> None:
    found = server.done("GET", "/tenants/filed")
    assert (found["source"], found["created_at"], found["state"]) == ("file", None, "active")
    in_file = (409, "tenant_in_file")
    assert server.refused("POST", "/tenants/filed/suspend") == in_file
    assert server.refused("POST", "/tenants/filed/resume") == in_file
    assert server.refused("PATCH", "/tenants/filed", json={}) == in_file
    assert server.refused("POST", "/tenants/filed/keys", json={}) == in_file
    assert server.refused("POST", "/tenants/filed/rotate-key", json={}) == in_file
    assert server.refused("DELETE", "/tenants/filed/keys/x") == in_file
    assert server.refused("DELETE", "/tenants/filed?confirm=filed") == in_file


def test_limits_hold_at_once_and_can_be_taken_away(server: Administered) -> None:
    key = server.create("bounded", limits={"max_stored_events": 1})
    assert server.append(key).status_code == 200
    assert server.append(key).json()["code"] == "quota_exceeded"
    changed = server.done(
        "PATCH",
        "/tenants/bounded",
        json={"limits": {"max_stored_events": 3, "max_requests_per_second": 0.001}},
    )
    assert changed["limits"] == {"max_stored_events": 3, "max_requests_per_second": 0.001}
    assert 429 in {server.append(key).status_code for _ in range(4)}
    patch = {"limits": {"max_requests_per_second": None}, "durability": "normal"}
    changed = server.done("PATCH", "/tenants/bounded", json=patch)
    assert changed["limits"] == {"max_stored_events": 3}
    assert changed["durability"] == "normal"
    assert server.statuses(key) == {200}
    changed = server.done("PATCH", "/tenants/bounded", json={"limits": None, "durability": None})
    assert (changed["limits"], changed["durability"]) == ({}, None)
    refused = server.refused("PATCH", "/tenants/bounded", json={"limits": {"x": 1}})
    assert refused == (400, "invalid_limits")


def test_keys_are_rotated_with_an_overlap_and_revoked(server: Administered) -> None:
    old = server.create("keyed")
    rotated = server.done("POST", "/tenants/keyed/rotate-key", json={"overlap": "1h"})
    new = rotated["key"]
    assert rotated["key_name"] == "key-2"
    ends = {key["name"]: key["expires_at"] for key in rotated["tenant"]["keys"]}
    assert ends["key-1"]
    assert ends["key-2"] is None
    assert server.statuses(old) == server.statuses(new) == {200}
    server.done("DELETE", "/tenants/keyed/keys/key-1")
    assert server.statuses(old) == {401}
    reader = server.done("POST", "/tenants/keyed/keys", json={"name": "reader", "scope": "read"})[
        "key"
    ]
    assert server.append(reader).json()["code"] == "insufficient_scope"
    at_once = server.done(
        "POST", "/tenants/keyed/rotate-key", json={"key_name": "key-2", "overlap": "0s"}
    )["key"]
    assert server.statuses(new) == {401}
    assert server.statuses(at_once) == server.statuses(reader) == {200}
    ended = {"expires_at": "2020-01-01T00:00:00Z"}
    ended_key = server.done("POST", "/tenants/keyed/keys", json=ended)["key"]
    assert server.append(ended_key).json()["code"] == "key_expired"
    for key in server.done("GET", "/tenants/keyed")["keys"]:
        server.done("DELETE", f"/tenants/keyed/keys/{key['name']}")
    assert server.statuses(at_once) == {401}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("keys", {"name": "key-1"}, (409, "key_exists")),
        ("keys", {"name": "a/b"}, (400, "invalid_input")),
        ("keys", {"expires_at": "soon"}, (400, "invalid_input")),
        ("keys", {"expires_at": "9999-12-31T23:59:59-23:59"}, (400, "invalid_input")),
        ("rotate-key", {"key_name": "none"}, (404, "unknown_key")),
        ("rotate-key", {"overlap": "-1s"}, (400, "invalid_input")),
        ("rotate-key", {"overlap": "1000000h"}, (400, "invalid_input")),
    ],
)
def test_keys_that_cannot_be(
    server: Administered, path: str, body: object, expected: tuple[int, str]
) -> None:
    if server.ask("GET", "/admin/tenants/locked").status_code == 404:
        server.create("locked")
    assert server.refused("POST", f"/tenants/locked/{path}", json=body) == expected
    assert server.refused("DELETE", "/tenants/locked/keys/none") == (404, "unknown_key")
    assert len(server.done("GET", "/tenants/locked")["keys"]) == 1


def test_tenants_are_listed_by_name_page_by_page_with_figures(server: Administered) -> None:
    key = server.create("list-b")
    server.create("list-a")
    server.create("list-c")
    server.append(key)
    page = "/tenants?prefix=list-&limit=2&figures=true"
    # That a tenant is open in another worker is known a second later.
    wait_until(lambda: server.done("GET", page)["tenants"][1]["figures"]["is_open"])
    first = server.done("GET", page)
    assert [it["tenant"] for it in first["tenants"]] == ["list-a", "list-b"]
    assert (first["count"], first["next"]) == (3, "list-b")
    figures = first["tenants"][1]["figures"]
    assert (figures["requests"], figures["events_in"], figures["head"]) == (1, 1, 1)
    assert figures["size_bytes"] > 0
    assert figures["is_open"]
    assert figures["bytes_in"] > 0
    assert first["tenants"][0]["figures"]["size_bytes"] is None
    assert first["tenants"][0]["figures"]["head"] == 0
    second = server.done("GET", f"/tenants?prefix=list-&after={first['next']}")
    assert [it["tenant"] for it in second["tenants"]] == ["list-c"]
    assert second["next"] is None
    everybody = [it["tenant"] for it in server.done("GET", "/tenants?limit=1000")["tenants"]]
    assert "filed" in everybody
    assert everybody == sorted(everybody)
    assert server.refused("GET", "/tenants?limit=0") == (400, "invalid_parameter")


def test_deleting_takes_two_steps_and_frees_the_name(server: Administered) -> None:
    key = server.create("leaving")
    for _ in range(3):
        server.append(key)
    path = "/tenants/leaving"
    assert server.refused("DELETE", f"{path}?confirm=leaving") == (409, "not_suspended")
    server.done("POST", f"{path}/suspend")
    assert server.refused("DELETE", path) == (400, "not_confirmed")
    assert server.refused("DELETE", f"{path}?confirm=LEAVING") == (400, "not_confirmed")
    trash = server.done("DELETE", f"{path}?confirm=leaving")["trash"]
    assert server.statuses(key) == {401}
    assert server.refused("GET", path) == (404, "unknown_tenant")
    [found] = [it for it in server.done("GET", "/trash")["trash"] if it["id"] == trash]
    assert found["tenant"] == "leaving"
    kept = server.data / "tenants.trash" / trash
    assert found["size_bytes"] == sum(file.stat().st_size for file in kept.iterdir())
    again = server.create("leaving")
    assert server.append(again).json()["position"] == 1
    assert server.refused("DELETE", f"/trash/{trash}?confirm=no") == (400, "not_confirmed")
    server.done("DELETE", f"/trash/{trash}?confirm=leaving")
    assert not kept.exists()
    assert server.refused("DELETE", f"/trash/{trash}?confirm=leaving") == (404, "unknown_trash")
    assert server.append(again).json()["position"] == 2
    assert server.done("GET", path)["figures"]["events_in"] <= 2  # and nothing of the one before


def test_what_was_acknowledged_before_a_delete_under_load_is_in_the_trash(
    server: Administered,
) -> None:
    key = server.create("busy")
    acknowledged: list[int] = []
    statuses: set[int] = set()

    def write() -> None:
        headers = {"X-API-Key": key}
        with httpx.Client(
            base_url=server.server.url, headers=headers, timeout=60, verify=False
        ) as client:
            while True:
                answer = client.post("/events", json={"type": "T", "data": 1})
                statuses.add(answer.status_code)
                if answer.status_code != 200:
                    return
                acknowledged.append(answer.json()["position"])

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(acknowledged) > 50)
    trash = server.delete("busy")
    for writer in writers:
        writer.join()
    assert statuses <= {200, 401, 403}
    with SqliteEngine(server.data / "tenants.trash" / trash) as engine:
        stored = {event.position for event in engine.open("busy").read(1).events}
    assert set(acknowledged) <= stored
    assert not list(server.data.glob("busy*"))


def test_the_audit_log_tells_who_did_what(server: Administered) -> None:
    server.create("audited", durability="full")
    server.done("POST", "/tenants/audited/suspend")
    server.done("POST", "/tenants/audited/rotate-key", json={}, key=ANNAS_KEY)
    entries = server.done("GET", "/audit?tenant=audited")["audit"]
    assert [it["action"] for it in entries] == ["rotate_key", "suspend", "create"]
    assert [it["who"] for it in entries] == ["anna", "admin", "admin"]
    assert {(it["how"], it["tenant"]) for it in entries} == {("http", "audited")}
    assert entries[2]["what"] == {"key_name": "key-1", "scope": "both", "durability": "full"}
    page = server.done("GET", "/audit?limit=1&tenant=audited")
    assert page["next"] == page["audit"][0]["id"]
    further = server.done("GET", f"/audit?tenant=audited&before={page['next']}")
    assert [it["action"] for it in further["audit"]] == ["suspend", "create"]
    assert further["next"] is None
    assert "tenants: suspend tenant=audited who=admin how=http" in server.server.log


def test_a_wrong_admin_key_opens_nothing_and_says_so_as_any_other(tmp_path: Path) -> None:
    with administered(tmp_path, admin_key_sha256="0" * 64) as server:
        assert server.refused("GET", "/tenants") == (401, "key_invalid")
        assert server.refused("GET", "/tenants", key=FILE_KEY) == (403, "insufficient_scope")
        assert 429 in {server.ask("GET", "/admin/tenants").status_code for _ in range(200)}


def test_without_an_admin_key_there_is_nothing(tmp_path: Path) -> None:
    write_config(tmp_path / "tenants.yaml", {"tenants": [FILED]})
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        for path in ("/admin/tenants", "/admin/audit"):
            answer = httpx.get(f"{server.url}{path}", headers={"X-API-Key": FILE_KEY}, verify=False)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert not list((tmp_path / "data").glob("tenants.*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_registry_that_is_lost_below_a_server_cuts_nobody_off(
    tmp_path: Path, workers: int
) -> None:
    with administered(tmp_path, workers) as server:
        key = server.create("kept")
        files = list(server.data.glob("tenants.registry*"))
        for file in files:
            file.rename(tmp_path / file.name)
        wait_until(lambda: "is gone: put it back" in server.server.log)
        for path in ("/tenants", "/tenants/kept/suspend"):
            method = "POST" if path.endswith("suspend") else "GET"
            assert server.refused(method, path) == (503, "store_unavailable")
        assert server.statuses(key) == {200}
        for file in files:
            (tmp_path / file.name).rename(file)
        server.done("POST", "/tenants/kept/suspend")
        assert server.statuses(key) == {403}


def test_what_another_server_acknowledges_after_a_delete_is_in_the_trash(tmp_path: Path) -> None:
    with administered(tmp_path) as one, administered(tmp_path) as another:
        key = one.create("shared")
        # Not with its own key, which would open it there: then who deletes it has to wait anyway.
        wait_until(lambda: "shared" in another.ask("GET", "/tenants", key=FILE_KEY).text)
        assert one.append(key).status_code == 200
        another.server.process.send_signal(signal.SIGSTOP)  # it cannot hear of it for a while
        try:
            one.done("POST", "/tenants/shared/suspend")
            path = "/tenants/shared?confirm=shared"
            with ThreadPoolExecutor(2) as threads:
                deleting = threads.submit(one.done, "DELETE", path)
                appending = threads.submit(another.append, key)
                wait({deleting}, timeout=1.0)
                another.server.process.send_signal(signal.SIGCONT)
                last = appending.result().status_code  # it may hear of that first, after all
                deleting.result()
        finally:
            another.server.process.send_signal(signal.SIGCONT)
        [trashed] = one.done("GET", "/trash")["trash"]
        assert not list(one.data.glob("shared*"))
        with SqliteEngine(one.data / "tenants.trash" / trashed["id"]) as engine:
            stored = engine.open("shared").head()
        assert stored == 1 + (last == 200)
