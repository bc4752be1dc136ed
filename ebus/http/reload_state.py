"""How the reloads of the config went, in memory that all workers share."""

from __future__ import annotations

import mmap
import time

_ACCEPTED, _LAST_OK_S, _LAST_FAILED_S, _FAILURES, _IS_FAILING, _FIRST_WORKER = range(6)


class ReloadState:
    """Written by the one process that decides about the config, but for `note_served`."""

    def __init__(self, workers: int = 1, *, revision: int = 0) -> None:
        self._workers = workers
        self._numbers = memoryview(mmap.mmap(-1, 8 * (_FIRST_WORKER + 2 * workers))).cast("d")
        self.note_accepted()
        for worker in range(workers):
            self.note_served(worker, 1, revision)

    def note_accepted(self) -> int:
        """A config was accepted. Returns its generation: 1 at the start, and one more each time."""
        self._numbers[_ACCEPTED] += 1
        self._numbers[_LAST_OK_S] = time.time()
        self._numbers[_IS_FAILING] = 0
        return self.accepted

    def note_followed(self) -> int:
        """The registry has changed, and nobody has read the file. Returns the new generation."""
        self._numbers[_ACCEPTED] += 1
        return self.accepted

    def note_failed(self) -> None:
        """A config was refused."""
        self._numbers[_LAST_FAILED_S] = time.time()
        self._numbers[_FAILURES] += 1
        self._numbers[_IS_FAILING] = 1

    def note_served(self, worker: int, generation: int, revision: int) -> None:
        """A worker serves what this generation says, and this revision of the registry."""
        self._numbers[_FIRST_WORKER + self._workers + worker] = revision
        self._numbers[_FIRST_WORKER + worker] = generation

    @property
    def accepted(self) -> int:
        """The generation of the config that was accepted last."""
        return int(self._numbers[_ACCEPTED])

    @property
    def generation(self) -> int:
        """The generation that all workers serve, or a later one."""
        return int(min(self._numbers[_FIRST_WORKER : _FIRST_WORKER + self._workers]))

    @property
    def revision(self) -> int:
        """The revision of the registry that all workers serve, or a later one."""
        return int(min(self._numbers[_FIRST_WORKER + self._workers :]))

    @property
    def last_ok_s(self) -> float:
        """When a config was accepted last, in seconds since 1970."""
        return self._numbers[_LAST_OK_S]

    @property
    def last_failed_s(self) -> float | None:
        """When a config was refused last, in seconds since 1970; None when that never happened."""
        return self._numbers[_LAST_FAILED_S] or None

    @property
    def failures(self) -> int:
        """How often a config was refused since the start."""
        return int(self._numbers[_FAILURES])

    @property
    def is_failing(self) -> bool:
        """Whether the last config was refused. Which came later no clock can tell: it may jump."""
        return bool(self._numbers[_IS_FAILING])
