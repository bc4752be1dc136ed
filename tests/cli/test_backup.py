"""`ebus backup`: consistent copies of tenants; no failure leaves less than there was."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebus import NewEvent
from ebus.backends.sqlite import SqliteEngine
from ebus.core.backup_directory import BackupDirectory
from tests.cli.conftest import KEYS, Ebus, config_of, damage, orders, stored, values
from tests.http.conftest import write_config
from tests.torture.small_disk import MIB, NoSmallDisk, SmallDisk, small_disk

LARGE = 10_000
"""Events that take some 20 MB."""


def manifest(place: Path, backup: str = "backup") -> dict[str, Any]:
    read: dict[str, Any] = json.loads((place / backup / "manifest.json").read_text())
    return read


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def start(*arguments: str, cwd: Path, within: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*within, sys.executable, "-m", "ebus", *arguments, "--config", str(cwd / "tenants.yaml")],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_backup_is_a_file_for_each_tenant_and_a_manifest_of_them(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice", events=3)
    stored(place / "data", "bob", events=2_000)
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 0, result.output
    assert "alice: 3 events up to position 3, " in result.stdout
    assert "bob: 2,000 events up to position 2000, " in result.stdout
    assert "2 copied" in result.stdout
    told = manifest(place)
    assert (told["format"], told["version"], told["engine"]) == ("ebus backup", 1, "sqlite")
    for name, count in (("alice", 3), ("bob", 2_000)):
        entry = told["tenants"][name]
        file = place / "backup" / entry["file"]
        assert file.name == f"{name}.db"
        assert (entry["position"], entry["events"]) == (count, count)
        assert entry["checkpoints"] == {"mailer": 1}
        assert entry["size_bytes"] == file.stat().st_size
        assert entry["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert entry["taken_at"].endswith("Z")
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (count,)
        connection.close()
    assert not any(key in (place / "backup" / "manifest.json").read_text() for key in KEYS.values())


def test_a_backup_is_a_data_directory_that_can_be_served(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    assert values(place / "backup", "alice") == orders(3)


def test_a_backup_that_is_being_served_is_not_backed_up_into_itself(
    place: Path, ebus: Ebus
) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    config_of(place, data_dir="backup")
    stored(place / "backup", "alice", begin=3)
    before = (place / "backup" / "alice.db").stat()
    result = ebus("backup", "--to", "./backup/")
    assert result.exit_code == 1
    assert "not to be copied into its own directory" in result.stderr
    assert (place / "backup" / "alice.db").stat() == before


def test_only_their_owner_can_read_the_copies(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "new/backup")
    assert stat.S_IMODE((place / "new" / "backup").stat().st_mode) == 0o700
    for file in (place / "new" / "backup").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_backup_leaves_the_data_as_it_is(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    before = contents(place / "data")
    ebus("backup", "--to", "backup")
    assert contents(place / "data") == before


def test_what_a_killed_server_has_left_in_a_wal_is_backed_up_and_stays_there(
    place: Path, ebus: Ebus
) -> None:
    program = """
import os
from ebus import NewEvent, open_engine
open_engine("sqlite:data").open("alice").append([NewEvent.of("OrderPlaced", {"order": 0})])
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", program], cwd=place, check=False)
    before = (place / "data" / "alice.db-wal").read_bytes()
    assert before
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert (place / "data" / "alice.db-wal").read_bytes() == before
    assert values(place / "backup", "alice") == orders(1)


# What has changed


def test_a_second_backup_copies_only_what_has_changed(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    stored(place / "data", "bob")
    ebus("backup", "--to", "backup")
    first = (place / "backup" / "alice.db").stat()
    stored(place / "data", "bob", begin=3)
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 0
    assert "1 copied" in result.stdout
    assert "1 unchanged" in result.stdout
    assert "alice:" not in result.stdout
    assert (place / "backup" / "alice.db").stat() == first
    assert values(place / "backup", "bob") == orders(6)


def test_a_tenant_of_which_only_a_checkpoint_has_changed_is_copied(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    with SqliteEngine(place / "data") as engine:
        engine.open("alice").save_checkpoint("mailer", 2)
    assert "1 copied" in ebus("backup", "--to", "backup").stdout
    assert manifest(place)["tenants"]["alice"]["checkpoints"] == {"mailer": 2}


def test_what_somebody_has_changed_beside_ebus_is_copied(place: Path, ebus: Ebus) -> None:
    """Same head, same size, same time of modification."""
    file = stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    before = file.stat()
    connection = sqlite3.connect(file)
    connection.execute(
        "UPDATE blocks SET events = CAST(replace(events, 'Placed', 'Pleced') AS BLOB)"
    )
    connection.commit()
    connection.close()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert "1 copied" in ebus("backup", "--to", "backup").stdout


def test_a_tenant_that_was_deleted_and_added_again_is_copied(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    with SqliteEngine(place / "data") as engine:
        engine.drop("alice")
    stored(place / "data", "alice", begin=7)
    assert "1 copied" in ebus("backup", "--to", "backup").stdout
    assert values(place / "backup", "alice") == orders(3, begin=7)


def test_a_restart_of_the_server_makes_no_copy_due(place: Path, ebus: Ebus) -> None:
    """A stop writes the WAL back: other files, the same events."""
    with SqliteEngine(place / "data") as engine:
        engine.open("alice").append([NewEvent.of("OrderPlaced", {"order": 0})])
        assert "1 copied" in ebus("backup", "--to", "backup").stdout
    assert "1 unchanged" in ebus("backup", "--to", "backup").stdout


def test_a_copy_that_was_lost_is_made_again(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    (place / "backup" / "alice.db").unlink()
    assert "1 copied" in ebus("backup", "--to", "backup").stdout


def test_one_tenant_can_be_backed_up_and_the_copies_of_others_stay(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    stored(place / "data", "bob")
    ebus("backup", "--to", "backup")
    stored(place / "data", "alice", begin=3)
    stored(place / "data", "bob", begin=3)
    assert ebus("backup", "--to", "backup", "--tenant", "bob").exit_code == 0
    assert manifest(place)["tenants"]["alice"]["position"] == 3
    assert manifest(place)["tenants"]["bob"]["position"] == 6


def test_a_tenant_that_is_deleted_is_said_and_its_copy_stays_until_it_is_pruned(
    place: Path, ebus: Ebus
) -> None:
    stored(place / "data", "alice")
    stored(place / "data", "bob")
    ebus("backup", "--to", "backup")
    with SqliteEngine(place / "data") as engine:
        engine.drop("bob")
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 0
    assert "bob: there no more, its last copy stays" in result.stdout
    assert manifest(place)["tenants"]["bob"]["is_gone"]
    assert (place / "backup" / "bob.db").exists()
    assert ebus("backup", "--to", "backup", "--prune").exit_code == 0
    assert list(manifest(place)["tenants"]) == ["alice"]
    assert not (place / "backup" / "bob.db").exists()


def test_a_tenant_that_is_deleted_while_the_backup_runs_fails_nothing(
    place: Path, ebus: Ebus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(place / "data", "alice")
    stored(place / "data", "bob")
    tenants = SqliteEngine.tenants

    def and_then_drops_bob(engine: SqliteEngine) -> list[Any]:
        found = tenants(engine)
        engine.drop("bob")
        return found

    monkeypatch.setattr(SqliteEngine, "tenants", and_then_drops_bob)
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert list(manifest(place)["tenants"]) == ["alice"]


def test_tenants_whose_names_differ_in_case_have_copies_that_differ_in_more(
    place: Path, ebus: Ebus
) -> None:
    stored(place / "data", "alice", events=1)
    ebus("backup", "--to", "backup")
    stored(place / "data", "Alice", events=2)
    assert ebus("backup", "--to", "backup").exit_code == 0
    files = {name: it["file"] for name, it in manifest(place)["tenants"].items()}
    assert files["alice"] == "alice.db"
    assert len({file.lower() for file in files.values()}) == 2
    assert ebus("verify", "--backup", "backup").exit_code == 0


# What cannot be backed up


def test_a_damaged_tenant_is_told_and_all_others_are_backed_up(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice", events=2_000)
    stored(place / "data", "bob")
    ebus("backup", "--to", "backup")
    copy = (place / "backup" / "alice.db").read_bytes()
    damage(place / "data" / "alice.db")
    stored(place / "data", "bob", begin=3)
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 1
    assert "alice: not backed up: " in result.stderr
    assert "alice.db is damaged" in result.stderr
    assert "UTC stays" in result.stderr
    assert "1 NOT BACKED UP" in result.stdout
    assert manifest(place)["tenants"]["bob"]["position"] == 6
    assert (place / "backup" / "alice.db").read_bytes() == copy
    assert ebus("verify", "--backup", "backup").exit_code == 0
    assert not list((place / "backup").glob("*.part"))


def test_a_file_that_is_no_database_is_told(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    (place / "data" / "bob.db").write_text("a shopping list" * 100)
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 1
    assert "bob.db is not a SQLite database" in result.stderr
    assert list(manifest(place)["tenants"]) == ["alice"]


def test_a_wal_whose_database_is_gone_is_told(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    stored(place / "data", "bob")
    ebus("backup", "--to", "backup")
    (place / "data" / "bob.db").rename(place / "data" / "bob.db-wal")
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 1
    assert "bob.db is missing or empty, but bob.db-wal still holds data" in result.stderr
    assert not manifest(place)["tenants"]["bob"].get("is_gone")


def test_a_directory_that_is_something_else_is_refused_and_left_alone(
    place: Path, ebus: Ebus
) -> None:
    stored(place / "data", "alice")
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").write_text("meow")
    (place / "site").mkdir()
    (place / "site" / "manifest.json").write_text('{"name": "a web app"}')
    for name, told in (
        ("photos", "something else: it holds cat.jpg"),
        ("data", "something else: it holds alice.db"),
        ("site", "its manifest.json is not one of ebus"),
        ("tenants.yaml", "tenants.yaml"),
    ):
        before = contents(place / name) if (place / name).is_dir() else None
        result = ebus("backup", "--to", name)
        assert result.exit_code == 1
        assert "Nothing was backed up: " in result.stderr
        assert told in result.stderr
        assert before is None or contents(place / name) == before


def test_a_manifest_that_is_damaged_or_newer_is_refused(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    file = place / "backup" / "manifest.json"
    good = file.read_text()
    for bad, told in (
        (good[: len(good) // 2], "is damaged"),
        (good.replace('"version": 1', '"version": 2'), "a newer ebus"),
        (good.replace('"alice.db"', '"../alice.db"'), "is not the name of a copy"),
        (good.replace('"alice":', '"al/ice":'), "is no tenant name"),
    ):
        assert bad != good
        file.write_text(bad)
        for command in (["backup", "--to"], ["restore", "--from"], ["verify", "--backup"]):
            result = ebus(*command, "backup")
            assert result.exit_code == 1
            assert told in result.stderr
        assert file.read_text() == bad


@pytest.mark.parametrize("engine", ["memory", "http://a-key-nobody-may-see@localhost:1"])
def test_an_engine_without_files_has_nothing_to_back_up(
    place: Path, ebus: Ebus, engine: str
) -> None:
    tenants = [{"name": name, "api_key": key} for name, key in KEYS.items()]
    write_config(place / "tenants.yaml", {"engine": engine, "tenants": tenants})
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 1
    assert "nothing to back up" in result.stderr
    assert "a-key-nobody-may-see" not in result.output
    assert not (place / "backup").exists()


def test_a_data_directory_without_tenants_is_told(place: Path, ebus: Ebus) -> None:
    """It is more likely the wrong directory than nothing to lose."""
    result = ebus("backup", "--to", "backup")
    assert result.exit_code == 1
    assert "there is no tenant at all" in result.stderr


def test_an_unknown_tenant_is_told(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    assert "no tenant carol" in ebus("backup", "--to", "backup", "--tenant", "carol").stderr
    assert "is no tenant name" in ebus("backup", "--to", "backup", "--tenant", "../x").stderr


def test_a_config_with_mistakes_is_told(place: Path, ebus: Ebus) -> None:
    for command in (["backup", "--to"], ["restore", "--from"]):
        result = ebus(*command, "backup", config="nowhere.yaml")
        assert result.exit_code == 1
        assert "Failed to load tenants config" in result.stderr


def test_two_backups_at_once_into_one_directory_are_refused(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    with (place / "backup" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["backup", "--to"], ["restore", "--from"], ["verify", "--backup"]):
            result = ebus(*command, "backup")
            assert result.exit_code == 1
            assert "used by another command of ebus" in result.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(8 * MIB, tmp_path) as made:
            yield made
    except NoSmallDisk as reason:
        pytest.skip(str(reason))


def test_a_full_disk_is_told_and_the_old_backup_stays_whole(place: Path, disk: SmallDisk) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        process = start(*arguments, cwd=place, within=tuple(disk.within))
        output, errors = process.communicate()
        return process.returncode, output + errors

    config_of(place, data_dir=str(place / "data"))
    stored(place / "data", "alice")
    stored(place / "data", "bob")
    to = disk.path / "backup"
    assert run("backup", "--to", str(to))[0] == 0
    told = manifest(disk.seen)
    stored(place / "data", "alice", events=LARGE)
    stored(place / "data", "bob", begin=3)
    status, said = run("backup", "--to", str(to))
    assert status == 1
    assert "alice: not backed up: " in said
    assert "the disk is full" in said
    now = manifest(disk.seen)
    assert now["tenants"]["alice"] == told["tenants"]["alice"]
    assert now["tenants"]["bob"]["position"] == 6
    assert sorted(contents(disk.seen / "backup")) == [
        ".lock",
        "alice.db",
        "bob.db",
        "manifest.json",
    ]
    disk.fill()
    stored(place / "data", "bob", begin=6)
    status, said = run("backup", "--to", str(to))
    assert status == 1
    assert "the disk is full" in said
    assert manifest(disk.seen) == now
    for entry in now["tenants"].values():
        copy = (disk.seen / "backup" / entry["file"]).read_bytes()
        assert hashlib.sha256(copy).hexdigest() == entry["sha256"]


def test_a_backup_that_is_killed_half_way_leaves_the_old_one_whole(place: Path, ebus: Ebus) -> None:
    for name in ("alice", "bob"):
        stored(place / "data", name)
    ebus("backup", "--to", "backup")
    before = contents(place / "backup")
    stored(place / "data", "alice", begin=3)
    stored(place / "data", "bob", events=LARGE)
    process = start("backup", "--to", "backup", cwd=place)
    while not (place / "backup" / "bob.db.part").exists():
        assert process.poll() is None, "it was too quick to be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    now = contents(place / "backup")
    assert now.items() > before.items()
    assert ebus("verify", "--backup", "backup").exit_code == 0
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert contents(place / "backup").keys() == before.keys()
    assert manifest(place)["tenants"]["bob"]["position"] == LARGE + 3


def test_a_first_backup_that_is_killed_can_be_made_again(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice", events=LARGE)
    process = start("backup", "--to", "backup", cwd=place)
    while not (place / "backup" / "alice.db.part").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ebus("backup", "--to", "backup").exit_code == 0


def test_a_backup_that_is_killed_once_it_counts_is_whole(
    place: Path, ebus: Ebus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest tells of copies that have not taken the places of the old ones yet."""
    stored(place / "data", "alice")
    ebus("backup", "--to", "backup")
    stored(place / "data", "alice", begin=3)

    class Killed(BaseException):
        pass

    def die(_: BackupDirectory) -> None:
        raise Killed

    with BackupDirectory.writing(place / "backup", engine="sqlite") as directory:
        with SqliteEngine(place / "data") as engine:
            [alice] = engine.tenants()
            outcome = directory.back_up(engine, alice)
        with monkeypatch.context() as patch:
            patch.setattr(BackupDirectory, "_finish", die)
            with pytest.raises(Killed):
                directory.commit([outcome])
    assert manifest(place)["tenants"]["alice"]["position"] == 6
    assert ebus("verify", "--backup", "backup").exit_code == 0
    assert ebus("restore", "--from", "backup", config="other.yaml").exit_code == 0
    assert values(place / "other", "alice") == orders(6)
    assert ebus("backup", "--to", "backup").exit_code == 0
    assert values(place / "backup", "alice") == orders(6)


def test_a_file_of_the_original_server_is_backed_up_as_it_is(
    place: Path, ebus: Ebus, shared: Path
) -> None:
    original = shared / "compat" / "events-go-string-times.db"
    (place / "data").mkdir()
    shutil.copyfile(original, place / "data" / "alice.db")
    assert ebus("backup", "--to", "backup").exit_code == 0
    with sqlite3.connect(place / "backup" / "alice.db") as copy:
        rows = copy.execute("SELECT * FROM events").fetchall()
    copy.close()
    with sqlite3.connect(original) as there:
        assert rows == there.execute("SELECT * FROM events").fetchall()
    there.close()
    assert "of the original server" in ebus("verify", "--backup", "backup").stdout
    assert ebus("restore", "--from", "backup", config="other.yaml").exit_code == 0
    assert len(values(place / "other", "alice")) == manifest(place)["tenants"]["alice"]["events"]


# What is said meanwhile


def test_quiet_says_only_what_went_wrong(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    assert ebus("backup", "--to", "backup", "--quiet").output == ""
    assert ebus("verify", "--backup", "backup", "--quiet").output == ""
    assert ebus("restore", "--from", "backup", "--quiet", config="other.yaml").output == ""
    (place / "data" / "bob.db").write_text("a shopping list" * 100)
    result = ebus("backup", "--to", "backup", "--quiet")
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_a_terminal_is_shown_a_bar(place: Path) -> None:
    stored(place / "data", "alice")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ebus", "backup", "--to", "backup", "--config", "tenants.yaml"],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # its end, on Linux
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"Backing up" in shown
    assert b"100%" in shown


def test_where_there_is_no_terminal_there_is_no_bar(place: Path, ebus: Ebus) -> None:
    stored(place / "data", "alice")
    result = ebus("backup", "--to", "backup")
    assert result.stderr == ""
    assert "\r" not in result.output
