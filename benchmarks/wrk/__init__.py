"""HTTP load from wrk: requests in, what was answered out. Any wrong answer is an error."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.errors import BenchmarkFailed, check
from benchmarks.servers import Server
from benchmarks.workload import Request

SCRIPT = Path(__file__).with_name("requests.lua")

THREADS = 1
"""One of two cores is the server's, the other wrk's: a second thread would take from both."""

TIMEOUT_S = 30
"""An answer that takes longer is an error."""

INSTALL = "wrk is not installed: run benchmarks/install_wrk.sh"


class Load(msgspec.Struct, frozen=True):
    """What one run of wrk has sent and received in full."""

    seconds: float
    requests: int
    bytes: int
    """Received, heads and unfinished answers included."""

    errors: dict[str, int]

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


def load(server: Server, requests: Sequence[Request], *, connections: int, seconds: float) -> Load:
    """Send the requests in turn, over and over, for so many seconds.

    Raises `BenchmarkFailed` when any is answered with an error, or by nothing.
    """
    with loading(server, requests, connections=connections, max_seconds=seconds + 60) as running:
        time.sleep(seconds)
    return running.result()


class Running:
    """A wrk that is running. `result` can be asked for once it was stopped."""

    def __init__(self, process: subprocess.Popen[str], server: Server) -> None:
        self._process = process
        self._server = server
        self._output = ""

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._output, _ = self._process.communicate(timeout=TIMEOUT_S + 10)

    def result(self) -> Load:
        status, output = self._process.returncode, self._output
        check(status == 0, f"wrk ended with status {status}: {output}")
        result = msgspec.json.decode(output.strip().rpartition("\n")[2], type=Load)
        check(not any(result.errors.values()), f"{self._server.url}: wrk met {result.errors}")
        check(result.bytes > 0, f"{self._server.url} answered nothing in {result.seconds} s")
        return result


@contextmanager
def loading(
    server: Server, requests: Sequence[Request], *, connections: int, max_seconds: float
) -> Iterator[Running]:
    """A load that lasts as long as the block, and at most `max_seconds`."""
    program = shutil.which("wrk")
    if program is None:
        raise BenchmarkFailed(INSTALL)
    with tempfile.TemporaryDirectory(prefix="ebus-wrk-") as directory:
        prepared = Path(directory) / "requests.tsv"
        prepared.write_bytes(b"".join(map(_as_line, requests)))
        process = subprocess.Popen(
            [
                program,
                f"--threads={THREADS}",
                f"--connections={connections}",
                f"--duration={math.ceil(max_seconds)}s",
                f"--timeout={TIMEOUT_S}s",
                f"--script={SCRIPT}",
                server.url,
                "--",
                str(prepared),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                _wait_until_ready(process)
                running = Running(process, server)
                yield running
                running.stop()
            finally:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    check(line == "ready\n", f"wrk did not start: {line}")


def _as_line(request: Request) -> bytes:
    assert b"\n" not in request.body
    return b"%b\t%b\t%b\t%b\n" % (
        request.method.encode(),
        request.path.encode(),
        request.key.encode(),
        request.body,
    )
