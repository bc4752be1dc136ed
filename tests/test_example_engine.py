"""The engine in `examples` is installed as its user would, found, used, and removed again."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from ebus import engine_names
from ebus.backends.sqlite import SqliteEngine
from tests import in_memory
from tests.conftest import ROOT
from tests.http.conftest import write_config
from tests.live_server import LiveServer, serving
from tests.moving.logs import ODD, exported, fill, named

tmp_path_factory = in_memory.tmp_path_factory

EXAMPLE = ROOT / "examples" / "ebus-jsonl"
KEY = "alice-secret-key-1234567890123456789012"


class Environment(NamedTuple):
    """A virtual environment that has ebus, and all that this one has."""

    directory: Path

    @property
    def packages(self) -> Path:
        [found] = self.directory.glob("lib/python3*/site-packages")
        return found

    def run(self, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """`python` with these arguments, in a directory that has nothing of ours to import."""
        return subprocess.run(
            [str(self.directory / "bin" / "python"), *arguments],
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def done(self, *arguments: str, cwd: Path, **variables: str) -> str:
        """What it prints, and that it ends well."""
        done = self.run(*arguments, cwd=cwd, **variables)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def pip(self, *arguments: str) -> None:
        pip = ["-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
        self.done(*pip, cwd=self.directory)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One that has the example too. No index is asked for anything."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    venv.create(made.directory, with_pip=False, symlinks=True)
    here = "\n".join(f"import site; site.addsitedir({it!r})" for it in site.getsitepackages())
    (made.packages / "here.pth").write_text(here)
    package = shutil.copytree(EXAMPLE, made.directory / "ebus-jsonl")
    made.pip("install", "--no-index", "--no-deps", "--no-build-isolation", str(package))
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.yaml"
    tenants = [{"name": "alice", "api_key": KEY}]
    write_config(path, {"engine": "jsonl:lines", "tenants": tenants})
    return path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


# As a package


def test_it_is_found_by_its_name_and_keeps_lines(environment: Environment, tmp_path: Path) -> None:
    readme = (EXAMPLE / "README.md").read_text()
    [program], [file] = blocks(readme, "python"), blocks(readme, "json")
    environment.done("-W", "error", "-c", program, cwd=tmp_path)
    kept = (tmp_path / "data" / "alice.jsonl").read_text()
    of_its_moment = re.compile(r'(?<="crc32":)\d+|(?<="recorded_ns":)\d+')
    assert of_its_moment.sub("", kept) == of_its_moment.sub("", file)


def test_it_passes_the_conformance_suite_and_its_own_tests(
    environment: Environment, tmp_path: Path
) -> None:
    """From a copy of its tests: what is tested is what was installed.

    Hypothesis does not look for long. How well the suite searches is shown by our own engines,
    with the same machine; here it is shown that an engine which was installed passes.
    """
    for name in ("tests", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        source = EXAMPLE / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    base = tmp_path / "base"
    done = environment.done(
        *("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--basetemp", str(base)),
        *(f"-pno:{plugin}" for plugin in ("schemathesis", "faker", "anyio", "xdist")),
        cwd=tmp_path,
        EBUS_HYPOTHESIS="quick",
        TMPDIR=str(tmp_path),
    )
    passed = re.search(r"^(\d+) passed, \d+ skipped in", done, re.MULTILINE)
    assert passed is not None, done
    assert int(passed[1]) > 700, "the suite was not collected"
    reasons = set(re.findall(r"^SKIPPED .*?:\d+: (.*)$", done, re.MULTILINE))
    assert all("among the powers" in it or "one engine at a time" in it for it in reasons), reasons


def test_once_it_is_removed_its_address_is_refused_by_name(
    environment: Environment, config: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(environment.directory, tmp_path / "environment", symlinks=True)
    without = Environment(copied)
    without.pip("uninstall", "--yes", "ebus-jsonl")
    known = f"known are {', '.join(engine_names())}"
    checked = without.run("-m", "ebus", "check", "--config", str(config), cwd=tmp_path)
    assert checked.returncode == 1
    assert f"'jsonl' is unknown; {known}" in checked.stderr
    program = """if True:
        from ebus import EbusError, open_engine
        try:
            open_engine("jsonl:lines")
        except EbusError as error:
            print(error.code, error)
    """
    printed = without.done("-c", program, cwd=tmp_path)
    assert printed == f"unknown_engine unknown engine 'jsonl'; {known}\n"


# On a server


@contextmanager
def served(environment: Environment, config: Path) -> Iterator[LiveServer]:
    variables = {"PYTHONPATH": str(environment.packages)}
    with serving(["--config", config.name], cwd=config.parent, environment=variables) as server:
        yield server


def append(server: LiveServer, *events: object) -> object:
    answer = httpx.post(
        f"{server.url}/events/batch", json=events, headers={"X-API-Key": KEY}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_server_on_it_has_what_it_answered_after_it_was_killed(
    environment: Environment, config: Path
) -> None:
    def check() -> str:
        checked = ["-m", "ebus", "check", "--config", config.name]
        return environment.done(*checked, cwd=config.parent)

    looked = check()
    assert "Engine: jsonl:lines, durability full\n" in looked
    assert "  alice: new\n" in looked
    order = {"type": "OrderPlaced", "data": {"order": "A-001"}}
    with served(environment, config) as server:
        assert append(server, order, order) == {
            "saved": 2,
            "first_position": 1,
            "last_position": 2,
        }
        server.kill()
    assert "  alice: ready\n" in check()
    with served(environment, config) as server:
        headers = {"X-API-Key": KEY}
        events = httpx.get(f"{server.url}/events?from=1", headers=headers, timeout=60).json()
        assert [(it["position"], it["data"]) for it in events] == [
            (1, {"order": "A-001"}),
            (2, {"order": "A-001"}),
        ]
        assert append(server, order) == {"saved": 1, "first_position": 3, "last_position": 3}
        health = httpx.get(f"{server.url}/health?details=true", timeout=60).json()
        assert health["status"] == "healthy"
        assert health["acknowledgement"]["durable"] is True
    assert "Traceback" not in server.log


def test_a_log_is_copied_to_it_and_back_byte_for_byte(
    environment: Environment, tmp_path: Path
) -> None:
    def of(directory: str) -> bytes:
        with SqliteEngine(tmp_path / directory) as engine:
            return exported(engine.open("alice"), checkpoints=True)

    with SqliteEngine(tmp_path / "data") as engine:
        store = engine.open("alice")
        fill(store, [*named(1_200), *ODD])
        store.save_checkpoint("mailer", 7)
    for source, target in (("sqlite:data", "jsonl:lines"), ("jsonl:lines", "sqlite:back")):
        copied = environment.done("-m", "ebus", "copy", source, target, cwd=tmp_path)
        assert "alice: 1205 events, positions 1 to 1205, 1205 stored now" in copied
    assert of("back") == of("data")
