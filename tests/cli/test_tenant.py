"""`ebus tenant`: the same through a server that runs, and directly where none does."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.cli import main, tenant_place
from ebus.tenants.claim import Claim
from tests.http.admins import ADMIN_KEY, FILE_KEY, FILED, Administered, administered, config_of
from tests.http.conftest import write_config
from tests.http.test_settings import wait_until
from tests.live_server import serving

Tenant = Callable[..., Result]


class Commands:
    """`ebus tenant` on a config file; through the server, where there is one."""

    def __init__(self, directory: Path, server: Administered | None) -> None:
        self.directory = directory
        self.server = server
        self.data = directory / "data"

    def run(self, *arguments: str, key: str = ADMIN_KEY, json_too: bool = False) -> Result:
        config = str(self.directory / "tenants.yaml")
        more = ["--json"] if json_too else []
        environment = {"EBUS_ADMIN_KEY": key}
        return CliRunner(env=environment).invoke(
            main, ["tenant", *arguments, "--config", config, *more]
        )

    def said(self, *arguments: str) -> Any:
        """The JSON document of a command that succeeds."""
        result = self.run(*arguments, json_too=True)
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        if self.server is not None and "key" in document:
            self.server.secrets.append(document["key"])
        return document

    def refused(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 1, result.output
        assert not result.stdout
        return result.stderr


@pytest.fixture(scope="module", params=["directly", "server"])
def commands(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Commands]:
    directory = tmp_path_factory.mktemp(request.param)
    data_dir = str(directory / "data")
    with ExitStack() as stack:
        server = None
        if request.param == "server":
            server = stack.enter_context(administered(directory, data_dir=data_dir))
        else:
            write_config(directory / "tenants.yaml", config_of(data_dir=data_dir))
        yield Commands(directory, server)


def test_a_tenant_is_made_listed_and_shown(commands: Commands) -> None:
    made = commands.said(
        "create", "acme", "--limit", "max_stored_events=7", "--durability", "normal"
    )
    assert made["key"].startswith("ebus_")
    assert made["tenant"]["limits"] == {"max_stored_events": 7}
    listed = commands.said("list")
    assert [it["tenant"] for it in listed["tenants"]] == ["acme", "filed"]
    assert [it["source"] for it in listed["tenants"]] == ["registry", "file"]
    assert [it["tenant"] for it in commands.said("list", "--prefix", "ac")["tenants"]] == ["acme"]
    table = commands.run("list").stdout.splitlines()
    assert table[0].split() == [
        "TENANT", "STATE", "SOURCE", "KEYS", "DURABILITY", "LIMITS", "CREATED",
    ]  # fmt: skip
    assert table[1].split()[:6] == [
        "acme", "active", "registry", "1", "normal", "max_stored_events=7",
    ]  # fmt: skip
    assert "key key-1: both" in commands.run("show", "acme").stdout
    assert commands.said("show", "filed")["source"] == "file"


def test_the_key_alone_goes_to_standard_output(commands: Commands) -> None:
    result = commands.run("create", "piped")
    assert result.exit_code == 0
    key = result.stdout.strip()
    if commands.server is not None:
        commands.server.secrets.append(key)
    assert key.startswith("ebus_")
    assert " " not in key
    assert key not in result.stderr


def test_what_is_refused_says_why_and_ends_with_1(commands: Commands) -> None:
    commands.said("create", "there")
    assert "already" in commands.refused("create", "there")
    assert "config file" in commands.refused("create", "filed")
    assert "config file" in commands.refused("suspend", "filed")
    assert "no tenant name" in commands.refused("create", "a b")
    assert "is no limit" in commands.refused("create", "x", "--limit", "max_eggs=1")
    assert "no tenant of this name" in commands.refused("resume", "nobody")
    assert "like max_stored_events" in commands.refused("create", "x", "--limit", "five")
    with SqliteEngine(commands.data) as engine:
        engine.open("before").append([NewEvent.of("T", 1)])
    assert "from before" in commands.refused("create", "before")


def test_limits_and_keys_change(commands: Commands) -> None:
    commands.said("create", "changing")
    changed = commands.said(
        "set", "changing", "--limit", "max_events_per_second=2.5", "--durability", "full"
    )
    assert (changed["limits"], changed["durability"]) == ({"max_events_per_second": 2.5}, "full")
    changed = commands.said(
        "set", "changing", "--limit", "max_events_per_second=", "--durability", "server"
    )
    assert (changed["limits"], changed["durability"]) == ({}, None)
    added = commands.said(
        "add-key", "changing", "--key-name", "reader", "--scope", "read",
        "--expires-at", "2999-01-01",
    )  # fmt: skip
    assert added["tenant"]["keys"][1] == {
        "name": "reader", "scope": "read", "expires_at": "2999-01-01T00:00:00Z",
    }  # fmt: skip
    rotated = commands.said("rotate-key", "changing", "--key-name", "key-1", "--overlap", "0s")
    names = [key["name"] for key in rotated["tenant"]["keys"]]
    assert names == ["reader", rotated["key_name"]]
    left = commands.said("revoke-key", "changing", "reader")
    assert [key["name"] for key in left["keys"]] == [rotated["key_name"]]


def test_a_tenant_is_deleted_in_two_steps_and_purged_in_a_third(commands: Commands) -> None:
    commands.said("create", "leaving")
    with SqliteEngine(commands.data) as engine:
        engine.open("leaving").append([NewEvent.of("T", 1)])
    assert "suspend it first" in commands.refused("delete", "leaving", "--confirm", "leaving")
    assert commands.said("suspend", "leaving")["state"] == "suspended"
    assert "repeat the name" in commands.refused("delete", "leaving")
    trash = commands.said("delete", "leaving", "--confirm", "leaving")["trash"]
    assert (commands.data / "tenants.trash" / trash / "leaving.db").exists()
    [found] = [it for it in commands.said("trash")["trash"] if it["id"] == trash]
    assert (found["tenant"], found["size_bytes"] > 0) == ("leaving", True)
    assert trash in commands.run("trash").stdout
    assert "repeat the name" in commands.refused("purge", trash)
    commands.said("purge", trash, "--confirm", "leaving")
    assert trash not in commands.run("trash").stdout
    commands.said("create", "leaving")


def test_the_audit_log_tells_by_which_way(commands: Commands) -> None:
    commands.said("create", "audited")
    commands.said("suspend", "audited")
    entries = commands.said("audit", "--tenant", "audited")["audit"]
    assert [it["action"] for it in entries] == ["suspend", "create"]
    how = "command" if commands.server is None else "http"
    assert {it["how"] for it in entries} == {how}
    assert "key_name=key-1 scope=both" in commands.run("audit", "--last", "2").stdout


@pytest.mark.parametrize("commands", ["server"], indirect=True)
def test_a_server_that_runs_is_asked_and_needs_its_key(commands: Commands) -> None:
    assert commands.server is not None
    assert "needs its admin key: set EBUS_ADMIN_KEY" in commands.run("list", key="").stderr
    assert "key_invalid" in commands.run("list", key="wrong").stderr
    assert "insufficient_scope" in commands.run("list", key=FILE_KEY).stderr
    file = commands.directory / "admin.key"
    file.write_text(f"{ADMIN_KEY}\n")
    by_url = ["tenant", "list", "--url", commands.server.server.url]
    assert CliRunner().invoke(main, [*by_url, "--admin-key-file", str(file)]).exit_code == 0
    assert "cannot be read" in CliRunner().invoke(main, [*by_url, "--admin-key-file", "no"]).stderr


@pytest.mark.parametrize("commands", ["server"], indirect=True)
def test_what_a_command_changes_holds_in_the_server_at_once(commands: Commands) -> None:
    assert commands.server is not None
    key = commands.said("create", "served")["key"]
    assert commands.server.statuses(key) == {200}
    commands.said("suspend", "served")
    assert commands.server.statuses(key) == {403}


# Where there is no server to be asked


def test_what_was_made_without_a_server_is_served_by_the_next(tmp_path: Path) -> None:
    write_config(tmp_path / "tenants.yaml", config_of(data_dir=str(tmp_path / "data")))
    key = Commands(tmp_path, None).said("create", "early")["key"]
    with administered(tmp_path, data_dir=str(tmp_path / "data")) as server:
        server.secrets.append(key)
        assert server.statuses(key) == {200}


def test_of_commands_at_once_each_has_its_turn(tmp_path: Path) -> None:
    write_config(tmp_path / "tenants.yaml", config_of(data_dir=str(tmp_path / "data")))
    path = tmp_path / "tenants.yaml"
    made: list[str] = []

    def create(number: int) -> None:
        where = tenant_place.Where(str(path), None, None, as_json=True)
        with where.tenants() as tenants:
            name = f"t-{number}"
            made.append(tenants.create(name, {"scope": "both"})["tenant"]["tenant"])

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["t-0", "t-1", "t-2", "t-3"]


def test_of_servers_by_the_same_data_one_is_asked_that_still_runs(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with administered(tmp_path, data_dir=data):
        with administered(tmp_path, data_dir=data):
            assert Commands(tmp_path, None).run("list").exit_code == 0
        assert Commands(tmp_path, None).run("list").exit_code == 0


def test_a_server_without_a_claim_takes_nobody_from_a_registry_that_came_later(
    tmp_path: Path,
) -> None:
    config = {"data_dir": str(tmp_path / "data"), "watch_config": False, "tenants": [FILED]}
    write_config(tmp_path / "tenants.yaml", config)
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as server:
        key = Commands(tmp_path, None).said("create", "later")["key"]
        write_config(tmp_path / "tenants.yaml", config | {"tenants_visible": "own"})
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "config reloaded" in server.log)
        headers = {"X-API-Key": key}
        assert httpx.get(f"{server.url}/position", headers=headers).status_code == 401


def test_who_does_not_say_where_to_ask_is_waited_for_and_then_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path / "tenants.yaml", config_of(data_dir=str(tmp_path / "data")))
    monkeypatch.setattr(tenant_place, "CLAIM_TIMEOUT_S", 0.1)
    claim = Claim.take(tmp_path / "data")
    assert claim is not None
    try:
        assert "is in use" in Commands(tmp_path, None).refused("list")
    finally:
        claim.release()
    assert Commands(tmp_path, None).run("list").exit_code == 0


def test_there_must_be_a_place(tmp_path: Path) -> None:
    assert "Say --config" in CliRunner().invoke(main, ["tenant", "list"]).stderr
    write_config(tmp_path / "tenants.yaml", config_of(engine="memory"))
    assert "no place" in Commands(tmp_path, None).refused("list")
    answer = CliRunner(env={"EBUS_ADMIN_KEY": "k"}).invoke(
        main, ["tenant", "list", "--url", "http://127.0.0.1:9"]
    )
    assert "cannot be asked" in answer.stderr
    answer = CliRunner(env={"EBUS_ADMIN_KEY": "k"}).invoke(
        main, ["tenant", "list", "--url", "http://key@host"]
    )
    assert "without a key" in answer.stderr
