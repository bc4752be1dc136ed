"""From an event loop to threads: jobs that gather while threads are busy, and go in groups."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from time import perf_counter_ns
from typing import Any, Generic, TypeVar

import msgspec

from ebus.core.errors import EngineError, StoreClosed, StoreOverloaded, StoreUnavailable

logger = logging.getLogger("ebus.engine")

Work = TypeVar("Work")

IN_VAIN_S = 1.0
"""A group that took so long to find the store unavailable finds it so for those behind it, too:
each of them would wait as long, one after the other."""


class _Job(msgspec.Struct, Generic[Work]):
    work: Work
    weight: int
    size_bytes: int
    answer: asyncio.Future[Any]


class LaneBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait in a lane, and how much of it is one group."""

    max_jobs: int
    """Jobs that wait; one more is refused."""

    max_bytes: int
    """Bytes of the jobs that wait; what would exceed them is refused, unless none waits."""

    max_group_weight: int
    max_group_bytes: int
    """A job that is larger than these has a group to itself."""

    max_now_weight: int = 0
    max_now_bytes: int = 0
    """A group of at most so much is tried on the loop, where that is possible."""


class Lane(Generic[Work]):
    """Jobs in the order in which they came. Use it from one event loop only.

    `run` is called in a thread with a group of jobs, for at most `places` groups at once. It
    returns a result or an exception for each job, in order; what it raises is everybody's. If it
    `may_stop_early` it may return fewer: the rest then goes first into a later group; and so does
    the rest when it raises `StoreUnavailable`, which is the first job's. If that took long, those
    who wait are refused with it, and nothing of theirs was tried. A group
    is what has come since the last one was handed over, as far as the bounds allow: while
    threads are busy jobs gather, and the jobs of one turn of the event loop go together.

    `run_now` is tried first, on the loop itself: it returns as many results as there are jobs,
    or None, with nothing done, when it would have to wait. `done` is called on the loop when a
    group has been answered.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Work]], Sequence[object]],
        threads: Executor,
        *,
        places: int,
        bounds: LaneBounds,
        may_stop_early: bool = False,
        run_now: Callable[[Sequence[Work]], Sequence[object] | None] | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        self._run = run
        self._done = done
        self._run_now = run_now
        self._may_stop_early = may_stop_early
        self._threads = threads
        self._places = places
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job[Work]] = deque()
        self._bytes = 0
        self._running = 0
        self._start_is_due = False
        self._closing = False
        self._drained: asyncio.Future[None] | None = None
        self.observed: Callable[[int, int], None] | None = None
        """Called on the loop after a group in a thread, with its jobs and how many nanoseconds."""

    @property
    def waiting_jobs(self) -> int:
        return len(self._jobs)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def put(self, work: Work, *, weight: int = 1, size_bytes: int = 0) -> asyncio.Future[Any]:
        """The answer to come. Raises `StoreOverloaded`, and `StoreClosed` after `close`.

        Whoever cancels the answer finds the job done once or not at all.
        """
        if self._closing:
            raise StoreClosed("the store is closing")
        if self._is_full(size_bytes):
            if self._start_is_due:
                self._start()
            if self._is_full(size_bytes):
                raise StoreOverloaded(f"{len(self._jobs)} requests are waiting already")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.append(_Job(work, weight, size_bytes, answer))
        self._bytes += size_bytes
        if not self._start_is_due and self._running < self._places:
            # Not at once: what else has arrived by this turn of the loop shares the group.
            self._start_is_due = True
            self._loop.call_soon(self._start)
        return answer

    def _is_full(self, size_bytes: int) -> bool:
        """Whether there is no room for so much more. There always is room for one job."""
        return bool(self._jobs) and (
            len(self._jobs) >= self._bounds.max_jobs
            or self._bytes + size_bytes > self._bounds.max_bytes
        )

    @property
    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not (self._jobs or self._running)

    @property
    def closing(self) -> bool:
        """Whether further jobs are refused."""
        return self._closing

    def close(self) -> None:
        """Refuse further jobs. Those that wait are still done."""
        self._closing = True

    async def drained(self) -> None:
        """Return when no job waits or runs."""
        while not self.idle:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _start(self) -> None:
        self._start_is_due = False
        while self._jobs and self._running < self._places:
            group = self._take_group()
            if not group:  # everybody has left
                self._answer(group, [])
                continue
            if self._run_now is not None:
                results = self._try_now(group)
                if results is not None:
                    self._answer(group, results)
                    continue
            self._running += 1
            try:
                self._threads.submit(self._run_group, group)
            except RuntimeError as error:
                # It could start no thread. The group is in the pool's queue even so, for the
                # next of its threads that is free.
                logger.warning("no further thread can be started: %s", error)

    def _try_now(self, group: list[_Job[Work]]) -> Sequence[object] | None:
        assert self._run_now is not None
        if (
            sum(job.weight for job in group) > self._bounds.max_now_weight
            or sum(job.size_bytes for job in group) > self._bounds.max_now_bytes
        ):
            return None
        try:
            results = self._run_now([job.work for job in group])
        except Exception as failure:
            return [failure] * len(group)
        if results is not None and len(results) != len(group):
            broken = EngineError(f"{len(group)} jobs were given {len(results)} answers")
            return [broken] * len(group)
        return results

    def _take_group(self) -> list[_Job[Work]]:
        group: list[_Job[Work]] = []
        room_weight = self._bounds.max_group_weight
        room_bytes = self._bounds.max_group_bytes
        jobs = self._jobs
        while jobs:
            job = jobs[0]
            room_weight -= job.weight
            room_bytes -= job.size_bytes
            if group and (room_weight < 0 or room_bytes < 0):
                break
            jobs.popleft()
            self._bytes -= job.size_bytes
            if not job.answer.done():  # else its caller has left
                group.append(job)
        return group

    def _run_group(self, group: list[_Job[Work]]) -> None:
        """In a thread."""
        results: Sequence[object]
        begun_ns = perf_counter_ns()
        try:
            results = self._run([job.work for job in group])
            enough = 1 if self._may_stop_early else len(group)
            if not enough <= len(results) <= len(group):
                raise EngineError(f"{len(group)} jobs were given {len(results)} answers")
        except BaseException as failure:
            duration_ns = perf_counter_ns() - begun_ns
            self._loop.call_soon_threadsafe(self._fail, group, failure, duration_ns)
            return
        duration_ns = perf_counter_ns() - begun_ns
        self._loop.call_soon_threadsafe(self._finish, group, results, duration_ns)

    def _fail(self, group: list[_Job[Work]], failure: BaseException, duration_ns: int) -> None:
        is_unavailable = isinstance(failure, StoreUnavailable)
        if is_unavailable and duration_ns >= IN_VAIN_S * 1e9:
            waiting, self._bytes = list(self._jobs), 0
            self._jobs.clear()
            self._finish(group, [failure] * len(group), duration_ns)
            self._answer(waiting, [StoreUnavailable(f"not tried: {failure}")] * len(waiting))
        else:
            answered = 1 if is_unavailable and self._may_stop_early else len(group)
            self._finish(group, [failure] * answered, duration_ns)

    def _finish(self, group: list[_Job[Work]], results: Sequence[object], duration_ns: int) -> None:
        self._running -= 1
        if self.observed is not None:
            self.observed(len(results), duration_ns)
        for job in reversed(group[len(results) :]):
            self._jobs.appendleft(job)
            self._bytes += job.size_bytes
        if self._jobs:
            self._start()  # first, so that a thread works while the answers go out
        self._answer(group, results)

    def _answer(self, group: list[_Job[Work]], results: Sequence[object]) -> None:
        for job, result in zip(group, results, strict=False):
            answer = job.answer
            if answer.done():
                continue  # its caller was cancelled and no longer listens
            if isinstance(result, BaseException):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        if self._done is not None:
            self._done()
        if self._drained is not None and self.idle:
            self._drained.set_result(None)
            self._drained = None
