"""Who wants which events: handlers in the order in which they subscribed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from ebus.core.event import Event

E = TypeVar("E")
H = TypeVar("H", bound=Callable[..., Any])


class Subscription:
    """A handler's wish for events of a class, until `cancel` is called."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        event_class: type,
        handler: Callable[..., Any],
        where: Callable[[Any], bool] | None,
        once: bool,
    ) -> None:
        self._subscriptions = subscriptions
        self.event_class = event_class
        self.handler = handler
        self.takes_stored = takes_stored(handler)
        self.is_async = _is_async(handler)
        self._where = where
        self._once = once
        self._lock = threading.Lock()
        self._is_active = True
        self._is_claimed = False

    @property
    def is_raw(self) -> bool:
        """Whether it wants every stored event, as it is stored."""
        return self.event_class is Event

    def wants(self, event_class: type | None) -> bool:
        """Whether it wants stored events of a class; None is a class that nobody knows."""
        if self.is_raw:
            return True
        return event_class is not None and issubclass(event_class, self.event_class)

    def handle(self, event: object, stored: Event | None) -> Any:
        """Call the handler, if this event is for it. What it returns may have to be awaited."""
        if not self._is_for(event) or (self._once and not self.cancel()):
            return None
        return self._call(event, stored)

    def attempt(self, event: object, stored: Event | None) -> Any:
        """Like `handle`, where it is called again after a failure: `once` is for a success.

        While that one call is under way, in any thread, other events pass it by.
        """
        if not self._is_for(event):
            return None
        if not self._once:
            return self._call(event, stored)
        if not self._claim():
            return None
        with self._unclaimed_on_failure():
            result = self._call(event, stored)
        if inspect.isawaitable(result):
            return self._cancel_after(result)
        self.cancel()
        return None

    async def _cancel_after(self, result: Awaitable[Any]) -> None:
        with self._unclaimed_on_failure():
            await result
        self.cancel()

    def _claim(self) -> bool:
        """Whether the one call is this caller's to make."""
        with self._lock:
            is_free = self._is_active and not self._is_claimed
            self._is_claimed = self._is_claimed or is_free
            return is_free

    @contextmanager
    def _unclaimed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self._lock:
                self._is_claimed = False
            raise

    def _is_for(self, event: object) -> bool:
        return self._is_active and (self._where is None or self._where(event))

    def _call(self, event: object, stored: Event | None) -> Any:
        return self.handler(event, stored) if self.takes_stored else self.handler(event)

    def cancel(self) -> bool:
        """Call the handler no more, but for calls under way. Says whether this is what ended it."""
        with self._lock:
            was_active, self._is_active = self._is_active, False
        self._subscriptions.remove(self)
        return was_active


class Subscriptions:
    """Subscriptions in order. Changing them does not disturb who goes through them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: tuple[Subscription, ...] = ()

    def add(
        self,
        event_class: type,
        handler: Callable[..., Any],
        where: Callable[[Any], bool] | None,
        *,
        once: bool,
    ) -> Subscription:
        added = Subscription(self, event_class, handler, where, once)
        with self._lock:
            self._all = (*self._all, added)
        return added

    def remove(self, removed: Subscription) -> None:
        with self._lock:
            self._all = tuple(it for it in self._all if it is not removed)

    def all(self) -> tuple[Subscription, ...]:
        return self._all

    def wanting(self, event_class: type | None) -> list[Subscription]:
        return [it for it in self._all if it.wants(event_class)]


class Subscribing:
    """What can be subscribed to, as a decorator or by a call."""

    def __init__(self) -> None:
        self._subscriptions = Subscriptions()

    def _before_subscribing(self, event_class: type, handler: Callable[..., Any]) -> None:
        """Raises when this cannot be."""

    @overload
    def subscribe(
        self,
        event_class: type[E],
        handler: Callable[[E], object],
        *,
        where: Callable[[E], bool] | None = None,
        once: bool = False,
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        event_class: type[E],
        handler: Callable[[E, Event], object],
        *,
        where: Callable[[E], bool] | None = None,
        once: bool = False,
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        event_class: type[E],
        *,
        where: Callable[[E], bool] | None = None,
        once: bool = False,
    ) -> Callable[[H], H]: ...
    def subscribe(
        self,
        event_class: type[E],
        handler: Callable[..., Any] | None = None,
        *,
        where: Callable[[E], bool] | None = None,
        once: bool = False,
    ) -> Any:
        """Have events of this class, and of its subclasses, handed to a handler.

        `object` is every event, `ebus.Event` every stored event as it is stored, of unknown types
        too. A handler takes the event, or the event and the `ebus.Event` that is stored; it may
        be async. With `where` it is called for those events of which that is true; with `once`
        for one event only, however many threads publish; where a handler is called again after
        a failure, until it succeeds: meanwhile it is handed no other event.

        Without a handler this is a decorator, which returns the handler itself.
        """
        if handler is None:

            def decorate(decorated: H) -> H:
                self._subscribe(event_class, decorated, where, once)
                return decorated

            return decorate
        return self._subscribe(event_class, handler, where, once)

    def _subscribe(
        self,
        event_class: type,
        handler: Callable[..., Any],
        where: Callable[[Any], bool] | None,
        once: bool,
    ) -> Subscription:
        self._before_subscribing(event_class, handler)
        return self._subscriptions.add(event_class, handler, where, once=once)


def takes_stored(handler: Callable[..., Any]) -> bool:
    """Whether it must be given two arguments. One with a default does not count: a closure's
    `lambda event, name=name: …` takes one."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # a callable of C that does not tell
        return False
    needed = [
        it
        for it in parameters
        if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD) and it.default is it.empty
    ]
    if len(needed) > 2:
        raise TypeError("a handler takes an event, or an event and how it is stored")
    return len(needed) == 2


def _is_async(handler: Callable[..., Any]) -> bool:
    called = getattr(handler, "__call__", None)  # noqa: B004 - an object may have an async one
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called)
