"""That a tenant has been written to, told from one worker to the others."""

from __future__ import annotations

import mmap

LOOK_AGAIN_S = 0.005
"""How often a worker with tails looks whether another one has written to their tenants."""


class Commits:
    """How often each worker has written to each tenant, in memory that all of them share.

    Each worker counts in numbers of its own, so that no lock is needed and none is missed.
    """

    def __init__(self, tenants: int, workers: int) -> None:
        self._row = tenants + 1  # each tenant's, and all of them together
        self._workers = workers
        counts = self._row * workers if workers > 1 else 1
        self._counts = memoryview(mmap.mmap(-1, 8 * counts)).cast("Q")

    def of(self, worker: int) -> WorkerCommits:
        """The numbers as this worker counts and sees them, from 0 on."""
        return WorkerCommits(self._counts, worker, self._row, self._workers)


class WorkerCommits:
    """What one worker counts, and what it sees of the others."""

    def __init__(self, counts: memoryview, worker: int, row: int, workers: int) -> None:
        self._counts = counts
        self._total = row - 1
        self._own = worker * row
        self._others = [place * row for place in range(workers) if place != worker]
        self.are_shared = bool(self._others)
        """Whether there is any other worker."""

    def count(self, tenant: int) -> None:
        """Say that this worker has written to the n-th tenant."""
        self._counts[self._own + tenant] += 1
        self._counts[self._own + self._total] += 1

    def seen_in_all(self) -> int:
        """How often the others have written to any tenant."""
        return self.seen(self._total)

    def seen(self, tenant: int) -> int:
        """How often the others have written to it."""
        counts = self._counts
        return sum([counts[other + tenant] for other in self._others])
