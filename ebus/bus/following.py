"""Going along a log: what is there already, and what comes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from ebus.bus.errors import BusError
from ebus.bus.failures import Failure
from ebus.bus.running import LoopGone, Runner
from ebus.core.errors import EbusError, StoreClosed
from ebus.core.event import Event
from ebus.core.filter import Filter
from ebus.core.store import TenantStore

PAGE_EVENTS = 500
"""Events that are read at once: at most as many are in memory."""

WAIT_S = 1.0
"""How long one wait for events may last, and so how long `stop` may take when nothing comes."""

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 30.0


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row, from 1: doubling, up to half a minute."""
    return float(min(FIRST_BACKOFF_S * 2 ** min(failures - 1, 20), MAX_BACKOFF_S))


def pages(
    store: TenantStore, start: int, stop: int, filter: Filter | None = None
) -> Iterator[tuple[list[Event], int]]:
    """The log from `start` to `stop`, both inclusive: events, and how far they reach.

    Everything up to that position has been read; events that do not match the filter are left
    out.
    """
    limit = min(PAGE_EVENTS, store.limits.max_read_events)
    while start <= stop:
        page = store.read(start, stop, limit=limit, filter=filter)
        through = stop if page.next is None else page.next - 1
        yield page.events, through
        start = through + 1


class Halted(Exception):
    """What a course raises when it was asked to stop in the middle of an event."""


class GaveUp(Exception):
    """What a course raises for the error of a handler, which may be any error at all."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class Course(Protocol):
    """What is done along the log. Whatever it raises ends the follower, as its failure, but for
    errors of the store that may pass: then the same is tried again."""

    def filter(self) -> Filter | None:
        """Which events are wanted from now on."""
        ...

    def take(self, stored: Event, stopping: threading.Event) -> None:
        """Do what is to be done with one event. Raises `Halted` when it stops before the end."""
        ...

    def passed(self, position: int) -> None:
        """Everything up to this position is done. May be called with the same one again."""
        ...

    def patience_s(self) -> float | None:
        """How long to wait for events at most, before `passed` is called again."""
        ...

    def report(self, failure: Failure) -> None: ...

    def finish(self) -> None:
        """The follower ends, for whatever reason."""
        ...


class Follower:
    """A thread that goes along the log from a position on, until `stop`.

    Use it with `with`, or with `async with` where it was begun on an event loop. While the store
    fails, or the way to it, it tries again, with pauses of up to half a minute.
    """

    def __init__(self, store: TenantStore, start: int, course: Course, runner: Runner) -> None:
        self._store = store
        self._course = course
        self._runner = runner
        self._stopping = threading.Event()
        self._moved = threading.Condition()
        self._position = start - 1
        self._failure: BaseException | None = None
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="ebus-follow", daemon=True)
        self._thread.start()

    @property
    def position(self) -> int:
        """Every event up to here has been dealt with."""
        return self._position

    @property
    def failure(self) -> BaseException | None:
        """Why it ended by itself."""
        return self._failure

    @property
    def is_running(self) -> bool:
        return not self._has_ended

    def wait_for(self, position: int, timeout_s: float) -> bool:
        """Wait until every event up to this one is dealt with; False when the time is over.

        Raises the failure when the follower ended by itself. Not for its own handlers, nor for
        the loop on which they run.
        """
        with self._moved:
            self._moved.wait_for(lambda: self._position >= position or self._has_ended, timeout_s)
        if self._position < position and self._failure is not None:
            raise self._failure
        return self._position >= position

    async def await_for(self, position: int, timeout_s: float) -> bool:
        """Like `wait_for`, for the loop on which the handlers run."""
        return await asyncio.to_thread(self.wait_for, position, timeout_s)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended; False when the time is over. Raises its failure."""
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        return self._has_ended

    def stop(self) -> None:
        """Finish the event under way, then end. Twice is fine.

        A handler may call it, and does not wait then. Raises `BusError` on the loop on which
        handlers run, which it would wait for: use `astop` there.
        """
        self._stopping.set()
        if threading.current_thread() is self._thread:
            return
        if self._runner.is_here() and not self._has_ended:
            raise BusError("on the loop of the handlers, use `await follower.astop()`")
        self._thread.join()

    async def astop(self) -> None:
        """Like `stop`. In a handler, call it in a task: it waits for the handler to return."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    self._go_on()
                    failures = 0
                except EbusError as error:
                    if not error.is_passing:
                        raise
                    failures += 1
                    self._course.report(Failure(error, "following"))
                    self._stopping.wait(backoff_s(failures))
        except Halted:
            pass
        except GaveUp as given_up:
            self._failure = given_up.error
        except LoopGone:
            self._failure = BusError("the event loop on which the handlers run has ended")
        except BaseException as failure:
            if not (isinstance(failure, StoreClosed) and self._stopping.is_set()):
                self._failure = failure
        finally:
            try:
                self._course.finish()
            except Exception as error:
                self._failure = self._failure or error
            with self._moved:
                self._has_ended = True
                self._moved.notify_all()

    def _go_on(self) -> None:
        patience_s = self._course.patience_s()
        timeout_s = WAIT_S if patience_s is None else max(0.0, min(WAIT_S, patience_s))
        head = self._store.wait(self._position + 1, timeout_s)
        if head <= self._position:
            self._course.passed(self._position)
            return
        for events, through in pages(self._store, self._position + 1, head, self._course.filter()):
            for stored in events:
                if self._stopping.is_set():
                    return
                self._course.take(stored, self._stopping)
                self._pass(stored.position)
            if self._stopping.is_set():
                return
            self._pass(through)

    def _pass(self, position: int) -> None:
        # First, so that what saving it raises does not have the event done a second time.
        with self._moved:
            self._position = position
            self._moved.notify_all()
        self._course.passed(position)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.astop()


class Due:
    """When something that is put off is to be done: so many times, or so many seconds later."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._count = 0
        self._since_s: float | None = None

    def put_off(self) -> bool:
        """Once more; says whether it is due now."""
        self._count += 1
        if self._since_s is None:
            self._since_s = time.monotonic()
        return self.is_due

    @property
    def is_due(self) -> bool:
        left_s = self.left_s
        return self._count >= self._most or (left_s is not None and left_s <= 0)

    @property
    def left_s(self) -> float | None:
        """Seconds until it is due; None when nothing is put off."""
        if self._since_s is None:
            return None
        return self._since_s + self._seconds - time.monotonic()

    def done(self) -> None:
        self._count, self._since_s = 0, None
