"""Who may change the registry by himself, which is settled with a lock on a file.

Servers share it for as long as they run, with all their workers, and say where they can be asked;
a command has it alone, or not at all. The system takes it from who has ended, however that came
about.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from ebus.core.backup_directory import disk_errors

LOCK = "tenants.lock"

MAX_ADDRESSES_BYTES = 65_536

COMMAND_TIMEOUT_S = 10.0
"""How long a server waits for a command, which does not take long."""

LOOK_AGAIN_S = 0.05


class Claim:
    """A lock on the registry of a directory."""

    def __init__(self, descriptor: int, *, is_sole: bool) -> None:
        self._descriptor = descriptor
        self.is_sole = is_sole
        """Whether nobody else has it."""

    @classmethod
    def take(cls, directory: Path) -> Self | None:
        """Alone; None while another process has it. The directory is made if there is none."""
        return cls._take(directory, fcntl.LOCK_EX)

    @classmethod
    def take_for_server(cls, directory: Path) -> Self | None:
        """Alone if no other server has it, else with it. None while a command has it.

        Who has it alone is to `share` it.
        """
        until_s = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            claim = cls._take(directory, fcntl.LOCK_EX) or cls._take(directory, fcntl.LOCK_SH)
            if claim is not None or time.monotonic() > until_s:
                return claim
            time.sleep(LOOK_AGAIN_S)

    @classmethod
    def _take(cls, directory: Path, how: int) -> Self | None:
        with disk_errors(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if how == fcntl.LOCK_EX:
                os.ftruncate(descriptor, 0)
        return cls(descriptor, is_sole=how == fcntl.LOCK_EX)

    def share(self) -> None:
        """Let other servers have it too."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self.is_sole = False

    def say(self, address: str) -> None:
        """Where changes can be asked for. Others who have it too may have said so before."""
        with disk_errors(Path(LOCK)):
            if address not in _lines(os.pread(self._descriptor, MAX_ADDRESSES_BYTES, 0)):
                os.write(self._descriptor, f"{address}\n".encode())

    def release(self) -> None:
        os.close(self._descriptor)


def addresses_of_holders(directory: Path) -> list[str]:
    """Where those who have the lock can be asked, or could: one that has ended may be among them.

    Empty when nobody has said so yet. The last who did comes first.
    """
    with disk_errors(directory):
        with open(directory / LOCK, "rb") as file:
            return _lines(file.read(MAX_ADDRESSES_BYTES))[::-1]


def _lines(said: bytes) -> list[str]:
    return said.decode(errors="replace").split()
