"""`ebus backup`, `restore` and `verify` know the registry of tenants: a backup has the keys too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ebus.core.tenant import TenantName
from ebus.tenants.claim import Claim
from ebus.tenants.model import By, NewKey
from ebus.tenants.registry import Registry
from tests.cli.conftest import Ebus, damage, orders, stored, values

ME = By("admin", "http")


def make(place: Path, name: str) -> None:
    with Registry(place / "data" / "tenants.registry") as registry:
        registry.create(TenantName(name), NewKey(digest=name.encode().ljust(32)), by=ME)


def registered(place: Path, data: str = "data") -> list[str]:
    with Registry(place / data / "tenants.registry") as registry:
        return [it.name for it in registry.read().tenants]


@pytest.fixture
def backup(place: Path, ebus: Ebus) -> Path:
    """Of acme, which is in the registry, and of alice, who is in the config file."""
    stored(place / "data", "alice")
    stored(place / "data", "acme", events=2)
    make(place, "acme")
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 0, result.output
    assert "the registry of tenants: 1 tenant" in result.stdout
    assert "Backed up 2 tenants" in result.stdout
    return place / "backup"


def test_a_backup_is_restored_with_the_registry(place: Path, ebus: Ebus, backup: Path) -> None:
    assert (backup / "tenants.registry").stat().st_mode & 0o777 == 0o600
    result = ebus("restore", "--from", "backup", config="other.yaml")
    assert result.exit_code == 0, result.output
    assert registered(place, "other") == ["acme"]
    assert values(place / "other", "acme") == orders(2)
    assert ebus("verify", config="other.yaml").exit_code == 0
    assert ebus("check", config="other.yaml").stdout.count("in the registry") == 1


def test_what_has_not_changed_is_not_copied_again(place: Path, ebus: Ebus, backup: Path) -> None:
    before = (backup / "tenants.registry").stat().st_ino
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert (backup / "tenants.registry").stat().st_ino == before
    make(place, "more")
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert (backup / "tenants.registry").stat().st_ino != before
    manifest = json.loads((backup / "manifest.json").read_text())
    assert manifest["registry"]["events"] == 2
    assert set(manifest["tenants"]) == {"acme", "alice"}


def test_of_the_same_revision_is_not_of_the_same_content(
    place: Path, ebus: Ebus, backup: Path
) -> None:
    def rotate(name: str) -> None:
        with Registry(place / "data" / "tenants.registry") as registry:
            digest = name.encode().ljust(32)
            registry.rotate_key("acme", digest, by=ME, overlap_s=0)

    shutil.copytree(backup, place / "older")
    rotate("lost with the restore")
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert ebus("restore", "--from", "older", "--overwrite").exit_code == 0
    rotate("after the restore")
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert ebus("restore", "--from", "backup", config="other.yaml").exit_code == 0
    with Registry(place / "other" / "tenants.registry") as registry:
        [key] = registry.find("acme").keys
    assert key.digest.startswith(b"after the restore")


def test_of_some_tenants_the_registry_is_no_part(place: Path, ebus: Ebus, backup: Path) -> None:
    result = ebus("restore", "--from", "backup", "--tenant", "acme", config="other.yaml")
    assert result.exit_code == 0, result.output
    assert not (place / "other" / "tenants.registry").exists()
    assert ebus("backup", "--to", "some", "--tenant", "acme").exit_code == 0
    assert json.loads((place / "some" / "manifest.json").read_text())["registry"] is None


def test_a_registry_that_is_there_is_replaced_only_on_request(
    place: Path, ebus: Ebus, backup: Path
) -> None:
    for name in ("acme.db", "alice.db"):
        (place / "data" / name).unlink()
    make(place, "later")
    result = ebus("restore", "--from", "backup")
    assert result.exit_code == 1
    assert "would be overwritten" in result.stderr
    assert registered(place) == ["acme", "later"]
    assert not (place / "data" / "acme.db").exists()
    assert ebus("restore", "--from", "backup", "--overwrite").exit_code == 0
    assert registered(place) == ["acme"]


def test_no_registry_is_put_below_a_server(place: Path, ebus: Ebus, backup: Path) -> None:
    claim = Claim.take(place / "other")
    assert claim is not None
    try:
        result = ebus("restore", "--from", "backup", config="other.yaml")
    finally:
        claim.release()
    assert result.exit_code == 1
    assert "stop the server" in result.stderr
    assert not (place / "other" / "acme.db").exists()


def test_damage_is_found_in_the_registry_and_in_its_copy(
    place: Path, ebus: Ebus, backup: Path
) -> None:
    assert ebus("verify", "--backup", "backup").exit_code == 0
    damage(backup / "tenants.registry")
    result = ebus("verify", "--backup", "backup")
    assert result.exit_code == 1
    assert "the registry of tenants: DAMAGED" in result.stderr
    assert ebus("restore", "--from", "backup", config="other.yaml").exit_code == 1
    assert not (place / "other").exists()
    damage(place / "data" / "tenants.registry")
    result = ebus("verify")
    assert result.exit_code == 1
    assert "the registry of tenants: DAMAGED" in result.stderr
