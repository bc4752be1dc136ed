"""A process with a log, ended by its id, that does not outlive the tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.nats.guard import guard

STOP_TIMEOUT_S = 60.0


class GuardedProcess:
    """It runs from the start. `log` is a file that its output is added to."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests, which end it
            )
        self.pid = self._process.pid
        self.is_paused = False
        guard().watch(self.pid)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """As when it alone loses its power: the system keeps what it has written. SIGKILL."""
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        """In good order: SIGTERM."""
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP: its connections stay, and nothing answers. It has stopped when this returns."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.is_paused = True

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def _reap(self) -> None:
        self._process.wait(STOP_TIMEOUT_S)
        guard().forget(self.pid)
