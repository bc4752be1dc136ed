"""Servers as real processes: `ebus serve` and the bare floor, each ended by its id."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.errors import BenchmarkFailed, check
from benchmarks.workload import Request, Tenant
from ebus.core.engine import Durability

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0

_LISTENING = re.compile(r"Server listening on [^ ]*:(\d+)\b")
_ROOT = Path(__file__).resolve().parent.parent
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Server:
    """A process that listens on `port`. `log` is the end of what it has said."""

    def __init__(self, process: subprocess.Popen[str], begun: float) -> None:
        self.pid = process.pid
        self.port = 0
        self.start_s = 0.0
        """From before the process was there until it said that it listens."""
        self.events_under_way = 0
        """At most so many events of the last load were sent and not waited for."""
        self._begun = begun
        self._process = process
        self._lines: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return "\n".join(line[:500] for line in self._lines[-20:])

    def answer(self, request: Request) -> bytes:
        """The body of the answer. Raises `BenchmarkFailed` unless its status is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT_S)
        try:
            headers = {"X-API-Key": request.key} if request.key else {}
            connection.request(request.method, request.path, request.body or None, headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        said = f"{request.method} {request.path}: {response.status} {body[:300]!r}"
        check(response.status == 200, said)
        return body

    def json(self, request: Request) -> Any:
        return msgspec.json.decode(self.answer(request))

    def head(self, tenant: Tenant) -> int:
        """The tenant's last position."""
        request = Request(method="GET", path="/position", key=tenant.api_key)
        position: int = self.json(request)["position"]
        return position

    def wait_until_listening(self) -> None:
        in_time = self._listening.wait(START_TIMEOUT_S)
        check(in_time and self.port > 0, f"the server did not start:\n{self.log}")

    def stop(self) -> None:
        """End the process well."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(STOP_TIMEOUT_S)
        # uvicorn by itself passes on the signal that has ended it.
        check(status in (0, -signal.SIGTERM), f"the server ended with {status}:\n{self.log}")

    def kill(self) -> None:
        """End the process and those it has started, whatever they are doing."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._lines.append(line.rstrip("\n"))
                if not self.port and (match := _LISTENING.search(line)):
                    self.start_s = time.perf_counter() - self._begun
                    self.port = int(match[1])
                    self._listening.set()
        self._listening.set()


@contextmanager
def serving(arguments: Sequence[str], *, cwd: Path) -> Iterator[Server]:
    """A Python process that says where it listens. It is ended with the block.

    Of this process's environment it gets only what finds programs, so that nothing sets it up.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that its workers can be ended with it
    )
    server = Server(process, begun)
    try:
        server.wait_until_listening()
        yield server
        server.stop()
    finally:
        server.kill()


@contextmanager
def serving_ebus(
    directory: Path,
    tenants: Sequence[Tenant],
    *,
    durability: Durability = "full",
    workers: int | None = None,
    settings: Mapping[str, object] | None = None,
) -> Iterator[Server]:
    """`ebus serve` with these tenants, whose files are in `directory`/data.

    `settings` are further keys of the config file. Without `workers`: as many as ebus chooses.
    """
    config = write_config(directory, tenants, durability=durability, settings=settings)
    arguments = ["-m", "ebus", "serve", "--config", str(config), "--host", "127.0.0.1"]
    arguments += ["--port", "0"]
    if workers is not None:
        arguments += ["--workers", str(workers)]
    with serving(arguments, cwd=directory) as server:
        yield server


@contextmanager
def serving_bare(directory: Path) -> Iterator[Server]:
    """The floor `bare`."""
    with serving(["-m", "benchmarks.bare"], cwd=directory) as server:
        yield server


@contextmanager
def serving_writes(directory: Path) -> Iterator[Server]:
    """The floor `writes`."""
    with serving(["-m", "benchmarks.writes"], cwd=directory) as server:
        yield server


def write_config(
    directory: Path,
    tenants: Sequence[Tenant],
    *,
    durability: Durability,
    settings: Mapping[str, object] | None = None,
) -> Path:
    """A config file in the directory, in the YAML that users write: a line a key."""
    config = {
        "data_dir": str(directory / "data"),
        "durability": durability,
        "tenants": tenants,
        **(settings or {}),
    }
    path = directory / "tenants.yaml"
    path.write_text(yaml.dump(msgspec.to_builtins(config), Dumper=_DUMPER, sort_keys=False))
    path.chmod(0o600)
    return path


def resident_bytes(server: Server) -> int:
    """What a server and the processes it has started hold in memory now (Linux: /proc)."""
    waiting, total = [server.pid], 0
    while waiting:
        pid = waiting.pop()
        place = Path(f"/proc/{pid}")
        try:
            [size] = re.findall(r"^VmRSS:\s+(\d+) kB$", (place / "status").read_text(), re.M)
            children = [path.read_text() for path in place.glob("task/*/children")]
        except (OSError, ValueError) as error:
            raise BenchmarkFailed(f"the memory of process {pid} cannot be read") from error
        total += int(size) * 1024
        waiting += [int(child) for text in children for child in text.split()]
    return total


def offers_workers() -> bool:
    """Whether `ebus serve` knows `--workers`."""
    run = subprocess.run(
        [sys.executable, "-m", "ebus", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return "--workers" in run.stdout
