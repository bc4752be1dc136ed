"""Several processes on one port and one data directory, kept alive by the one that starts them.

The first process serves nobody. It passes a request to stop on to the workers, replaces a
worker that dies, and when it dies itself the workers see that and stop. It also decides about the
config, see `reload_workers`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from ebus.http.reload import report_nothing_to_read
from ebus.http.reload_workers import Overseer

logger = logging.getLogger("ebus.http")

_READY = signal.SIGUSR1
_FOLLOW = signal.SIGUSR2
_STOPS = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = (_READY, _FOLLOW, signal.SIGCHLD, signal.SIGHUP, *_STOPS)

MAX_WORKERS = 64

SHORT_LIFE_S = 5.0
RESTART_PAUSE_S = 1.0
LOOK_AGAIN_S = 0.05
"""A worker that did not live long is replaced only after a pause."""


class Worker:
    """What a worker process is given: where it serves, and how it hears from the first one."""

    def __init__(self, place: int, taken: socket.socket, lifeline: int) -> None:
        self.place = place
        """From 0; a worker that replaces another has its place."""

        self.taken = taken
        self.lifeline = lifeline
        """A descriptor that can be read when the first process has ended."""

        self._first_process = os.getppid()

    def say_ready(self) -> None:
        self._tell(_READY)

    def ask_to_follow(self) -> None:
        """Have the first process look at the registry of tenants."""
        self._tell(_FOLLOW)

    def _tell(self, number: signal.Signals) -> None:
        if os.getppid() == self._first_process:  # or else it has died, and the lifeline tells
            os.kill(self._first_process, number)


def _is_past(moment_s: float) -> bool:
    return moment_s <= time.monotonic()


class Workers:
    """One worker for each of the sockets.

    `serve` runs in a worker until SIGTERM. They start one after the other: the first may have
    files to take over, for which the others would have to wait. `started` is called when all
    of them serve.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        serve: Callable[[Worker], None],
        started: Callable[[], None],
        overseer: Overseer | None = None,
    ) -> None:
        self._sockets = sockets
        self._overseer = overseer
        if overseer is not None:
            overseer.attach(fork=self._send, tell=self._tell)
        self._serve = serve
        self._started = started
        self._lifeline, self._own_end = os.pipe()
        self._places: dict[int, int] = {}
        """Process → which of the sockets is its own."""
        self._began_s: dict[int, float] = {}
        self._due_s: dict[int, float] = {}
        """Place → when a worker that has died is to be replaced."""
        self._waiting = list(range(1, len(sockets)))
        self._up = False
        self._stopping: signal.Signals | None = None

    def run(self) -> int:
        """Return the exit status, once a signal has ended it or a worker could not start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        status = 0
        self._start(0)
        while self._places or self._due_s:
            number = self._next_signal()
            if number == _READY:
                self._start_next()
            elif number == signal.SIGCHLD:
                status = max(status, self._reap())
            elif number == signal.SIGHUP:
                self._hang_up()
            elif number == _FOLLOW:
                self._follow()
            elif number is not None:
                self._stop(signal.Signals(number))
            for place in [place for place, due_s in self._due_s.items() if _is_past(due_s)]:
                del self._due_s[place]
                self._start(place)
            if self._overseer is not None:
                self._overseer.look()
        return status

    def _next_signal(self) -> int | None:
        """The next signal, or None when something else is due before there is one."""
        while (wait_s := self._wait_s()) is not None and not signal.sigpending() & set(_SIGNALS):
            if wait_s <= 0:
                return None
            if hasattr(signal, "sigtimedwait"):
                found = signal.sigtimedwait(_SIGNALS, wait_s)
                return found and found.si_signo
            time.sleep(min(wait_s, LOOK_AGAIN_S))
        return signal.sigwait(_SIGNALS)

    def _wait_s(self) -> float | None:
        """How long until something is due; None when nothing will be."""
        now_s = time.monotonic()
        waits_s = [max(0.0, due_s - now_s) for due_s in self._due_s.values()]
        look_s = None if self._overseer is None else self._overseer.wait_s()
        if look_s is not None:
            waits_s.append(look_s)
        return min(waits_s, default=None)

    def _start(self, place: int) -> None:
        process = self._fork(
            lambda: self._serve(Worker(place, self._sockets[place], self._lifeline)), place
        )
        self._places[process] = place
        self._began_s[process] = time.monotonic()

    def _send(self, run: Callable[[], None]) -> int:
        """Have something done by a process of its own, which serves nobody."""
        return self._fork(run, None)

    def _tell(self) -> None:
        """Have every worker look at what was handed over."""
        for process in self._places:
            os.kill(process, signal.SIGHUP)

    def _hang_up(self) -> None:
        if self._overseer is not None:
            self._overseer.hang_up()
        elif self._stopping is None:
            report_nothing_to_read()

    def _follow(self) -> None:
        if self._overseer is not None:
            self._overseer.follow()

    def _fork(self, run: Callable[[], None], place: int | None) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            self._become(run, place)
        return process

    def _become(self, run: Callable[[], None], place: int | None) -> None:
        """Be another process, of the worker at this place or of none."""
        status = 1
        try:
            os.close(self._own_end)
            for other, taken in enumerate(self._sockets):
                if other != place:  # so that it is closed once its own worker closes it
                    taken.close()
            # Ctrl-C reaches every process of a terminal; the first one passes it on, once.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # SIGHUP would end it; a worker unblocks that once it serves.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_SIGNALS} - {signal.SIGHUP})
            run()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # there is nobody above who could say what went wrong
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _start_next(self) -> None:
        if self._stopping or self._up:
            return  # a replacement is ready
        if self._waiting:
            self._start(self._waiting.pop(0))
        else:
            self._up = True
            self._started()

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping is None and self._up:
            logger.info("Shutting down server...")
        self._stopping = number
        self._due_s.clear()
        if self._overseer is not None:
            self._overseer.end()
        for taken in self._sockets:
            taken.close()
        for process in self._places:
            os.kill(process, signal.SIGTERM)

    def _reap(self) -> int:
        """Look after the workers that have ended. Returns the worst of their exit statuses."""
        worst = 0
        while self._places:
            process, how = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            code = os.waitstatus_to_exitcode(how)
            if self._overseer is not None and self._overseer.reap(process, code):
                continue
            place, began_s = self._places.pop(process), self._began_s.pop(process)
            if self._stopping is not None:
                if code != -signal.SIGTERM:  # which one that has hardly begun dies of
                    worst = max(worst, code if code >= 0 else 128 - code)
            elif not self._up:
                worst = max(worst, code, 1)  # it has said why
                self._stop(signal.SIGTERM)
            else:
                end = f"status {code}" if code >= 0 else signal.Signals(-code).name
                logger.error("worker %d (process %d) ended with %s", place + 1, process, end)
                self._follow()  # it may have had no time to say that it changed the registry
                now_s = time.monotonic()
                short = now_s - began_s < SHORT_LIFE_S
                self._due_s[place] = now_s + RESTART_PAUSE_S if short else now_s
        return worst
