"""Processes of `ebus` that are forked from one which has imported it already.

To start Python and import everything takes two thirds of what a server's start does, and proves
nothing the second time. What is forked runs the same command with a directory, an environment
and a standard error of its own, and ends as a process that was started from nothing.

This file is also the program of the process that forks. It is asked over a socket, and ends when
that is closed.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent

_MAX_REQUEST_BYTES = 100_000

_NUMBER = struct.Struct("i")


class Forked:
    """A process, with as much of `subprocess.Popen` as tests use."""

    def __init__(self, command: str, stderr: IO[str], numbers: int) -> None:
        self.args = command
        self.stderr: IO[str] | None = stderr
        self.returncode: int | None = None
        self._numbers = numbers
        """Where its number comes from, and once it has ended the status of that."""
        self._ready = select.poll()
        self._ready.register(numbers, select.POLLIN)
        self._lock = threading.Lock()
        self.pid = self._read()

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            self._ready.poll(None if timeout_s is None else timeout_s * 1_000)
        with self._lock:
            if self.returncode is None and self._ready.poll(0):
                self.returncode = self._read()
                os.close(self._numbers)
            return self.returncode

    def _read(self) -> int:
        number: int
        [number] = _NUMBER.unpack(os.read(self._numbers, _NUMBER.size))
        return number


class Forker:
    """Starts processes of `ebus`. It is of use to one process, and ends with it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                cwd=ROOT,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def start(
        self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str]
    ) -> Forked:
        (log, their_log), (numbers, their_numbers) = os.pipe(), os.pipe()
        request = json.dumps([list(arguments), str(cwd), dict(environment)]).encode()
        assert len(request) <= _MAX_REQUEST_BYTES
        with self._lock:
            socket.send_fds(self._socket, [request], [their_log, their_numbers])
        os.close(their_log)
        os.close(their_numbers)
        return Forked(f"ebus {' '.join(arguments)}", os.fdopen(log), numbers)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


# The process that forks


def _serve(asked: socket.socket) -> list[str]:
    """Fork for every request. Returns in each new process, with the arguments of its command."""
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    signal.set_wakeup_fd(hears)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    numbers: dict[int, int] = {}
    ready = select.poll()
    for descriptor in (asked.fileno(), heard):
        ready.register(descriptor, select.POLLIN)
    while True:
        found = {descriptor for descriptor, _ in ready.poll()}
        if heard in found:
            os.read(heard, 1_000)
            _tell_ends(numbers)
        if asked.fileno() in found:
            request, descriptors, _, _ = socket.recv_fds(asked, _MAX_REQUEST_BYTES, 2)
            if not request:
                os._exit(0)
            process = os.fork()
            if process == 0:
                asked.detach()  # it is closed with all the others
                return _become(request, descriptors[0])
            os.close(descriptors[0])
            numbers[process] = descriptors[1]
            _tell(descriptors[1], process)


def _tell_ends(numbers: dict[int, int]) -> None:
    while numbers:
        process, how = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        _tell(numbers[process], os.waitstatus_to_exitcode(how))
        os.close(numbers.pop(process))


def _tell(descriptor: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody wants to know
        os.write(descriptor, _NUMBER.pack(number))


def _become(request: bytes, log: int) -> list[str]:
    arguments, directory, environment = json.loads(request)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(log, sys.stderr.fileno())
    for name in os.listdir("/proc/self/fd"):
        if int(name) > sys.stderr.fileno():
            with suppress(OSError):  # what listed them is closed
                os.close(int(name))
    sys.path[0] = directory
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


if __name__ == "__main__":
    import ebus.backends.memory
    import ebus.backends.sqlite
    import ebus.cli.serve

    gc.freeze()  # so that no collection writes to memory that all of them share
    sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    ebus.cli.main(prog_name="ebus")
