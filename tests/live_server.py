"""A real server process for tests: started on a free port, stopped by its id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Protocol

from tests.forking import Forker

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0

_OF_THE_PROCESS = re.compile(r"PYTHON|LC_|LANG|LD_|MALLOC_|TZ$")
"""What a forked process would not hear of: Python, the C library and the linker have looked."""

_LISTENING = re.compile(r"Server listening on [^ ]*:(\d+)\b")


class Process(Protocol):
    """As much of `subprocess.Popen` as tests use."""

    pid: int
    stderr: IO[str] | None
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class LiveServer:
    """A running `ebus`. `lines` is what it has logged so far, `port` where it listens."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.port = 0
        self._listening = threading.Event()
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def resident_bytes(self) -> int:
        """What the process has in memory (Linux: /proc)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def wait_until_listening(self) -> None:
        assert self._listening.wait(START_TIMEOUT_S), f"the server did not start:\n{self.log}"
        assert self.port, f"the server ended:\n{self.log}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the process to end and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(STOP_TIMEOUT_S)
        self._ended.wait(STOP_TIMEOUT_S)
        return status

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        self._ended.wait(STOP_TIMEOUT_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                if match := _LISTENING.search(self.lines[-1]):
                    self.port = int(match[1])
                    self._listening.set()
        self._listening.set()
        self._ended.set()


def start(
    arguments: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    from_nothing: bool = False,
) -> LiveServer:
    """Start `ebus` with these arguments, without waiting for anything.

    `within` is a command that becomes the one that follows it, as `nsenter` does.
    Nothing of this process's environment reaches it that would set it up.
    `from_nothing`, it is a Python of its own, for tests of what is before the command's own work;
    and so it is where the environment has what is looked at only when a process begins.
    """
    own = {**_inherited(), **(environment or {})}
    is_usual = not any(map(_OF_THE_PROCESS.match, environment or {}))
    if is_usual and not (within or from_nothing) and sys.platform == "linux":
        return LiveServer(_forker().start(arguments, cwd=cwd, environment=own))
    process = subprocess.Popen(
        [*within, sys.executable, "-m", "ebus", *arguments],
        cwd=cwd,
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return LiveServer(process)


@cache
def _forker() -> Forker:
    return Forker(_inherited())


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@contextmanager
def serving(
    arguments: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    from_nothing: bool = False,
) -> Iterator[LiveServer]:
    """A server that listens; it is stopped at the end, and must stop well."""
    server = start(
        ["serve", "--host", "127.0.0.1", *arguments],
        cwd=cwd,
        environment={"PORT": "0", **(environment or {})},
        from_nothing=from_nothing,
    )
    try:
        server.wait_until_listening()
        yield server
        if server.process.poll() is None:
            status = server.stop()
            assert status == 0, f"the server ended with status {status}:\n{server.log}"
    finally:
        server.kill()
