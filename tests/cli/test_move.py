"""`ebus export`, `ebus import` and `ebus copy`, as they are typed."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebus.backends.sqlite import SqliteEngine
from ebus.cli import main
from ebus.core.store import TenantStore
from ebus.testing.events import new_event
from tests.client.conftest import FreshTenant, servers, tenant
from tests.moving.logs import ODD, exported, fill, named, wires

__all__ = ["servers", "tenant"]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ebus(*arguments: str, input: bytes | None = None, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, arguments, input=input)


@contextmanager
def opened(directory: str, name: str = "alice") -> Iterator[TenantStore]:
    with SqliteEngine(directory) as engine:
        yield engine.open(name)


@pytest.fixture
def file() -> bytes:
    """What the tenant alice of `sqlite:data` is as lines."""
    with opened("data") as store:
        fill(store, [*named(1_200), *ODD])
        store.save_checkpoint("mailer", 7)
        return exported(store)


def lines_of(directory: str, name: str = "alice") -> bytes:
    with opened(directory, name) as store:
        return exported(store)


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.zst"])
def test_a_round_trip(name: str, file: bytes) -> None:
    result = ebus("export", "sqlite:data", name)
    assert result.exit_code == 0, result.output
    assert "alice: 1205 events, positions 1 to 1205, 1205 written now\nSHA-256" in result.stdout
    assert (Path(name).read_bytes() == file) is name.endswith("json")
    result = ebus("import", name, "sqlite:other", "--tenant", "bob")
    assert result.exit_code == 0, result.output
    assert "bob: 1205 events, positions 1 to 1205, 1205 stored now" in result.stdout
    assert lines_of("other", "bob") == file
    again = ebus("import", name, "sqlite:other", "--tenant", "bob")
    assert (again.exit_code, "1205 events, positions 1 to 1205, 0 stored now" in again.stdout) == (
        0,
        True,
    )


@pytest.mark.parametrize("options", [[], ["--zstd"]])
def test_a_round_trip_through_a_pipe(options: list[str], file: bytes) -> None:
    result = ebus("export", "sqlite:data", "-", *options)
    assert result.exit_code == 0
    assert (result.stdout_bytes == file) is (not options)
    assert "1205 events" in result.stderr
    result = ebus("import", "-", "sqlite:other", "--tenant", "alice", input=result.stdout_bytes)
    assert result.exit_code == 0, result.output
    assert lines_of("other") == file


def test_a_range_with_checkpoints_and_nothing_said(file: bytes) -> None:
    result = ebus(
        "export", "sqlite:data", "a", "--from", "3", "--to", "4", "--checkpoints", "--quiet"
    )
    assert (result.exit_code, result.output) == (0, "")
    third, fourth = file.splitlines(keepends=True)[2:4]
    saved = b'{"checkpoint":"mailer","position":7}\n'
    assert Path("a").read_bytes() == third + fourth + saved


def test_a_copy_of_one_tenant_by_another_name(file: bytes) -> None:
    result = ebus("copy", "sqlite:data", "sqlite:other", "--tenant", "alice", "--as", "bob")
    assert result.exit_code == 0, result.output
    assert "Checkpoints: 1" in result.stdout
    assert lines_of("other", "bob") == file


def test_a_copy_of_all_tenants_goes_on_after_one_that_fails(file: bytes) -> None:
    for name in ("bob", "carol"):
        with opened("data", name) as store:
            fill(store, named(3))
    with opened("other", "bob") as store:
        store.append([new_event(type="Other")])
    result = ebus("copy", "sqlite:data", "sqlite:other", "--all")
    assert result.exit_code == 1
    assert "bob: the target differs at position 1" in result.stderr
    assert "1 of 3 tenants were not copied" in result.stderr
    assert lines_of("other") == file
    assert lines_of("other", "carol") == lines_of("data", "carol")


def test_to_a_server_and_back(file: bytes, tenant: FreshTenant, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(tenant.key + "\n")
    there = ebus(
        *("copy", "sqlite:data", tenant.url, "--as", tenant.name),
        *("--target-key-file", "key"),
    )
    assert there.exit_code == 0, there.output
    back = ebus("copy", tenant.url, "sqlite:back", "--as", "alice", EBUS_SOURCE_KEY=tenant.key)
    assert back.exit_code == 0, back.output
    assert lines_of("back") == file
    with_key = tenant.url.replace("//", f"//{tenant.key}@")
    exported = ebus("export", with_key, "-")
    assert exported.stdout_bytes == file
    wrong = ebus("copy", "sqlite:data", with_key)
    assert wrong.exit_code == 1
    assert f"the key opens the tenant '{tenant.name}', not 'alice'" in wrong.stderr
    nowhere = ebus("export", f"http://{tenant.key}@:80:80", "z")
    stranger = ebus("import", "-", tenant.url, input=file, EBUS_TARGET_KEY="no" * 20)
    assert (nowhere.exit_code, stranger.exit_code) == (1, 1)
    said = there.output + back.output + exported.stderr + wrong.output
    assert tenant.key not in said + nowhere.output + stranger.output


MISTAKES = {
    "an unknown engine": (["export", "postgres:x", "f"], "'postgres' is no engine: .* sqlite"),
    "no engine": (["export", "secret@host", "f"], "^that is no engine"),
    "a key where the engine is": (["export", "my-secret:x", "f"], "^that is no engine"),
    "an unknown tenant": (
        ["export", "sqlite:data", "f", "--tenant", "bob"],
        "there is no tenant 'bob'; there is alice",
    ),
    "no tenants": (["export", "sqlite:dtaa", "f"], "which tenant.*none"),
    "no tenant for an import": (["import", "a", "sqlite:data"], "--tenant"),
    "a file that is not there": (
        ["import", "nofile", "sqlite:data", "--tenant", "x"],
        "nofile: No such file",
    ),
    "a directory that is not there": (["export", "sqlite:data", "no/f"], "No such file"),
    "no key": (["copy", "sqlite:data", "http://127.0.0.1:9"], "set EBUS_TARGET_KEY, or"),
    "a key file that is not there": (
        ["export", "http://127.0.0.1:9", "f", "--source-key-file", "nofile"],
        "nofile: No such file",
    ),
    "a key file for no server": (
        ["export", "sqlite:data", "f", "--source-key-file", "a"],
        "is for a server",
    ),
    "all tenants of a server": (
        ["copy", "http://k@127.0.0.1:9", "sqlite:x", "--all"],
        "one tenant",
    ),
    "all tenants and one": (["copy", "sqlite:a", "sqlite:b", "--all", "--as", "x"], "without"),
    "a config that is not there": (["export", "sqlite:data", "f", "--config", "no"], "no"),
    "an empty file": (["import", "empty", "sqlite:data", "--tenant", "x"], "empty: there is noth"),
    "a range that is none": (
        ["copy", "sqlite:data", "sqlite:x", "--from", "5", "--to", "4"],
        "ends where it begins",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_ends_with_status_1_and_the_reason(kind: str, file: bytes) -> None:
    arguments, reason = MISTAKES[kind]
    Path("a").write_bytes(b"{}")
    Path("empty").write_bytes(b"")
    result = ebus(*arguments)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert re.search(reason, result.stderr)
    assert "secret" not in result.output
    assert not Path("f").exists()


def test_a_broken_line_is_named_with_how_to_go_on(file: bytes) -> None:
    Path("a").write_bytes(file.replace(b'"number":17}', b'"number":17'))
    result = ebus("import", "a", "sqlite:other", "--tenant", "alice")
    assert result.exit_code == 1
    assert "a: line 17: " in result.stderr
    assert "Stored up to position 0, nothing of" in result.stderr
    Path("a").write_bytes(file)
    assert ebus("import", "a", "sqlite:other", "--tenant", "alice").exit_code == 0
    assert lines_of("other") == file


def test_the_limits_of_a_config_file_are_taken(tmp_path: Path) -> None:
    config = tmp_path / "tenants.yaml"
    config.write_text(
        f"tenants: [{{name: alice, api_key: {'k' * 40}}}]\nlimits: {{max_event_bytes: 50}}\n"
    )
    config.chmod(0o600)
    with opened("data") as store:
        fill(store, [new_event(b'"%b"' % (b"x" * 100))])
    result = ebus("copy", "sqlite:data", "sqlite:other", "--config", "tenants.yaml")
    assert result.exit_code == 1
    assert "at most 50 are allowed" in result.stderr


def run(*arguments: str, within: list[str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*(within or []), sys.executable, "-m", "ebus", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_there_is_a_progress_bar_on_a_terminal_and_none_elsewhere(file: bytes) -> None:
    command = [sys.executable, "-m", "ebus", "export", "sqlite:data"]
    terminal, theirs = pty.openpty()
    for name, options, is_shown in (("a", [], True), ("b", ["--quiet"], False)):
        subprocess.run([*command, name, *options], stderr=theirs, check=True, capture_output=False)
        os.write(theirs, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(terminal, 100_000)
        assert (b"100%" in shown) is is_shown
        assert (shown == b"end") is not is_shown
    os.close(theirs)
    os.close(terminal)
    elsewhere = subprocess.run([*command, "c"], check=True, capture_output=True)
    assert elsewhere.stderr == b""


def test_a_full_disk_is_told_and_the_file_does_not_look_whole(file: bytes) -> None:
    process = run(
        *("export", "sqlite:data", "a.ndjson"),
        within=["bash", "-c", 'ulimit -f 64; exec "$@"', "bash"],
    )
    _, said = process.communicate()
    assert process.returncode == 1
    assert b"File too large" in said
    assert Path("a.ndjson.partial").stat().st_size == 64 * 1_024
    assert not Path("a.ndjson").exists()
    assert ebus("export", "sqlite:data", "a.ndjson").exit_code == 0
    assert Path("a.ndjson").read_bytes() == file
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "ebus", "export", "sqlite:data", "-"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, b"No space left" in ended.stderr) == (1, True)


def test_a_copy_that_is_killed_goes_on_where_it_stood(tmp_path: Path) -> None:
    with opened("data") as store:
        fill(store, named(20_000))
    process = run("copy", "sqlite:data", "sqlite:other")
    wal = tmp_path / "other" / "alice.db-wal"
    until = time.monotonic() + 30
    while not (wal.exists() and wal.stat().st_size > 300_000) and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with opened("other") as store:
        head = store.head()
    assert 0 < head < 20_000
    assert head % 1_000 == 0
    result = ebus("copy", "sqlite:data", "sqlite:other")
    assert f"20000 events, positions 1 to 20000, {20_000 - head} stored now" in result.stdout
    with opened("data") as source, opened("other") as target:
        assert wires(target) == wires(source)
