"""The multi-tenant guide comes true, line by line, with `ebus` in place of `./ebus`."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import apsw
import httpx
import pytest
import yaml

from tests.conftest import ROOT
from tests.guide.accounting import assert_every_block_is_read
from tests.guide.markdown import Block, Guide
from tests.guide.reader import Reader
from tests.guide.substitutions import SUBSTITUTIONS
from tests.live_server import serving

ALICE = "alice-secret-key-123"
BOB = "bob-secret-key-456"
CHARLIE = "charlie-secret-key-789"
SERVED = ["Create Configuration File", "Start Server"]


@pytest.fixture(scope="module")
def guide(shared: Path) -> Guide:
    return Guide(shared / "guide" / "MULTI-TENANT.md")


def test_every_block_is_followed_by_a_test(guide: Guide) -> None:
    assert_every_block_is_read(guide, globals())


def test_every_substitution_is_of_words_of_a_guide(guide: Guide) -> None:
    pages = [guide.path.read_text(), (ROOT / "docs" / "guide.md").read_text()]
    assert [words for words in SUBSTITUTIONS if not any(words in page for page in pages)] == []


@pytest.mark.reads("Quick Start", "Database Files")
def test_the_quick_start_goes_as_shown_and_makes_the_files_shown(reader: Reader) -> None:
    reader.follow_all()


@pytest.mark.reads("Complete Data Isolation", after=SERVED)
def test_positions_and_queries_are_isolated(reader: Reader) -> None:
    reader.follow_all()
    assert len(reader.published[ALICE]) == len(reader.published[BOB]) == 1
    assert reader.published[ALICE] != reader.published[BOB]


@pytest.mark.reads("Integration with ebu Library", after=SERVED)
def test_clients_of_two_tenants_reach_the_files_shown(reader: Reader) -> None:
    """The requests of the original's client, with the addresses and keys of the Go code."""
    code = reader.said(reader.take("go").text)
    adapters = dict(
        re.findall(r'(\w+)Store := client\.NewEventStoreAdapter\(\s*("[^)]*"),\s*\)', code)
    )
    goes_to = dict(re.findall(r"Publish\((\w+)Bus, .*// Goes to (\S+\.db)", code))
    assert list(adapters) == list(goes_to) == ["alice", "bob"]
    for name, arguments in adapters.items():
        url, key = re.findall(r'"([^"]*)"', arguments)
        now = datetime.now(UTC).astimezone().isoformat()
        event = {"type": "OrderPlaced", "data": {"by": name}, "timestamp": now}
        with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as client:
            assert client.post("/events", json=event).json()["position"] == 1
            assert client.get("/position").json() == {"position": 1}
            [stored] = client.get("/events?from=1").json()
            assert stored["data"] == {"by": name}
    reader.stop()
    for name, file in goes_to.items():
        assert stored_data(reader.directory / "data" / file) == [{"by": name}]


@pytest.mark.reads("Use Cases")
def test_every_use_case_serves_its_tenants(reader: Reader, tmp_path: Path) -> None:
    def follow_in_a_place_of_its_own(config: Block) -> None:
        with Reader(reader.guide, [config], reader.shell, tmp_path / config.headings[-1]) as one:
            one.follow_all()
            one.follow(one.guide.section("Start Server")[0])
            assert_serves_its_tenants(one)

    configs = [reader.take("yaml") for _ in range(len(reader.unread))]
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(follow_in_a_place_of_its_own, configs))


@pytest.mark.reads("Management Endpoints", "Monitoring", after=SERVED)
def test_tenants_and_metrics_are_answered_as_shown(reader: Reader) -> None:
    [shown] = [json.loads(block.text) for block in reader.unread if '"total_events"' in block.text]
    reader.append(ALICE, *range(shown["total_events"]))
    reader.append(BOB, "another number")
    *_, loop = reader.follow_all()
    assert len(reader.data(ALICE)) == shown["total_events"]

    assert loop.http_statuses == (200, 200, 200)
    parts = re.split(r"^Tenant metrics for (.+):\n", loop.stdout, flags=re.MULTILINE)
    assert parts[0] == ""
    assert parts[1::2] == [ALICE, BOB, CHARLIE]
    metrics = [json.loads(part) for part in parts[2::2]]
    assert [one["tenant"] for one in metrics] == ["alice", "bob", "charlie"]
    assert [one["total_events"] for one in metrics] == [shown["total_events"], 1, 0]


@pytest.mark.reads("Security Considerations", only=["api_key", "chmod"], after=SERVED)
def test_a_long_key_takes_the_place_of_a_short_one_in_a_file_of_its_owner(reader: Reader) -> None:
    reader.append(ALICE, "before")
    log = reader.stop()
    assert "fewer than 32 characters are easier to guess: alice" in log
    assert "chmod 600" in log

    key_line = reader.take("yaml").text
    before = reader.config_file.read_text()
    reader.write_config(before.replace(f'api_key: "{ALICE}"', key_line))
    reader.follow_all()
    assert stat.S_IMODE(reader.config_file.stat().st_mode) == 0o600
    reader.start_again()
    assert reader.get("/metrics", ALICE).status_code == 401
    assert reader.data(yaml.safe_load(key_line)["api_key"]) == ["before"]
    log = reader.stop()
    assert "fewer than 32 characters are easier to guess: bob" in log
    assert "chmod 600" not in log


@pytest.mark.reads("Security Considerations", only=["tar "], after=SERVED)
def test_a_backup_of_a_running_server_restores_every_event_that_was_acknowledged(
    reader: Reader, tmp_path: Path
) -> None:
    of_alice = [*range(1_010)]
    reader.append(ALICE, *of_alice[:1_000])
    reader.append(BOB, "of bob")
    for number in of_alice[1_000:]:
        reader.append(ALICE, number)
    backup = reader.unread[0]
    reader.follow(backup)
    while_it_ran = restored(reader, tmp_path / "while it ran")
    reader.stop()
    reader.follow(backup)
    assert stored_data(restored(reader, tmp_path / "after a stop") / "alice.db") == of_alice

    shutil.copy(reader.config_file, while_it_ran.parent)
    with serving(["-config", "tenants.yaml"], cwd=while_it_ran.parent) as server:
        for key, expected in ((ALICE, of_alice), (BOB, ["of bob"])):
            answer = reader.client.get(f"{server.url}/events?from=1", headers={"X-API-Key": key})
            events = answer.json()
            assert [event["position"] for event in events] == list(range(1, len(expected) + 1))
            assert [event["data"] for event in events] == expected


@pytest.mark.reads("Adding New Tenants", "Removing Tenants", after=SERVED)
def test_a_tenant_comes_and_another_goes_with_a_restart(reader: Reader) -> None:
    for key in (ALICE, CHARLIE):
        reader.append(key, "before")
    reader.stop()
    lines = reader.take("yaml").text.splitlines()
    [tenant] = yaml.safe_load("\n".join(lines))
    added = "".join(f"  {line}\n" for line in lines)
    reader.write_config(reader.config_file.read_text() + added)
    reader.start_again()
    assert (reader.directory / "data" / f"{tenant['name']}.db").exists()
    assert reader.data(tenant["api_key"]) == []
    reader.append(tenant["api_key"], "first")
    assert reader.data(ALICE) == ["before"]

    reader.stop()
    config = yaml.safe_load(reader.config_file.read_text())
    config["tenants"] = [one for one in config["tenants"] if one["name"] != "charlie"]
    reader.write_config(yaml.safe_dump(config))
    assert stored_data(reader.directory / "data" / "charlie.db") == ["before"]
    reader.follow(reader.take("command", "rm "))
    reader.start_again()
    assert reader.get("/metrics", CHARLIE).status_code == 401
    assert not list((reader.directory / "data").glob("charlie*"))
    assert reader.data(ALICE) == ["before"]
    assert reader.data(tenant["api_key"]) == ["first"]


@pytest.mark.reads("Troubleshooting", after=SERVED)
def test_what_goes_wrong_is_told_as_shown(reader: Reader) -> None:
    reader.follow_all()
    reader.stop()
    told = reader.guide.sentence(
        "Troubleshooting", r"Server will fail to start with: `(duplicate .+?)`"
    )
    status, log = reader.ending(reader.said(reader.guide.section("Start Server")[0].text))
    assert status == 1
    assert told in log
    assert "same-key" not in log


@pytest.mark.reads("Migration from Single-Tenant")
def test_a_single_tenant_moves_with_all_its_events(reader: Reader, shared: Path) -> None:
    original = shared / "compat" / "events-go-sqlite-times.db"
    shutil.copyfile(original, reader.directory / "events.db")
    key = yaml.safe_load(reader.unread[0].text)["tenants"][0]["api_key"]
    reader.follow_all()
    assert not (reader.directory / "events.db").exists()
    assert reader.get("/events?from=1", key).json() == [
        {
            "position": 1,
            "type": "OrderPlaced",
            "data": {"order": "A-001"},
            "timestamp": "2024-01-01T00:00:00Z",
        },
        {
            "position": 2,
            "type": "OrderPlaced",
            "data": {"order": "A-002"},
            "timestamp": "2024-05-06T07:08:09.123456789+02:00",
        },
    ]
    assert reader.get("/subscriptions/mailer/position", key).json() == {"position": 1}
    assert reader.get("/metrics", key).json()["tenant"] == "main"


def assert_serves_its_tenants(reader: Reader) -> None:
    tenants = yaml.safe_load(reader.config_file.read_text())["tenants"]
    for tenant in tenants:
        reader.append(tenant["api_key"], tenant["name"])
    for tenant in tenants:
        assert reader.data(tenant["api_key"]) == [tenant["name"]]
        assert (reader.directory / "data" / f"{tenant['name']}.db").exists()
    listed = reader.get("/tenants", tenants[0]["api_key"]).json()
    assert listed["tenants"] == [tenant["name"] for tenant in tenants]


def restored(reader: Reader, directory: Path) -> Path:
    """The data directory that the guide's archive holds."""
    directory.mkdir()
    archive = reader.directory / "tenants-backup.tar.gz"
    subprocess.run(["tar", "-xzf", archive, "-C", directory], check=True)
    return directory / "data"


def stored_data(file: Path) -> list[object]:
    """The data of the events in a file whose server has stopped."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = connection.execute("SELECT data FROM events ORDER BY position").fetchall()
    finally:
        connection.close()
    return [json.loads(str(data)) for (data,) in rows]
