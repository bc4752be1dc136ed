"""Who may change the registry by himself: one process at a time, which says so with a lock.

A server has it for as long as it runs, with all its workers, and says where it can be asked. The
system takes it from who has ended, however that came about.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from ebus.core.backup_directory import disk_errors

LOCK = "tenants.lock"

MAX_ADDRESS_BYTES = 1_024


class Claim:
    """A lock on the registry of a directory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> Self | None:
        """None while another process has it. The directory is made if there is none."""
        with disk_errors(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
        return cls(descriptor)

    def say(self, address: str) -> None:
        """Where changes can be asked for."""
        with disk_errors(Path(LOCK)):
            os.pwrite(self._descriptor, address.encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


def address_of_holder(directory: Path) -> str:
    """Where who has the lock can be asked; empty when he has not said so."""
    with disk_errors(directory):
        with open(directory / LOCK, "rb") as file:
            return file.read(MAX_ADDRESS_BYTES).decode(errors="replace")
