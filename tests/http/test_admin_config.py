"""The registry of tenants beside the config file: at a start, at a reload, and after a crash."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.core.tenant import TenantName
from ebus.tenants.model import By, NewKey
from ebus.tenants.registry import Registry
from tests.http.admins import FILED, Administered, administered, config_of
from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.http.test_workers import workers_of
from tests.live_server import start

ME = By("root", "command")


def key_of(name: str) -> str:
    return f"key-of-{name}-{'x' * 32}"


def register(directory: Path, name: str, key: str | None = None) -> None:
    """As a command does where no server runs."""
    digest = hashlib.sha256((key or key_of(name)).encode()).digest()
    with Registry(directory / "data" / "tenants.registry") as registry:
        registry.create(TenantName(name), NewKey(digest=digest), by=ME)


def refusal(directory: Path, **top: Any) -> str:
    """What a server says that does not start."""
    write_config(directory / "tenants.yaml", config_of(**top))
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=directory)
    try:
        assert server.process.wait(60) == 1
        server.stop()
        return server.log
    finally:
        server.kill()


def test_a_name_or_a_key_in_both_places_keeps_the_server_from_starting(tmp_path: Path) -> None:
    register(tmp_path, "Filed")
    register(tmp_path, "other", FILED["api_key"])
    said = refusal(tmp_path)
    assert "Failed to load tenants config: 2 mistakes" in said
    assert "tenant Filed is in the registry of tenants beside the data, and in tenants.yaml" in said
    assert "key key-1 of tenant other" in said
    assert "is that of tenant filed in tenants.yaml; revoke one" in said
    assert FILED["api_key"] not in said


def test_a_registry_that_is_damaged_keeps_the_server_from_starting(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tenants.registry").write_bytes(b"no database" * 1_000)
    assert "tenants.registry is damaged" in refusal(tmp_path)


def test_servers_by_the_same_data_follow_each_other_by_and_by(tmp_path: Path) -> None:
    with administered(tmp_path) as server, administered(tmp_path, workers=2) as other:
        key = server.create("acme")
        other.secrets.append(key)
        wait_until(lambda: other.statuses(key) == {200})
        server.done("POST", "/tenants/acme/suspend")
        wait_until(lambda: other.statuses(key) == {403})
        other.done("POST", "/tenants/acme/resume")
        wait_until(lambda: server.statuses(key) == {200})


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "workers"])
def test_reloads_of_the_file_and_changes_of_the_registry_leave_each_other_alone(
    tmp_path: Path, workers: int
) -> None:
    def reload(said: str, *tenants: dict[str, str]) -> None:
        lines = len(server.server.lines)
        write_config(tmp_path / "tenants.yaml", config_of(tenants=list(tenants)))
        server.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(said in line for line in server.server.lines[lines:]))

    with administered(tmp_path, workers, tenants=[]) as server:
        key = server.create("acme")
        alice = {"name": "alice", "api_key": key_of("alice")}
        reload("1 tenant added [alice]", alice)
        assert server.statuses(key) == {200}
        wait_until(lambda: server.statuses(alice["api_key"]) == {200})
        reload("tenant acme is in", alice, {"name": "Acme", "api_key": key_of("Acme")})
        # A mistake of the file keeps nobody from changing the registry.
        more = server.create("more")
        assert server.statuses(more) == server.statuses(key) == {200}
        assert server.statuses(alice["api_key"]) == {200}
        assert "problem" in server.ask("GET", "/health?details=true").json()["config"]
        reload("removed [alice]")
        assert server.statuses(more) == server.statuses(key) == {200}
        reload("1 tenant added [alice]", alice)
        wait_until(lambda: server.statuses(alice["api_key"]) == {200})
        taken = server.refused("POST", "/tenants", json={"tenant": "Alice"})
        assert taken == (409, "tenant_exists")


def test_what_was_changed_is_served_after_a_crash(tmp_path: Path) -> None:
    with administered(tmp_path) as server:
        key = server.create("acme")
        paused = server.create("paused")
        server.done("POST", "/tenants/paused/suspend")
        server.append(key)
        server.server.kill()
    with administered(tmp_path) as server:
        assert server.append(key).json()["position"] == 2
        assert server.append(paused).json()["code"] == "tenant_suspended"
        assert [it["action"] for it in server.done("GET", "/audit")["audit"]] == [
            "suspend",
            "create",
            "create",
        ]


def test_a_deletion_that_was_cut_off_is_finished_by_the_next_start(tmp_path: Path) -> None:
    register(tmp_path, "acme")
    with SqliteEngine(tmp_path / "data") as engine:
        engine.open("acme").append([NewEvent.of("T", 1)])
    with Registry(tmp_path / "data" / "tenants.registry") as registry:
        registry.set_state("acme", "suspended", by=ME)
        trash = registry.delete("acme", confirmed="acme", by=ME).id
    with administered(tmp_path) as server:
        [found] = server.done("GET", "/trash")["trash"]
        assert (found["id"], found["size_bytes"] > 0) == (trash, True)
        assert server.append(server.create("acme")).json()["position"] == 1


def test_a_change_outlives_the_worker_that_was_asked(tmp_path: Path) -> None:
    """It is in the registry, and the worker had no time to say so."""
    with administered(tmp_path, 2) as server:
        register(tmp_path, "unsaid")  # what its last act was
        os.kill(workers_of(server.server)[0], signal.SIGKILL)
        server.secrets.append(key_of("unsaid"))

        def is_served() -> bool:
            return server.statuses(key_of("unsaid")) == {200}

        wait_until(is_served)


def test_a_delete_waits_for_who_still_has_the_file_open(tmp_path: Path) -> None:
    with administered(tmp_path) as server:
        server.append(server.create("acme"))
        server.done("POST", "/tenants/acme/suspend")
        reader = sqlite3.connect(server.data / "acme.db")
        reader.execute("SELECT count(*) FROM blocks").fetchall()
        with ThreadPoolExecutor(1) as thread:
            deleting = thread.submit(server.done, "DELETE", "/tenants/acme?confirm=acme")
            wait_until(lambda: server.ask("GET", "/admin/tenants/acme").status_code == 404)
            refused = server.refused("POST", "/tenants", json={"tenant": "acme"})
            assert refused == (409, "tenant_exists")
            assert not deleting.done()
            reader.close()
            trash = deleting.result(60)["trash"]
        [found] = server.done("GET", "/trash")["trash"]
        assert (found["id"], found["size_bytes"] > 0) == (trash, True)
        assert server.append(server.create("acme")).json()["position"] == 1


def test_an_engine_without_files_has_the_tenants_of_the_file_only(tmp_path: Path) -> None:
    with administered(tmp_path, engine="memory") as server:
        [filed] = server.done("GET", "/tenants?figures=true")["tenants"]
        assert (filed["tenant"], filed["figures"]["size_bytes"]) == ("filed", None)
        assert server.done("GET", "/trash") == {"trash": []}
        assert server.done("GET", "/audit") == {"audit": [], "next": None}
        refused = (409, "no_registry")
        assert server.refused("POST", "/tenants", json={"tenant": "acme"}) == refused
        assert server.refused("POST", "/tenants/acme/suspend") == refused
        assert server.refused("GET", "/tenants/acme") == (404, "unknown_tenant")
    assert not (tmp_path / "data").exists()


def test_what_is_in_the_registry_is_served_without_an_admin_key_too(tmp_path: Path) -> None:
    register(tmp_path, "acme")
    write_config(tmp_path / "tenants.yaml", {"tenants": [FILED]})
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=tmp_path)
    try:
        server.wait_until_listening()
        answered = Administered(server, tmp_path, 1)
        assert answered.statuses(key_of("acme")) == {200}
        assert answered.ask("GET", "/admin/tenants", key=key_of("acme")).status_code == 404
        assert server.stop() == 0
    finally:
        server.kill()
