"""`ebus verify`: what is wrong with live data or a backup, and nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from tests.cli.conftest import Ebus, damage, stored
from tests.cli.test_backup import contents


def test_live_data_is_looked_through_while_it_is_open(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "bob")
    with SqliteEngine(place / "data") as engine:
        engine.open("alice").append([NewEvent.of("OrderPlaced", {})])
        result = ebus("verify")
        assert result.exit_code == 0
        assert result.stdout == (
            "alice: whole, 1 event up to position 1\n"
            "bob: whole, 3 events up to position 3\n"
            "Verified 2 tenants: whole\n"
        )


def test_verifying_changes_nothing(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    before = contents(place / "data"), contents(place / "backup")
    assert ebus("verify").exit_code == 0
    assert ebus("verify", "--backup", "backup").exit_code == 0
    assert (contents(place / "data"), contents(place / "backup")) == before


def test_damage_is_told_and_the_others_are_looked_at(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice", events=2_000)
    stored(place / "data", "bob")
    damage(place / "data" / "alice.db")
    result = ebus("verify")
    assert result.exit_code == 1
    assert "alice: DAMAGED: " in result.stderr
    assert "bob: whole" in result.stdout
    assert "Verified 2 tenants: 1 DAMAGED" in result.stdout


def test_a_checkpoint_beyond_the_head_is_allowed_and_told(place: Path, ebus: Ebus) -> None:
    with SqliteEngine(place / "data") as engine:
        engine.open("alice").save_checkpoint("mailer", 9)
    result = ebus("verify")
    assert result.exit_code == 0
    assert "alice: the checkpoint 'mailer' is at 9, beyond the head" in result.stdout


@pytest.mark.parametrize(
    ("told", "instead", "problem"),
    [
        ('"position": 3', '"position": 4', "its head is 3, not 4"),
        ('"events": 3', '"events": 4', "the number of its events is 3, not 4"),
        ('"mailer": 1', '"mailer": 2', "its checkpoints is {'mailer': 1}, not {'mailer': 2}"),
        ('"sha256": "', '"sha256": "0', "its digest is another"),
        ('"size_bytes": ', '"size_bytes": 1', "bytes, not 1"),
        ('"alice.db"', '"carol.db"', "carol.db is missing"),
    ],
)
def test_a_copy_that_is_not_what_the_manifest_says_is_told(
    place: Path, ebus: Ebus, told: str, instead: str, problem: str
) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    manifest = place / "backup" / "manifest.json"
    text = manifest.read_text()
    assert told in text
    manifest.write_text(text.replace(told, instead))
    result = ebus("verify", "--backup", "backup")
    assert result.exit_code == 1
    assert f"alice: DAMAGED: {problem}"[:16] in result.stderr
    assert problem in result.stderr


def test_nothing_to_look_at_is_told(place: Path, ebus: Ebus) -> None:
    assert "no tenant at all" in ebus("verify").stderr
    stored(place / "data", "alice")
    assert "missing or empty" in ebus("verify", "--tenant", "bob").stderr
    ebus("backup", "--to", "backup")
    result = ebus("verify", "--backup", "backup", "--tenant", "bob")
    assert result.exit_code == 1
    assert "backup holds no tenant bob" in result.stderr
