"""Our own guide comes true: what it tells a reader to do is done, and answers as it shows."""

from __future__ import annotations

import shutil
import signal
import stat

import pytest
import yaml

from tests.backends.test_sqlite_takeover import original_file, row
from tests.conftest import ROOT
from tests.guide.accounting import assert_every_block_is_read
from tests.guide.markdown import Guide
from tests.guide.reader import Reader

SERVED = ["Name your tenants", "Start the server"]


@pytest.fixture(scope="module")
def guide() -> Guide:
    return Guide(ROOT / "docs" / "guide.md")


@pytest.fixture
def keys(guide: Guide) -> list[str]:
    """The keys of the tenants that the guide names, in order."""
    config = yaml.safe_load(guide.section("Name your tenants")[0].text)
    return [tenant["api_key"] for tenant in config["tenants"]]


def test_every_block_is_followed_by_a_test(guide: Guide) -> None:
    assert_every_block_is_read(guide, globals())


@pytest.mark.reads("Set up", only=["pip"])
def test_an_installation_gives_the_command(reader: Reader) -> None:
    reader.follow_all()
    [version] = reader.run("PYTHONPATH=installed installed/bin/ebus --version")
    assert version.stdout.startswith("ebus, version ")
    assert (reader.directory / "installed" / "ebus" / "cli" / "serve.py").exists()


@pytest.mark.reads("Set up", only=["make"], needs=["make"])
def test_make_serve_serves_the_example(reader: Reader) -> None:
    [planned] = reader.follow_all()
    assert planned.stdout.endswith("ebus serve --config tenants.example.yaml\n")
    shutil.copy(ROOT / "tenants.example.yaml", reader.directory)
    [checked] = reader.run("ebus check --config tenants.example.yaml")
    assert checked.stdout.startswith("tenants.example.yaml: no mistakes\n")


@pytest.mark.reads(
    "Name your tenants",
    "Start the server",
    "Append and read",
    "Follow along",
    "Look into a file",
    "When something is refused",
)
def test_a_reader_gets_from_names_to_events_and_refusals_as_shown(
    reader: Reader, keys: list[str]
) -> None:
    outputs = reader.follow_all("Name your tenants")
    [made] = [output.stdout for output in outputs if "keygen" in output.step.command]
    assert yaml.safe_load(made).keys() == {"api_key", "api_key_sha256"}
    assert stat.S_IMODE(reader.config_file.stat().st_mode) == 0o600
    assert not (reader.directory / "data").exists()

    outputs = reader.follow_all("Start the server")
    [options] = [output.stdout for output in outputs if "--help" in output.step.command]
    assert all(option in options for option in ("--host", "--port", "--log-format"))

    reader.follow_all()
    assert reader.get("/position", keys[0]).json() == {"position": 1}
    reader.append(keys[1], "of the other tenant")
    assert reader.get("/position", keys[1]).json() == {"position": 1}
    reader.stop(signal.SIGTERM)


@pytest.mark.reads("Add, remove, change keys", after=SERVED)
def test_tenants_and_keys_change_with_a_restart(reader: Reader, keys: list[str]) -> None:
    reader.append(keys[0], "of prod")
    reader.append(keys[1], "of staging")
    config = yaml.safe_load(reader.config_file.read_text())
    prod, staging = config["tenants"]
    config["tenants"] = [{**prod, "api_key": "changed" * 5}, {"name": "new", "api_key": "k" * 32}]
    reader.write_config(yaml.safe_dump(config))
    assert reader.data(keys[0]) == ["of prod"]
    reader.stop()
    reader.start_again()
    assert reader.data("changed" * 5) == ["of prod"]
    assert reader.data("k" * 32) == []
    assert [reader.get("/position", key).status_code for key in keys] == [401, 401]
    files = {file.name for file in (reader.directory / "data").glob("*.db")}
    assert files == {f"{name}.db" for name in (prod["name"], staging["name"], "new")}


@pytest.mark.reads("Move from the original server")
def test_a_database_of_the_original_server_is_served_with_a_config_or_without(
    reader: Reader,
) -> None:
    original_file(reader.directory, [row(1, b'"first"'), row(2, b'"second"')], name="events")
    rename, config, without_config = reader.unread
    key = yaml.safe_load(config.text)["tenants"][0]["api_key"]
    reader.follow(rename)
    reader.follow(config)
    reader.follow(reader.guide.section("Start the server")[0])
    assert reader.data(key) == ["first", "second"]
    assert reader.get("/metrics", key).json()["tenant"] == "main"
    assert "took over all 2 events" in reader.stop()
    reader.follow(without_config)
    assert reader.data(key) == ["first", "second"]
    assert reader.get("/subscriptions/mailer/position", key).json() == {"position": 2}
    assert reader.get("/tenants", key).status_code == 404
