"""A shell for what a guide says: real bash and curl, and `ebus` first on the path."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.live_server import LiveServer

NEEDED = ("bash", "curl", "tar")
TIMEOUT_S = 60.0

# What curl got, on standard error, so that the output is what a reader sees.
_CURLRC = 'write-out = "%{stderr}\\n[status %{http_code}]\\n"\n'
_STATUS = re.compile(r"\n?\[status (\d{3})\]\n?")


@dataclass(frozen=True)
class Step:
    """A command of a block, and the answer that the comment lines right below it show."""

    command: str
    answer: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command.replace("\\\n", " "), comments=True)

    @property
    def serves(self) -> bool:
        """Whether it goes on until it is stopped. One that shows an answer ends by itself."""
        words = [word for word in self.words if not re.match(r"\w+=", word)]
        at_once = {"check", "keygen", "--help", "--version"}
        return words[:1] == ["ebus"] and not self.answer and not at_once & set(words)


@dataclass(frozen=True)
class Output:
    """What a step printed, and the status of each HTTP answer that curl got for it."""

    step: Step
    exit_status: int
    stdout: str
    stderr: str
    http_statuses: tuple[int, ...]


class Job(subprocess.Popen[str]):
    """What a shell runs in the foreground. A signal reaches all of it, as Ctrl-C does."""

    def __init__(self, script: str, *, cwd: Path, environment: Mapping[str, str]) -> None:
        super().__init__(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.killpg(self.pid, sig)


class Shell:
    """`ebus` comes first on its path, and what stands in for small programs that are missing."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "bin"
        self.programs.mkdir()
        home = directory / "home"
        home.mkdir()
        (home / ".curlrc").write_text(_CURLRC)
        path = f"{self.programs}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}
        python = shlex.quote(sys.executable)
        self._install("ebus", f'{shlex.quote(str(Path(sys.executable).with_name("ebus")))} "$@"')
        if not shutil.which("jq"):
            self._install("jq", f"{python} -m json.tool")
        if not _sqlite3_reads_json():
            self._install("sqlite3", f'{python} -m apsw "$@"')

    def _install(self, name: str, command: str) -> None:
        program = self.programs / name
        program.write_text(f"#!/bin/sh\nexec {command}\n")
        program.chmod(0o755)

    def run(self, text: str, *, cwd: Path, notes: Path) -> list[Output]:
        """Run a whole block in one bash. Its steps' outputs are kept apart in `notes`.

        The block ends at the first step that fails, and what it printed is the last output.
        """
        notes.mkdir()
        steps = steps_of(text)
        script = "".join(
            f"exec >{shlex.quote(str(notes / f'{number}.out'))} "
            f"2>{shlex.quote(str(notes / f'{number}.err'))}\n{step.command}\n"
            for number, step in enumerate(steps)
        )
        job = Job(script, cwd=cwd, environment=self.environment)
        try:
            _, told = job.communicate(timeout=TIMEOUT_S)
        finally:
            job.send_signal(signal.SIGKILL)
            job.wait()
        assert not told, told
        ran = [step for number, step in enumerate(steps) if (notes / f"{number}.out").exists()]
        statuses = [0] * (len(ran) - 1) + [job.returncode]
        return [
            _output(step, status, notes / str(number))
            for number, (step, status) in enumerate(zip(ran, statuses, strict=True))
        ]

    def start(self, text: str, *, cwd: Path) -> LiveServer:
        """Start what the text starts, on a port that is free, without waiting for anything."""
        return LiveServer(Job(text, cwd=cwd, environment={**self.environment, "PORT": "0"}))


def _output(step: Step, exit_status: int, notes: Path) -> Output:
    stderr = notes.with_suffix(".err").read_text()
    return Output(
        step,
        exit_status,
        notes.with_suffix(".out").read_text(),
        _STATUS.sub("", stderr),
        tuple(map(int, _STATUS.findall(stderr))),
    )


def steps_of(text: str) -> list[Step]:
    """The commands of a block with the answers that are shown for them.

    A command ends at an empty line, or at the comment lines below it, which are its answer.
    Comment lines above a command are a title.
    """
    return list(_steps(text.splitlines()))


def _steps(lines: list[str]) -> Iterator[Step]:
    command: list[str] = []
    answer: list[str] = []
    for line in [*lines, ""]:
        is_comment, is_empty = line.startswith("#"), not line.strip()
        if command and not answer and not _may_end(command, before=line):
            command.append(line)
        elif command and is_comment:
            answer.append(line.removeprefix("#").removeprefix(" "))
        else:
            if command:
                yield Step("\n".join(command), "\n".join(answer))
            command, answer = ([] if is_comment or is_empty else [line]), []
    assert not command, f"a command does not end: {command}"


def _may_end(command: list[str], *, before: str) -> bool:
    """Whether the command is whole, and a comment or an empty line is next."""
    if before.strip() and not before.startswith("#"):
        return False
    script = "\n".join(command)
    checked = subprocess.run(
        ["bash", "-n", "-c", script], check=False, capture_output=True, text=True
    )
    return checked.returncode == 0 and not checked.stderr


def _sqlite3_reads_json() -> bool:
    """Whether there is a sqlite3 that can read the view of a tenant's file: 3.38 or newer."""
    if not shutil.which("sqlite3"):
        return False
    command = ["sqlite3", ":memory:", "SELECT '{}' ->> '$'"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
