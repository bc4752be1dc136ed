"""A stand-in for systemctl where systemd is not the first process: it does what units say.

It reads the units in `$ROOT/etc/systemd/system`, and starts, reloads and stops what they name,
with their environment, umask and limits. A path of theirs that is there below `$ROOT` means that
one. What bounds them otherwise (namespaces, system calls) it leaves to systemd.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(os.environ.get("ROOT", "."))
UNITS = ROOT / "etc" / "systemd" / "system"
RUN = ROOT / "run"

READY = ("Server listening on", "Server is ready")
"""What ebus, and NATS, say when they serve."""

START_TIMEOUT_S = 60.0


class Unit:
    """A unit's file, and the process that was started for it."""

    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        path = UNITS / (name if Path(name).suffix in {".service", ".timer"} else f"{name}.service")
        template, at, instance = self.name.partition("@")
        if at:
            path = UNITS / f"{template}@.service"
        text = path.read_text().replace("%i", instance)
        lines = [line.strip() for line in text.splitlines()]
        self._settings = [
            tuple(line.split("=", 1)) for line in lines if line and line[0] not in "#[;"
        ]
        self._pid_file = RUN / f"{self.name}.pid"
        self.log = RUN / f"{self.name}.log"
        """What would be in the journal."""

    def all(self, setting: str) -> list[str]:
        return [value for name, value in self._settings if name == setting]

    def one(self, setting: str, default: str = "") -> str:
        return (self.all(setting) or [default])[-1]

    @property
    def pid(self) -> int | None:
        """The main process, while it lives."""
        pid = pid_in(self._pid_file) if self._pid_file.exists() else 0
        return pid if pid and lives(pid) else None

    def start(self) -> None:
        if self.pid is not None:
            return
        for directory in self.all("StateDirectory"):
            path = ROOT / "var" / "lib" / directory
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=int(self.one("StateDirectoryMode", "0755"), 8), exist_ok=True)
        self._run("ExecStartPre")
        kind = self.one("Type", "simple")
        if kind in {"oneshot", "forking"}:
            self._run("ExecStart")
        else:
            [line] = self.all("ExecStart")
            said_before = len(self.log.read_text())
            process = self._spawn(line)
            self._pid_file.write_text(str(process.pid))
            # systemd does not wait for that, and the page does not count on it.
            until_s = time.monotonic() + START_TIMEOUT_S
            while not any(it in self.log.read_text()[said_before:] for it in READY):
                if process.poll() is not None or time.monotonic() > until_s:
                    sys.exit(f"{self.name} did not start:\n{self.log.read_text()}")
                time.sleep(0.02)

    def reload(self) -> None:
        if self.pid is None:
            sys.exit(f"{self.name} is not active")
        self._run("ExecReload")

    def stop(self) -> None:
        pid = self.pid
        if pid is None:
            return
        # Of KillMode=mixed: only the first process is told.
        assert self.one("KillMode") == "mixed", "the stand-in knows no other mode"
        os.kill(pid, signal.SIGTERM)
        wait_for([pid], float(self.one("TimeoutStopSec", "90")))

    def kill(self) -> None:
        """As when it dies by itself. Unlike systemd, nobody starts it again."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_for([pid])

    def _run(self, setting: str) -> None:
        for line in self.all(setting):
            if status := self._spawn(line).wait():
                said = self.log.read_text()
                sys.exit(f"{self.name}: {line} ended with status {status}; the log:\n{said}")

    def _spawn(self, line: str) -> subprocess.Popen[bytes]:
        line = line.replace("$MAINPID", str(self.pid))
        if files := int(self.one("LimitNOFILE", "0")):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # is inherited
        with self.log.open("a") as log:
            return subprocess.Popen(
                [_in_root(word) for word in shlex.split(line)],
                env={**os.environ, **self._environment()},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=int(self.one("UMask", "0022"), 8),
                user=self._user(),
            )

    def _user(self) -> str | int | None:
        """The page's owner of the files, for the unit's user."""
        if not self.one("User"):
            return None
        owner = os.environ["OWNER"]
        return int(owner) if owner.isdigit() else owner

    def _environment(self) -> dict[str, str]:
        files = [Path(_in_root(path.removeprefix("-"))) for path in self.all("EnvironmentFile")]
        lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return dict(line.split("=", 1) for line in lines if line)


def _in_root(word: str) -> str:
    inside = ROOT / word.lstrip("/")
    return str(inside) if word.startswith("/") and inside.exists() else word


def pid_in(file: Path) -> int:
    """The number in a file; 0 in an empty one, such as `nginx -t` leaves."""
    return int(file.read_text() or 0)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(pids: Sequence[int], timeout_s: float = START_TIMEOUT_S) -> None:
    """Return once none of them lives; those that do not end in time are killed."""
    until_s = time.monotonic() + timeout_s
    while living := [pid for pid in pids if lives(pid)]:
        if time.monotonic() > until_s:
            for pid in living:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main(arguments: Sequence[str]) -> None:
    match list(arguments):
        case ["daemon-reload"]:
            pass
        case ["enable", "--now", name] if name.endswith(".timer"):
            assert Unit(name).one("OnCalendar")  # it is left to systemd to look at the clock
        case ["enable", "--now", name] | ["start", name]:
            Unit(name).start()
        case ["stop", name]:
            Unit(name).stop()
        case ["restart", name]:
            Unit(name).stop()
            Unit(name).start()
        case ["kill", "--signal=KILL", name]:
            Unit(name).kill()
        case ["reload", name]:
            Unit(name).reload()
        case ["reload-or-restart", name]:
            unit = Unit(name)
            unit.start() if unit.pid is None else unit.reload()
        case ["show", "--property", "MainPID", "--value", name]:
            sys.stdout.write(f"{Unit(name).pid or 0}\n")
        case _:
            sys.exit(f"the stand-in for systemctl does not know: {shlex.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
