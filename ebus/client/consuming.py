"""What a consumer does, one step after the other. Nothing here sends anything, or waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

from ebus.client.calls import Call, Calls, Leased, Steps
from ebus.client.errors import RateLimited
from ebus.client.retries import Retries
from ebus.core.consumers import reason_of
from ebus.core.errors import EbusError, LeaseLost
from ebus.core.event import Event

T = TypeVar("T")

logger = logging.getLogger("ebus.client")

Step = Call[Any] | Event | float
"""A call to be made, an event to be handed to the handler, or seconds to let pass."""

Consuming = Generator[Step, Any, T]
"""Steps, one after the other: each is sent what the one before has resulted in, or thrown what
it has raised."""


class Consumer:
    """What `consume` was asked for. A client takes the steps of `run`."""

    def __init__(
        self,
        calls: Calls,
        retries: Retries,
        name: str,
        *,
        max_events: int,
        seconds: float,
        max_attempts: int,
        delay_s: float,
        wait_s: float,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._calls = calls
        self._retries = retries
        self._name = name
        self._max_events = max_events
        self._seconds = seconds
        self._max_attempts = max_attempts
        self._delay_s = delay_s
        self._wait_s = wait_s
        self._is_stopped = stop or (lambda: False)
        self._failures = 0

    def run(self) -> Consuming[int]:
        """Until there is to be no more; says how many events were handled."""
        handled = 0
        while not self._is_stopped():
            try:
                leased = yield from self._asked(self._leasing())
            except LeaseLost:  # not for want of events
                logger.warning("a lease of %s ran out before its events were read", self._name)
                continue
            if leased is not None:
                handled += yield from self._work(leased)
            elif self._wait_s <= 0:
                break
        return handled

    def _leasing(self) -> Steps[Leased | None]:
        return self._calls.lease(
            self._name,
            max_events=self._max_events,
            seconds=self._seconds,
            max_attempts=self._max_attempts,
            wait_s=self._wait_s,
            clock=time.monotonic,
        )

    def _work(self, leased: Leased) -> Consuming[int]:
        handled, begun_s = 0, time.monotonic()
        try:
            for event in leased.events:
                if self._is_stopped():
                    yield from self._ended(self._giving_back(leased, handled))
                    return handled
                if time.monotonic() - begun_s > self._seconds / 2:
                    if not (yield from self._extended(leased, handled)):
                        return handled
                    begun_s = time.monotonic()
                try:
                    yield event
                except Exception as error:
                    yield from self._ended(self._failing(leased, event, error))
                    return handled
                handled += 1
        except BaseException:
            with suppress(EbusError):
                yield self._giving_back(leased, handled)
            raise
        yield from self._ended(self._calls.acknowledge(self._name, leased.lease.id, None))
        return handled

    def _extended(self, leased: Leased, handled: int) -> Consuming[bool]:
        """Whether the lease lasts for longer. What is done of it is finished if it does not."""
        extending = self._calls.extend_lease(self._name, leased.lease.id, self._seconds)
        try:
            if (yield from self._asked(_only(extending))) is not None:
                return True
        except LeaseLost:
            self._warn_of_expiry()
        else:
            yield from self._ended(self._giving_back(leased, handled))
        return False

    def _ended(self, call: Call[None]) -> Consuming[None]:
        """What ends a lease, unless it has run out before."""
        try:
            yield from self._asked(_only(call))
        except LeaseLost:
            self._warn_of_expiry()

    def _warn_of_expiry(self) -> None:
        logger.warning("a lease of %s ran out while its events were handled", self._name)

    def _failing(self, leased: Leased, event: Event, error: Exception) -> Call[None]:
        logger.warning("the handler of %s failed at %d", self._name, event.position, exc_info=error)
        return self._calls.release(
            self._name,
            leased.lease.id,
            event.position,
            failed=True,
            delay_s=self._delay_s,
            reason=reason_of(error),
        )

    def _giving_back(self, leased: Leased, handled: int) -> Call[None]:
        position = leased.events[handled].position
        return self._calls.release(
            self._name, leased.lease.id, position, failed=False, delay_s=0.0, reason=""
        )

    def _asked(self, steps: Steps[T]) -> Consuming[T | None]:
        """What the server says. None after a pause, when it is away, which passes."""
        try:
            said = yield from steps
        except EbusError as error:
            if not error.is_passing or self._wait_s <= 0:
                raise
            self._failures += 1
            asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
            pause_s = self._retries.pause_s(self._failures, asked_s)
            logger.warning("%s goes on in %.1f s, after: %s", self._name, pause_s, error)
            yield pause_s
            return None
        self._failures = 0
        return said


def _only(call: Call[T]) -> Steps[T]:
    said: T = yield call
    return said
