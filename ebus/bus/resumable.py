"""A subscription that goes on where it stopped: its checkpoint moves only after success."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from ebus.bus.errors import BusError, NeedsApublish, UndecodableEvent
from ebus.bus.failures import Failure
from ebus.bus.following import Course, Due, Follower, GaveUp, Halted, backoff_s, pages
from ebus.bus.parking import Parking
from ebus.bus.running import InThread, Runner, runner_for_here, running_loop
from ebus.bus.subscriptions import Subscribing, Subscription
from ebus.bus.vocabulary import Vocabulary, is_storable
from ebus.core.consumers import reason_of
from ebus.core.errors import CheckpointConflict, EbusError, LeaseLost
from ebus.core.event import Event
from ebus.core.filter import Filter
from ebus.core.limits import MAX_FILTER_TYPES
from ebus.core.store import TenantStore

OnFailure = Literal["stop", "park"]


class Resumable(Subscribing):
    """Handlers that see every event at least once, in the order of the log.

    The checkpoint is saved under the name after at most `save_events` events or `save_s`
    seconds, and never beyond an event that one of the handlers has not finished. After a crash
    what was handled since is handled again, so a handler must not mind seeing an event twice.

    A handler that raises is called again, with pauses, up to `attempts` times. Then the
    subscription stops before the event, or parks it: the event is noted in the store, with the
    reason, and the rest goes on. An event that cannot be decoded is not tried twice.

    A name is for one process at a time; a second one is noticed when either saves, which raises
    `CheckpointConflict`.
    """

    def __init__(
        self,
        name: str,
        store: TenantStore,
        vocabulary: Vocabulary,
        report: Callable[[Failure], None],
        in_thread: InThread,
        *,
        start: int,
        on_failure: OnFailure,
        attempts: int,
        save_events: int,
        save_s: float,
    ) -> None:
        super().__init__()
        if on_failure not in {"stop", "park"} or attempts < 1 or save_events < 1:
            raise ValueError("on_failure is stop or park, attempts and save_events are 1 or more")
        self.name = name
        self.store = store
        self.parking = Parking(store, name)
        self.report = report
        self.start = start
        self.on_failure = on_failure
        self.attempts = attempts
        self.save_events = save_events
        self.save_s = save_s
        self._vocabulary = vocabulary
        self._in_thread = in_thread
        self._follower: Follower | None = None

    @property
    def follower(self) -> Follower | None:
        """What `follow` gave last."""
        return self._follower

    def catch_up(self) -> int:
        """Handle what is stored by now, save the checkpoint, and say where it is.

        Raises what a handler raised in the last attempt, and `UndecodableEvent`, unless events
        are parked; and the store's errors. On a running loop use `acatch_up`.
        """
        if running_loop() is not None:
            raise NeedsApublish("on an event loop, use `await resumable.acatch_up()`")
        return self._catch_up(self._in_thread)

    async def acatch_up(self) -> int:
        """Like `catch_up`; the handlers are called on this loop."""
        return await asyncio.to_thread(self._catch_up, runner_for_here(self._in_thread))

    def _catch_up(self, runner: Runner) -> int:
        run = self._begin(runner)
        never = threading.Event()
        try:
            head = self.store.head()
            for events, through in pages(self.store, run.start, head, run.filter()):
                for stored in events:
                    run.take(stored, never)
                    run.passed(stored.position)
                run.passed(through)
        except GaveUp as given_up:
            raise given_up.error from None
        finally:
            run.finish()
        return run.position

    def follow(self) -> Follower:
        """Handle what is stored and what comes, in the background, until it is stopped.

        The handlers are called in a thread; on this loop, if there is one running. When a
        handler gives up, the follower ends with its error: see `Follower.join`.
        """
        run = self._begin(runner_for_here(self._in_thread))
        self._follower = Follower(self.store, run.start, run, run.runner)
        return self._follower

    def _begin(self, runner: Runner) -> _Run:
        if self._follower is not None and self._follower.is_running:
            raise BusError(f"{self.name} is followed already")
        if not self._subscriptions.all():
            raise BusError(f"{self.name} has no handlers: subscribe some first")
        return _Run(self, runner)

    def retry_parked(self) -> int:
        """Handle what is parked once more, each event by itself, and forget what succeeds.

        Says how many ranges did; what failed is reported and stays parked. What was redelivered
        is parked again first, as far as there is room. On a running loop use `aretry_parked`.
        """
        if running_loop() is not None:
            raise NeedsApublish("on an event loop, use `await resumable.aretry_parked()`")
        return self._retry_parked(self._in_thread)

    async def aretry_parked(self) -> int:
        """Like `retry_parked`; the handlers are called on this loop."""
        return await asyncio.to_thread(self._retry_parked, runner_for_here(self._in_thread))

    def _retry_parked(self, runner: Runner) -> int:
        with self.parking.lock:
            self.parking.gather()
        subscription = self.store.subscription(self.name)
        done = 0
        for parked in () if subscription is None else subscription.parked:
            try:
                for events, _ in pages(self.store, parked.first_position, parked.last_position):
                    for stored in events:
                        event, wanting = self.understand(stored)
                        for it in wanting:
                            runner(partial(it.attempt, stored if it.is_raw else event, stored))
            except Exception as error:
                self.report(Failure(error, "handling"))
            else:
                done += self.store.drop_parked(self.name, parked.first_position)
        return done

    def understand(self, stored: Event) -> tuple[object, list[Subscription]]:
        """The event and who wants it. Raises `UndecodableEvent`."""
        event_class = self._vocabulary.class_of(stored.type)
        wanting = self._subscriptions.wanting(event_class)
        if event_class is None or all(it.is_raw for it in wanting):
            return stored, wanting
        return self._vocabulary.decode(stored, event_class), wanting

    def filter(self) -> Filter | None:
        """The types that the handlers may want; None when that is no short list."""
        types: set[str] = set()
        for it in self._subscriptions.all():
            if it.is_raw or it.event_class is object:
                return None
            types |= self._vocabulary.names_of(it.event_class)
        return Filter(types=tuple(sorted(types))) if len(types) <= MAX_FILTER_TYPES else None

    def _before_subscribing(self, event_class: type, handler: Callable[..., Any]) -> None:
        if is_storable(event_class):
            self._vocabulary.learn(event_class)
        else:
            self._vocabulary.look_below(event_class)


class _Work:
    """What is left to do with one event. It is kept when the store fails meanwhile."""

    def __init__(self, stored: Event, event: object, pending: list[Subscription]) -> None:
        self.stored = stored
        self.event = event
        self.pending = pending
        self.failures = 0
        self.given_up: Exception | None = None


class _Run(Course):
    """From the checkpoint on, once."""

    def __init__(self, resumable: Resumable, runner: Runner) -> None:
        self._resumable = resumable
        self._store = resumable.store
        self.runner = runner
        saved = self._store.checkpoint(resumable.name)
        self._saved = saved or 0
        self.position = resumable.start - 1 if saved is None else saved
        self._due = Due(resumable.save_events, resumable.save_s)
        self._in_doubt = set[int]()
        self._work: _Work | None = None

    @property
    def start(self) -> int:
        return self.position + 1

    def filter(self) -> Filter | None:
        return self._resumable.filter()

    def take(self, stored: Event, stopping: threading.Event) -> None:
        work = self._work
        if work is None or work.stored.position != stored.position:
            work = self._work = self._begun(stored)
        while work.pending and work.given_up is None:
            self._attempt(work, stopping)
        if work.given_up is not None:
            self._give_up(work.given_up, stored)
        self._work = None

    def _begun(self, stored: Event) -> _Work:
        try:
            event, pending = self._resumable.understand(stored)
        except UndecodableEvent as error:
            self.report(Failure(error, "decoding", stored=stored))
            work = _Work(stored, None, [])
            work.given_up = error
            return work
        return _Work(stored, event, pending)

    def _attempt(self, work: _Work, stopping: threading.Event) -> None:
        first, event, stored = work.pending[0], work.event, work.stored
        try:
            self.runner(partial(first.attempt, stored if first.is_raw else event, stored))
        except Exception as error:
            work.failures += 1
            self.report(Failure(error, "handling", first.handler, event, stored))
            if work.failures >= self._resumable.attempts:
                work.given_up = error
                return
            self._save()  # what is done: this may take long
            if stopping.wait(backoff_s(work.failures)):
                raise Halted from None
        else:
            del work.pending[0]
            work.failures = 0

    def passed(self, position: int) -> None:
        if position > self.position:
            self.position = position
            self._due.put_off()
        if self._due.is_due:
            self._save()

    def patience_s(self) -> float | None:
        return self._due.left_s

    def report(self, failure: Failure) -> None:
        self._resumable.report(failure)

    def finish(self) -> None:
        self._save()

    def _save(self) -> None:
        if self.position > self._saved:
            self._save_at(self.position)

    def _save_at(self, position: int) -> None:
        try:
            self._store.save_checkpoint(self._resumable.name, position, expected=self._saved)
        except CheckpointConflict as conflict:
            if conflict.current not in self._in_doubt:
                raise
            # An earlier save was done, though the store failed to say so.
            self._saved = conflict.current
            if self._saved < position:
                self._save_at(position)
        except EbusError:
            self._in_doubt.add(position)
            raise
        else:
            self._saved = position
        self._in_doubt.clear()
        self._due.done()

    def _give_up(self, error: Exception, stored: Event) -> None:
        if self._resumable.on_failure == "stop":
            error.add_note(f"{self._resumable.name} stopped before position {stored.position}")
            raise GaveUp(error) from error
        with self._resumable.parking.lock:
            self._park(stored.position, reason_of(error))

    def _park(self, position: int, reason: str) -> None:
        """Let the store note that one event has failed, as it does for consumers with leases."""
        name = self._resumable.name
        self._save_at(position - 1)  # this ends a lease that an earlier try has left, too
        if self._saved == position:
            return
        lease = self._resumable.parking.lease(position)
        self._in_doubt.add(position)
        try:
            self._store.release(name, lease.id, failed=True, reason=reason)
        except LeaseLost:
            self._save_at(position - 1)
            if self._saved != position:
                raise
        self._saved = position
