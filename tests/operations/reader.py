"""A reader of a page on operations: one bash, in which block after block is run."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.conftest import ROOT
from tests.operations import systemctl
from tests.operations.page import Block, paths_outside

NAME = "events.example.com"
TIMEOUT_S = 120.0

_NGINX_CONF = """
{user}
pid {root}/run/nginx.pid;
error_log {root}/run/nginx-error.log;
worker_processes 2;
events {{ worker_connections 768; }}
http {{
    access_log {root}/run/nginx-access.log;
    client_body_temp_path {root}/run/body;
    proxy_temp_path {root}/run/proxy;
    fastcgi_temp_path {root}/run/fastcgi;
    uwsgi_temp_path {root}/run/uwsgi;
    scgi_temp_path {root}/run/scgi;
    include conf.d/*.conf;
}}
"""
"""What the package's own file says, below another directory."""

_NGINX_SERVICE = """
[Service]
Type=forking
ExecStart={nginx}
ExecReload={nginx} -s reload
"""


def program(name: str) -> str:
    """Where it is: installed, or where `make operations` has put it. Skips, or fails in CI."""
    beside = f"{Path(sys.executable).parent}:/usr/sbin:/sbin"
    found = shutil.which(name) or shutil.which(name, path=beside)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"needs {name}: make operations prometheus")
        pytest.skip(f"needs {name}: make operations prometheus")
    return found


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in taken]
    for it in taken:
        it.close()
    return ports


@dataclass(frozen=True)
class Output:
    """What a block has printed."""

    stdout: str
    stderr: str


class Reader:
    """Reads the page for a machine whose root is an empty directory."""

    def __init__(self, directory: Path, names: Mapping[str, str] | None = None) -> None:
        """`names` are further variables of the shell."""
        self.root = directory / "root"
        self.port, self.https_port = free_ports(2)
        self._notes = directory / "notes"
        self._programs = directory / "bin"
        for made in (self.root, self._notes, self._programs, self.root / "run"):
            made.mkdir()
        self._set_up_systemd()
        self._set_up_nginx()
        self._stand_in("python3", sys.executable)
        self._stand_in("promtool", program("promtool"))
        self._number = 0
        told, tell = os.pipe()
        self._told = told
        self._bash = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=ROOT,
            env={**self._environment(), **(names or {})},
            stdin=subprocess.PIPE,
            pass_fds=[tell],
            start_new_session=True,
            text=True,
        )
        os.close(tell)
        self._tell = tell

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "ROOT": str(self.root),
            "NAME": NAME,
            "PORT": str(self.port),
            "HTTPS_PORT": str(self.https_port),
            "OWNER": str(os.getuid()),
            "AS": "env",
            # ebus itself is installed, from here; what it needs is what the tests have.
            "PYTHONPATH": os.pathsep.join(site.getsitepackages()),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # for pip a "no" that is off
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def _set_up_systemd(self) -> None:
        """A root with what a unit may ask for: the system's own units, and programs."""
        analyze = program("systemd-analyze")
        self._stand_in("systemd-analyze", analyze)
        self._stand_in("systemctl", f"{sys.executable} {systemctl.__file__}")
        unpacked = Path(analyze).parent.parent / "systemd"
        units = next(
            found
            for found in (unpacked / "lib/systemd/system", Path("/lib/systemd/system"))
            if (found / "sysinit.target").exists()
        )
        (self.root / "lib" / "systemd" / "system").mkdir(parents=True)
        for unit in units.glob("*.target"):
            if unit.is_file():
                shutil.copy(unit, self.root / "lib" / "systemd" / "system")
        (self.root / "bin").mkdir()
        for name in ("sh", "kill"):
            shutil.copy(program(name), self.root / "bin" / name)

    def _set_up_nginx(self) -> None:
        nginx = f"{program('nginx')} -c {self.root}/etc/nginx/nginx.conf"
        self._stand_in("nginx", nginx)
        (self.root / "etc" / "nginx").mkdir(parents=True)
        user = "user root;" if os.getuid() == 0 else ""  # or else it becomes nobody
        (self.root / "etc" / "nginx" / "nginx.conf").write_text(
            _NGINX_CONF.format(root=self.root, user=user)
        )
        units = self.root / "etc" / "systemd" / "system"
        units.mkdir(parents=True)
        (units / "nginx.service").write_text(_NGINX_SERVICE.format(nginx=nginx))

    def _stand_in(self, name: str, command: str) -> None:
        path = self._programs / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)

    def run(self, block: Block) -> Output:
        """Run a block where those before it have been run. Each of its commands must succeed."""
        assert not paths_outside(block), f"line {block.line} reaches outside of $ROOT"
        self._number += 1
        notes = self._notes / f"{self._number:02}"
        notes.with_suffix(".sh").write_text(block.text)
        assert self._bash.stdin is not None
        words = [shlex.quote(str(notes.with_suffix(it))) for it in (".sh", ".out", ".err")]
        self._bash.stdin.write(
            "source {} < /dev/null > {} 2> {}\n".format(*words) + f"echo >&{self._tell}\n"
        )
        self._bash.stdin.flush()
        readable, _, _ = select.select([self._told], [], [], TIMEOUT_S)
        output = Output(
            notes.with_suffix(".out").read_text(), notes.with_suffix(".err").read_text()
        )
        assert readable, f"line {block.line} does not end: {output}"
        assert os.read(self._told, 1), (
            f"a command of the block at line {block.line} fails:\n{output.stdout}{output.stderr}"
        )
        return output

    def key(self, name: str) -> str:
        [line, _] = (self.root / "root" / "ebus-keys" / name).read_text().splitlines()
        return line.split('"')[1]

    def main_pids(self) -> Sequence[int]:
        """What was started, and may run on."""
        pids = map(systemctl.pid_in, (self.root / "run").glob("*.pid"))
        return [pid for pid in pids if pid and systemctl.lives(pid)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what the page has started, and the shell."""
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        if self._bash.poll() is None:
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait(TIMEOUT_S)
        os.close(self._told)
        pids = self.main_pids()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        systemctl.wait_for(pids)
