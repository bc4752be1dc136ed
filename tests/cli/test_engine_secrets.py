"""No command shows the secret of an engine's address, whatever it does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebus import NewEvent, open_engine
from ebus.cli import main
from tests.config import nats_factory

CANARY = "Canary7Secret"

ADDRESSES = {
    "there": f"nats://ebus:{CANARY}@h1,h2?replicas=3&system_user=sys&system_password={CANARY}",
    "of one server": f"tls://{CANARY}@h1",
    "away": f"nats://h1,away?user=ebus&password={CANARY}",
    "a mistake": f"nats://ebus:{CANARY}@h1?replicas=2",
    "no address": f"nats:ebus:{CANARY}@h1",
    "unknown": f"nast://ebus:{CANARY}@h1",
    "without its driver": f"cluster://ebus:{CANARY}@h1",
    "no server": f"http://{CANARY}@",
    "no engine": f"{CANARY}@h1",
    "a directory": f"memory://ebus:{CANARY}@h1",
}

COMMANDS = [
    ["check", "--config", "tenants.yaml"],
    ["backup", "--config", "tenants.yaml", "--to", "copies"],
    ["restore", "--config", "tenants.yaml", "--from", "copies"],
    ["verify", "--config", "tenants.yaml"],
    ["tenant", "list", "--config", "tenants.yaml"],
    ["tenant", "create", "bob", "--config", "tenants.yaml"],
    ["copy", "ADDRESS", "sqlite:data", "--tenant", "alice"],
    ["copy", "sqlite:data", "ADDRESS", "--tenant", "alice"],
    ["copy", "ADDRESS", "ADDRESS", "--all"],
    ["export", "ADDRESS", "alice.ndjson"],
    ["import", "alice.ndjson", "ADDRESS"],
    ["copy", "ADDRESS", "sqlite:data", "--source-key-file", "tenants.yaml"],
]


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nats_factory.register(monkeypatch)
    with open_engine("sqlite:data") as engine:
        engine.open("alice").append([NewEvent.of("T", 1)])


def ebus(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, arguments)


def configure(address: str) -> None:
    config = Path("tenants.yaml")
    config.write_text(
        f'engine: "{address}"\n'
        "admin_key_sha256: c3055b4553c41f41ea23c19803450082450cae8cbfecf5c7c07048c8f5e22a9a\n"
        "tenants: [{name: alice, api_key: alice-secret-key-123-aaaaaaaaaaaaaaaa}]\n"
    )
    config.chmod(0o600)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES.keys())
def test_a_command_does_not_show_it(
    address: str, command: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    configure(address)
    Path("alice.ndjson").touch()
    result = ebus(*(address if word == "ADDRESS" else word for word in command))
    assert CANARY not in result.output
    assert CANARY not in caplog.text
    error = result.exception
    while error is not None:
        assert isinstance(error, SystemExit), (error, result.output)
        assert CANARY not in f"{error!r}"
        error = error.__context__ if isinstance(error.__context__, SystemExit) else None


def test_check_says_which_engine_and_what_its_answers_are_worth() -> None:
    configure(ADDRESSES["there"])
    result = ebus("check", "--config", "tenants.yaml")
    assert result.exit_code == 0, result.output
    assert "Engine: nats://h1,h2, durability full\n" in result.stdout
    assert "What an acknowledgement is worth: stored by 3 servers\n" in result.stdout
    assert result.stderr == ""


def test_check_warns_of_what_is_less_than_was_asked_for() -> None:
    configure(ADDRESSES["of one server"])
    result = ebus("check", "--config", "tenants.yaml")
    assert result.exit_code == 0, result.output
    assert result.stderr == "WARNING: replicas: 1 is lost with its only server\n"


def test_check_says_that_an_engine_cannot_be_reached() -> None:
    configure(ADDRESSES["away"])
    result = ebus("check", "--config", "tenants.yaml")
    assert result.exit_code == 1
    assert result.stderr == "nats://h1:4222,away:4222 cannot be reached\n"


def test_check_tells_a_missing_driver_with_its_line() -> None:
    configure(ADDRESSES["without its driver"])
    result = ebus("check", "--config", "tenants.yaml")
    assert result.exit_code == 1
    assert "tenants.yaml:1: the engine 'cluster' needs no_such_driver" in result.stderr
    assert "pip install 'ebus[cluster]'" in result.stderr
