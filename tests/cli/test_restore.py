"""`ebus restore`: whole files in their places, or nothing changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.cli import main
from tests.cli.conftest import KEYS, Ebus, config_of, orders, stored, values
from tests.cli.test_backup import contents, start
from tests.live_server import serving
from tests.torture.small_disk import MIB, NoSmallDisk, small_disk


@pytest.fixture
def backup(place: Path, ebus: Ebus) -> Path:
    """Of alice with three events, and bob with two."""
    stored(place / "data", "alice", events=3)
    stored(place / "data", "bob", events=2)
    assert ebus("backup", "--to", "backup").exit_code == 0
    return place / "backup"


@pytest.mark.usefixtures("backup")
def test_a_backup_is_restored_elsewhere(place: Path, ebus: Ebus) -> None:
    result = ebus("restore", "--from", "backup", config="other.yaml")
    assert result.exit_code == 0, result.output
    assert "alice: 3 events up to position 3, as of 20" in result.stdout
    assert "Restored 2 tenants from backup" in result.stdout
    assert sorted(contents(place / "other")) == ["alice.db", "bob.db"]
    assert (place / "other").stat().st_mode & 0o777 == 0o700
    assert (place / "other" / "alice.db").stat().st_mode & 0o777 == 0o600
    assert values(place / "other", "alice") == orders(3)
    assert values(place / "other", "bob") == orders(2)
    with SqliteEngine(place / "other") as engine:
        alice = engine.open("alice")
        assert alice.checkpoint("mailer") == 1
        assert alice.append([NewEvent.of("OrderPlaced", {})]).first_position == 4


@pytest.mark.usefixtures("backup")
def test_what_is_there_is_overwritten_only_when_told(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice", begin=3)
    before = contents(place / "data")
    result = ebus("restore", "--from", "backup")
    assert result.exit_code == 1
    assert "alice.db is there already, and would be overwritten" in result.stderr
    assert contents(place / "data") == before
    assert ebus("restore", "--from", "backup", "--overwrite").exit_code == 0
    assert values(place / "data", "alice") == orders(3)


@pytest.mark.usefixtures("backup")
def test_one_tenant_can_be_restored_and_the_others_stay(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice", begin=3)
    (place / "data" / "bob.db").unlink()
    assert ebus("restore", "--from", "backup", "--tenant", "bob").exit_code == 0
    assert values(place / "data", "alice") == orders(6)
    assert values(place / "data", "bob") == orders(2)


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_a_damaged_copy_stops_the_whole_restore(
    place: Path, ebus: Ebus, backup: Path, damage: str
) -> None:
    copy = backup / "bob.db"
    content = copy.read_bytes()
    if damage == "changed":
        copy.write_bytes(content[:-1] + b"?")
    elif damage == "cut short":
        copy.write_bytes(content[:-1])
    else:
        copy.unlink()
    before = contents(place / "data")
    result = ebus("restore", "--from", "backup", "--overwrite")
    assert result.exit_code == 1
    assert "bob: " in result.stderr
    assert "bob.db is " in result.stderr
    assert contents(place / "data") == before
    assert ebus("restore", "--from", "backup", "--overwrite", "--tenant", "alice").exit_code == 0


def test_what_is_no_backup_is_refused(place: Path, ebus: Ebus) -> None:
    (place / "empty").mkdir()
    for name in ("empty", "nowhere", "tenants.yaml"):
        result = ebus("restore", "--from", name)
        assert result.exit_code == 1
        assert "Nothing was restored: " in result.stderr


@pytest.mark.usefixtures("backup")
def test_an_unknown_tenant_is_told(place: Path, ebus: Ebus) -> None:
    result = ebus("restore", "--from", "backup", "--tenant", "carol")
    assert result.exit_code == 1
    assert "backup holds no tenant carol" in result.stderr


@pytest.mark.usefixtures("backup")
def test_a_name_that_differs_only_in_case_from_one_that_is_there_is_refused(
    place: Path, ebus: Ebus
) -> None:
    stored(place / "other", "Alice")
    result = ebus("restore", "--from", "backup", "--overwrite", config="other.yaml")
    assert result.exit_code == 1
    assert "differs from alice.db in case only" in result.stderr
    assert sorted(contents(place / "other")) == ["Alice.db"]


@pytest.mark.usefixtures("backup")
def test_a_tenant_that_was_gone_is_restored_only_by_its_name(place: Path, ebus: Ebus) -> None:
    (place / "data" / "bob.db").unlink()
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert ebus("restore", "--from", "backup", config="other.yaml").exit_code == 0
    assert sorted(contents(place / "other")) == ["alice.db"]
    ebus("restore", "--from", "backup", "--tenant", "bob", config="other.yaml")
    assert values(place / "other", "bob") == orders(2)


@pytest.mark.usefixtures("backup")
def test_the_wal_of_a_killed_server_does_not_get_into_what_is_restored(
    place: Path, ebus: Ebus
) -> None:
    program = """
import os
from ebus import NewEvent, open_engine
open_engine("sqlite:data").open("alice").append([NewEvent.of("Late", None)] * 500)
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program], cwd=place, check=False)
    assert (place / "data" / "alice.db-wal").stat().st_size > 0
    assert ebus("restore", "--from", "backup", "--overwrite").exit_code == 0
    assert values(place / "data", "alice") == orders(3)


def test_what_is_damaged_can_be_overwritten(place: Path, ebus: Ebus, backup: Path) -> None:
    (place / "data" / "alice.db").write_text("no database any more" * 1_000)
    (place / "data" / "bob.db").unlink()
    (place / "data" / "bob.db-wal").write_text("left of bob" * 100)
    assert ebus("restore", "--from", "backup").exit_code == 1
    assert ebus("restore", "--from", "backup", "--overwrite").exit_code == 0
    assert values(place / "data", "alice") == orders(3)
    assert values(place / "data", "bob") == orders(2)


@pytest.mark.usefixtures("backup")
def test_a_full_disk_while_restoring_leaves_the_old_data(place: Path, ebus: Ebus) -> None:
    old = stored(place / "old", "alice")
    stored(place / "data", "alice", begin=3, events=10_000)
    assert ebus("backup", "--to", "backup").exit_code == 0
    try:
        with small_disk(6 * MIB, place) as disk:
            config_of(place, data_dir=str(disk.path / "data"))
            (disk.seen / "data").mkdir()
            shutil.copy(old, disk.seen / "data")
            before = contents(disk.seen / "data")
            arguments = ("restore", "--from", str(place / "backup"), "--overwrite")
            process = start(*arguments, cwd=place, within=tuple(disk.within))
            _, errors = process.communicate()
            assert process.returncode == 1
            assert "Nothing was restored: " in errors
            assert "cannot grow: the disk is full" in errors
            assert contents(disk.seen / "data") == before
    except NoSmallDisk as reason:
        pytest.skip(str(reason))


@pytest.mark.usefixtures("backup")
def test_what_a_server_has_open_is_restored_over_only_when_told(place: Path, ebus: Ebus) -> None:
    arguments = ["restore", "--from", "backup", "--overwrite"]
    headers = {"X-API-Key": KEYS["alice"]}
    event = {"type": "Late", "data": None}
    with serving(["--config", "tenants.yaml"], cwd=place) as server:
        with httpx.Client(base_url=server.url, headers=headers, verify=False) as client:
            assert client.post("/events", json=event).is_success
            result = ebus(*arguments)
            assert result.exit_code == 1
            assert "alice.db is open in a process: stop the server that serves it" in result.stderr
            assert client.post("/events", json=event).is_success
            assert ebus(*arguments, "--even-if-open").exit_code == 0
            assert client.post("/events", json=event).status_code == 503
        server.stop()
    assert values(place / "data", "alice") == orders(3)
    with serving(["--config", "tenants.yaml"], cwd=place) as server:
        with httpx.Client(base_url=server.url, headers=headers, verify=False) as client:
            assert client.get("/position").json()["position"] == 3
            assert client.post("/events", json=event).json()["position"] == 4


def test_a_backup_of_another_engine_is_refused(place: Path, ebus: Ebus, backup: Path) -> None:
    manifest = backup / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"engine": "sqlite"', '"engine": "other"'))
    for command in (["backup", "--to"], ["restore", "--from"]):
        result = ebus(*command, "backup")
        assert result.exit_code == 1
        assert "a backup of the engine other" in result.stderr
    result = ebus("verify", "--backup", "backup")
    assert result.exit_code == 1
    assert "unknown engine 'other'" in result.stderr


def test_a_single_tenant_is_backed_up_and_restored_too(place: Path) -> None:
    environment = {"API_KEY": "k" * 40, "DB_PATH": str(place / "single" / "shop.db")}
    stored(place / "single", "shop")
    for arguments in (
        ["backup", "--to", "saved"],
        ["verify"],
        ["restore", "--from", "saved", "--overwrite"],
    ):
        result = CliRunner(env=environment).invoke(main, arguments)
        assert result.exit_code == 0
        assert "shop: " in result.stdout
