"""`ebus check`: what would be served, or everything that is wrong, without touching data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.cli import main

TENANTS = """\
tenants:
  - {name: alice, api_key: alice-secret-key-123-aaaaaaaaaaaaaaaa}
  - {name: bob, api_key: bob-secret-key-456-bbbbbbbbbbbbbbbbbb, durability: normal}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "tenants.yaml"
    config.write_text(TENANTS)
    config.chmod(0o600)
    return tmp_path


def check(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["check", *arguments])


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file()
    }


def test_a_good_config_says_what_would_be_served(directory: Path) -> None:
    result = check("--config", "tenants.yaml")
    assert result.exit_code == 0
    assert result.stdout == (
        "tenants.yaml: no mistakes\n"
        "Engine: sqlite:data, durability full\n"
        "What an acknowledgement is worth: synced to this machine's disk before the answer\n"
        "Port: 8080\n"
        "Tenants: 2\n"
        "  alice: new\n"
        "  bob: new, durability normal\n"
    )


def test_checking_makes_and_changes_nothing(directory: Path, shared: Path) -> None:
    with SqliteEngine(directory / "data") as engine:
        engine.open("alice").append([NewEvent.of("T", 1)])
    shutil.copyfile(shared / "compat" / "events-go-string-times.db", directory / "data" / "bob.db")
    before = snapshot(directory)
    result = check("-config", "tenants.yaml")
    assert "alice: ready" in result.stdout
    assert "bob: written by the original server, to be taken over" in result.stdout
    assert snapshot(directory) == before


def test_a_directory_that_is_not_there_is_not_made(directory: Path) -> None:
    assert check("--config", "tenants.yaml").exit_code == 0
    assert not (directory / "data").exists()


def test_every_mistake_is_told_and_no_key(directory: Path) -> None:
    (directory / "tenants.yaml").write_text(
        TENANTS.replace("name: bob", "nmae: bob") + "datadir: x\n"
    )
    result = check("--config", "tenants.yaml")
    assert result.exit_code == 1
    assert "did you mean name?" in result.stderr
    assert "did you mean data_dir?" in result.stderr
    assert "secret" not in result.output


def test_every_file_that_is_not_fit_is_told(directory: Path) -> None:
    (directory / "data").mkdir()
    for name in ("alice", "bob"):
        (directory / "data" / f"{name}.db").write_bytes(b"not a database" * 100)
    result = check("--config", "tenants.yaml")
    assert result.exit_code == 1
    assert "alice.db is not a SQLite database" in result.stderr
    assert "bob.db is not a SQLite database" in result.stderr


def test_a_data_directory_that_cannot_be_written_is_told(directory: Path) -> None:
    (directory / "tenants.yaml").write_text(f"data_dir: tenants.yaml\n{TENANTS}")
    result = check("--config", "tenants.yaml")
    assert result.exit_code == 1
    assert "tenants.yaml is not a directory that can be written" in result.stderr


def test_an_unknown_engine_lists_the_known_ones(directory: Path) -> None:
    (directory / "tenants.yaml").write_text(f"engine: postgres\n{TENANTS}")
    result = check("--config", "tenants.yaml")
    assert result.exit_code == 1
    assert "memory" in result.stderr
    assert "sqlite" in result.stderr


def test_a_single_tenant_can_be_checked_too() -> None:
    result = check(API_KEY="k" * 40)
    assert result.exit_code == 0
    assert "events: new" in result.stdout


def test_warnings_are_told_as_well(directory: Path) -> None:
    (directory / "tenants.yaml").chmod(0o644)
    result = check("--config", "tenants.yaml")
    assert result.exit_code == 0
    assert "chmod 600" in result.stderr
