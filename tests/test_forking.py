"""A server that is forked is like one that was started from nothing, and ends as one does."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.http.conftest import write_config
from tests.live_server import serving, start

_OF_THE_STATUS = "Umask|SigBlk|SigIgn|SigCgt|CapInh|CapPrm|CapEff|NoNewPrivs"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    config = {"engine": "memory", "tenants": [{"name": "alice", "api_key": "a" * 40}]}
    write_config(tmp_path / "tenants.yaml", config)
    return tmp_path


def facts(process: int) -> dict[str, object]:
    """What a process has from who started it, and what it has made of that."""
    place = Path("/proc", str(process))
    status = (place / "status").read_text()
    return {
        "status": dict(re.findall(rf"^({_OF_THE_STATUS}):\s+(.*)$", status, re.MULTILINE)),
        "files": {
            file.name: re.sub(r"\d+", "N", _target(file)) for file in (place / "fd").iterdir()
        },
        "limits": (place / "limits").read_text(),
        "cwd": os.readlink(place / "cwd"),
        "session": os.getsid(process),
        "group": os.getpgid(process),
        "nice": os.getpriority(os.PRIO_PROCESS, process),
    }


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # it has been closed just now
        return ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none is forked")
def test_a_forked_server_has_signals_files_and_bounds_as_any_other(config: Path) -> None:
    arguments = ["--config", "tenants.yaml"]
    with (
        serving(arguments, cwd=config) as forked,
        serving(arguments, cwd=config, from_nothing=True) as other,
    ):
        for _ in range(200):  # either may have a file open for a moment
            of_forked, of_other = facts(forked.process.pid), facts(other.process.pid)
            if of_forked == of_other:
                break
        assert of_forked == of_other
        assert isinstance(other.process, subprocess.Popen)
        assert not isinstance(forked.process, subprocess.Popen)


@pytest.mark.parametrize("variable", ["TZ", "PYTHONDEVMODE", "LC_ALL", "LANG", "LD_PRELOAD"])
def test_what_is_looked_at_when_a_process_begins_needs_one_that_does(
    tmp_path: Path, variable: str
) -> None:
    server = start(["--version"], cwd=tmp_path, environment={variable: ""})
    assert isinstance(server.process, subprocess.Popen)
    server.kill()


def test_a_forked_process_is_told_how_it_ended(config: Path) -> None:
    assert start(["check", "--config", "none.yaml"], cwd=config).process.wait(60) == 1
    server = start(["serve", "--config", "tenants.yaml", "--port", "0"], cwd=config)
    server.wait_until_listening()
    server.kill()
    assert server.process.returncode == -signal.SIGKILL


_DIES = """
import os
from pathlib import Path
from tests.live_server import _forker, start
start(["--version"], cwd=Path(".")).process.wait(60)
print(_forker()._process.pid, flush=True)
input()
os._exit(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere none is forked")
def test_who_forks_ends_with_who_asks_however_that_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _DIES],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asks:
        assert asks.stdout is not None
        forks = os.pidfd_open(int(asks.stdout.readline()))
        asks.kill()
    ended, _, _ = select.select([forks], [], [], 60)
    os.close(forks)
    assert ended
