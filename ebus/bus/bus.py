"""The bus: what is published is appended, if there is a store, and handed to who subscribed."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from ebus.bus.errors import (
    BusClosed,
    BusError,
    NeedsApublish,
    NeedsStore,
    UndecodableEvent,
)
from ebus.bus.failures import Failure, OnError, log_failure, reporter
from ebus.bus.following import Course, Follower, pages
from ebus.bus.gate import Gate
from ebus.bus.resumable import OnFailure, Resumable
from ebus.bus.running import InThread, Runner, finished, runner_for_here, running_loop
from ebus.bus.subscriptions import Subscribing, Subscription, takes_stored
from ebus.bus.vocabulary import Vocabulary, is_storable
from ebus.core.event import Event, NewEvent, metadata_of
from ebus.core.filter import Filter
from ebus.core.store import Expectation, TenantStore


class EventBus(Subscribing):
    """Publish and subscribe by event class. Safe to use from several threads.

    With a store, of any engine or of the client, an event is appended before it is handled. The
    store stays its owner's: closing the bus does not close it. `events` are classes that the bus
    is to know though nobody subscribes to them by themselves.

    Handlers are called one after the other, in the order in which they subscribed. One that
    raises does not keep the others from being called: `on_error` is given a `Failure`, in any
    thread, and writes it to the log if it is left out. `before_publish(event, metadata)` may add
    to the event's metadata, and what it raises is raised by `publish`, with nothing done.
    `after_publish(event, stored)` comes after the handlers; what it raises goes to `on_error`.
    """

    def __init__(
        self,
        store: TenantStore | None = None,
        *,
        events: Iterable[type] = (),
        on_error: OnError = log_failure,
        before_publish: Callable[[Any, dict[str, str]], object] | None = None,
        after_publish: Callable[[Any, Event | None], object] | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._vocabulary = Vocabulary()
        self._report = reporter(on_error)
        self._before_publish = before_publish
        self._after_publish = after_publish
        self._in_thread = InThread()
        self._gate = Gate()
        self._follow_from: int | None = None
        self._follower: Follower | None = None
        self._resumables: list[Resumable] = []
        self._closed = False
        for event_class in events:
            self._vocabulary.learn(event_class)

    # Publishing

    def publish(
        self,
        event: object,
        *,
        id: str | None = None,
        stream: str | None = None,
        metadata: Mapping[str, str] | None = None,
        expect: Expectation | None = None,
    ) -> Event | None:
        """Append the event, if there is a store, and have it handled; then return what is stored.

        Raises nothing that a handler raises, but what `before_publish` and the store do. `id`
        is made up if it is left out; an event whose id is stored already is neither stored nor
        handled once more. `stream`, `metadata` and `expect` are those of an append; without a
        store they, and the id, mean nothing.

        While the bus follows the log, handlers are called from there: then this returns before
        they are, see `follow`. On a running event loop it raises `NeedsApublish` when a handler
        of this event is async.
        """
        self._check_open()
        if running_loop() is not None and self._follow_from is None:
            for it in self._subscriptions.wanting(type(event)):
                if it.is_async:
                    raise NeedsApublish(f"{it.handler!r} is async: use `await bus.apublish(…)`")
        all_metadata = self._begin(event, metadata)
        stored, is_mine = self._append(event, id, stream, all_metadata, expect)
        if is_mine:
            for it in self._local(event, stored):
                self._call(it, stored if it.is_raw else event, stored, self._in_thread)
        self._end(event, stored)
        return stored

    async def apublish(
        self,
        event: object,
        *,
        id: str | None = None,
        stream: str | None = None,
        metadata: Mapping[str, str] | None = None,
        expect: Expectation | None = None,
    ) -> Event | None:
        """Like `publish`: appends in a thread, calls and awaits the handlers on this loop."""
        self._check_open()
        all_metadata = self._begin(event, metadata)
        if self._store is None:
            stored, is_mine = None, True
        else:
            stored, is_mine = await asyncio.to_thread(
                self._append, event, id, stream, all_metadata, expect
            )
        if is_mine:
            for it in self._local(event, stored):
                handled = stored if it.is_raw else event
                try:
                    await finished(partial(it.handle, handled, stored))
                except Exception as error:
                    self._report(Failure(error, "handling", it.handler, handled, stored))
        self._end(event, stored)
        return stored

    def _begin(self, event: object, metadata: Mapping[str, str] | None) -> dict[str, str]:
        all_metadata = dict(metadata or {})
        if self._before_publish is not None:
            self._before_publish(event, all_metadata)
        return all_metadata

    def _append(
        self,
        event: object,
        id: str | None,
        stream: str | None,
        metadata: Mapping[str, str],
        expect: Expectation | None,
    ) -> tuple[Event | None, bool]:
        """What is stored, and whether it is for who published it to call the handlers."""
        if self._store is None:
            return None, True
        new = self._vocabulary.encode(event, id or str(uuid.uuid4()), stream, metadata)
        with self._gate.passing():
            appended = self._store.append([new], expect=expect)
            follow_from = self._follow_from
        [placed] = appended.events
        stored = _as_stored(new, placed.position, placed.version, placed.timestamp)
        is_followed = follow_from is not None and placed.position >= follow_from
        # An id that was made up here is nobody else's: there before, it is of a repeated append.
        is_new = id is None or not placed.is_duplicate
        return stored, is_new and not is_followed

    def _local(self, event: object, stored: Event | None) -> list[Subscription]:
        wanting = self._subscriptions.wanting(type(event))
        return [it for it in wanting if stored is not None or not it.is_raw]

    def _end(self, event: object, stored: Event | None) -> None:
        if self._after_publish is not None:
            try:
                self._after_publish(event, stored)
            except Exception as error:
                self._report(Failure(error, "after_publish", None, event, stored))

    def _call(
        self, subscription: Subscription, event: object, stored: Event | None, runner: Runner
    ) -> None:
        try:
            runner(partial(subscription.handle, event, stored))
        except Exception as error:
            self._report(Failure(error, "handling", subscription.handler, event, stored))

    # The log

    def replay(
        self,
        start: int = 1,
        stop: int | None = None,
        *,
        types: Iterable[type] = (),
        to: Subscription | None = None,
    ) -> int:
        """Hand stored events from `start` to `stop`, both inclusive, to the handlers once more.

        Without `stop`, to the last that is stored now. With `types` only events of these classes,
        with `to` only to one subscription. Says how many events were read. Errors go to
        `on_error`; an event that cannot be decoded is passed over. On a running loop use
        `areplay`. Raises `NeedsStore` and what the store raises.
        """
        if running_loop() is not None:
            raise NeedsApublish("on an event loop, use `await bus.areplay(…)`")
        return self._replay(start, stop, tuple(types), to, self._in_thread)

    async def areplay(
        self,
        start: int = 1,
        stop: int | None = None,
        *,
        types: Iterable[type] = (),
        to: Subscription | None = None,
    ) -> int:
        """Like `replay`; the handlers are called on this loop."""
        runner = runner_for_here(self._in_thread)
        return await asyncio.to_thread(self._replay, start, stop, tuple(types), to, runner)

    def _replay(
        self,
        start: int,
        stop: int | None,
        types: tuple[type, ...],
        to: Subscription | None,
        runner: Runner,
    ) -> int:
        store = self._needed_store()
        names = {name for it in types for name in self._vocabulary.names_of(it)}
        wanted = Filter(types=tuple(sorted(names))) if names else None
        through = store.head() if stop is None else min(stop, store.head())
        count = 0
        for events, _ in pages(store, max(start, 1), through, wanted):
            for stored in events:
                self._hand_on(stored, runner, to)
            count += len(events)
        return count

    def follow(self, start: int | None = None) -> Follower:
        """Hand on what any process appends from now on, or from a position on.

        Several processes that follow the same log are one bus: each hands every event to its
        handlers once, in the order of the log. What this process publishes meanwhile is handled
        from the log too, not by `publish`, which returns earlier. It is a background thread; the
        handlers are called in it, or on this event loop, if there is one running.

        After its end `publish` calls the handlers again. What was stored beyond the follower's
        `position` by then is not handled by itself: go on with `follow(position + 1)`.
        """
        store = self._needed_store()
        runner = runner_for_here(self._in_thread)
        with self._gate.closed():
            if self._follow_from is not None:
                raise BusError("the bus follows its log already")
            self._follow_from = max(1, store.head() + 1 if start is None else start)
        course = _HandOn(self, runner)
        self._follower = Follower(store, self._follow_from, course, runner)
        return self._follower

    def resumable(
        self,
        name: str,
        *,
        start: int = 1,
        on_failure: OnFailure = "stop",
        attempts: int = 5,
        save_events: int = 100,
        save_s: float = 1.0,
    ) -> Resumable:
        """A subscription that keeps a checkpoint of this name, see `Resumable`.

        `start` is where it begins when there is no checkpoint yet. Subscribe handlers to it, then
        let it `catch_up` or `follow`.
        """
        self._check_open()
        made = Resumable(
            name,
            self._needed_store(),
            self._vocabulary,
            self._report,
            self._in_thread,
            start=start,
            on_failure=on_failure,
            attempts=attempts,
            save_events=save_events,
            save_s=save_s,
        )
        self._resumables.append(made)
        return made

    def _hand_on(self, stored: Event, runner: Runner, to: Subscription | None = None) -> None:
        event_class = self._vocabulary.class_of(stored.type)
        wanting = self._subscriptions.wanting(event_class)
        if to is not None:
            wanting = [it for it in wanting if it is to]
        event: object = None
        if event_class is not None and not all(it.is_raw for it in wanting):
            try:
                event = self._vocabulary.decode(stored, event_class)
            except UndecodableEvent as error:
                self._report(Failure(error, "decoding", stored=stored))
                wanting = [it for it in wanting if it.is_raw]
        for it in wanting:
            self._call(it, stored if it.is_raw else event, stored, runner)

    def _end_following(self) -> None:
        with self._gate.closed():
            self._follow_from = None

    # What it is made of

    def _before_subscribing(self, event_class: type, handler: Callable[..., Any]) -> None:
        self._check_open()
        if self._store is None:
            if event_class is Event or takes_stored(handler):
                raise NeedsStore("without a store there is no stored event to be handed on")
        elif is_storable(event_class):
            self._vocabulary.learn(event_class)
        else:
            self._vocabulary.look_below(event_class)

    def _needed_store(self) -> TenantStore:
        self._check_open()
        if self._store is None:
            raise NeedsStore("this bus has no store")
        return self._store

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed("the bus is closed")

    def close(self) -> None:
        """End every follower of this bus and the loop for async handlers. Twice is fine.

        On an event loop use `aclose`. Raises `BusError` in an async handler that runs on the
        loop that would end.
        """
        self._check_elsewhere()
        self._closed = True
        for follower in (self._follower, *(it.follower for it in self._resumables)):
            if follower is not None:
                follower.stop()
        self._in_thread.close()

    async def aclose(self) -> None:
        """Like `close`. In a handler of a follower, call it in a task: it waits for the handler."""
        self._check_elsewhere()
        await asyncio.to_thread(self.close)

    def _check_elsewhere(self) -> None:
        if self._in_thread.is_here():
            raise BusError("an async handler cannot close the bus on whose loop it runs")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class _HandOn(Course):
    """What a bus does along the log that it follows."""

    def __init__(self, bus: EventBus, runner: Runner) -> None:
        self._bus = bus
        self._runner = runner

    def filter(self) -> Filter | None:
        return None  # handlers may come at any time

    def take(self, stored: Event, stopping: threading.Event) -> None:
        self._bus._hand_on(stored, self._runner)

    def passed(self, position: int) -> None:
        pass

    def patience_s(self) -> float | None:
        return None

    def report(self, failure: Failure) -> None:
        self._bus._report(failure)

    def finish(self) -> None:
        self._bus._end_following()


def _as_stored(new: NewEvent, position: int, version: int | None, timestamp: str) -> Event:
    metadata = metadata_of(new)
    return Event(position, new.type, new.data, timestamp, new.id, new.stream, version, metadata)
