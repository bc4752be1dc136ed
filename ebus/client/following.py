"""Streams of events that go on where they broke off."""

from __future__ import annotations

import msgspec

from ebus.client.calls import Call, Calls
from ebus.client.errors import ProtocolError, ServerUnreachable
from ebus.client.problems import Answer
from ebus.client.retries import Retries, is_passing
from ebus.core.errors import EbusError
from ebus.core.event import Event, decode_event
from ebus.core.filter import Filter

SILENCE_S = 45.0
"""A stream that says nothing for so long is dead: a server says something every 15 s."""


class Following:
    """Where a stream is. Whoever does its input and output asks it what to do next.

    With `is_endless` it never gives up on what may pass by itself; without, it gives up after
    so many failures in a row as the client's calls do.
    """

    def __init__(
        self,
        calls: Calls,
        retries: Retries,
        *,
        start: int,
        stop: int | None,
        filter: Filter | None,
        is_endless: bool,
    ) -> None:
        self._calls = calls
        self._retries = retries
        self._next = start
        self._stop = stop
        self._filter = filter
        self._is_endless = is_endless
        self._failures = 0
        self._rest = b""
        self._has_ended = False
        self.call()  # refuses what cannot be before anything is sent

    def call(self) -> Call[None]:
        """The request that goes on behind the last event."""
        self._rest = b""
        return self._calls.stream(self._next, self._stop, self._filter, follow=self._is_endless)

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are whole with this piece of the answer."""
        *lines, self._rest = (
            (self._rest + piece).split(b"\n") if b"\n" in piece else (self._rest + piece,)
        )
        events = []
        for line in lines:
            if not line:  # still there
                continue
            try:
                event = decode_event(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProtocolError(f"a line is no event: {error}", status=200) from None
            if event.position >= self._next:
                self._next = event.position + 1
                events.append(event)
        if lines:
            self._failures = 0
        return events

    def end(self) -> None:
        """The answer has ended as it should. Raises `ServerUnreachable` when it was not whole."""
        if self._rest:
            raise ServerUnreachable("the stream broke off within an event", was_sent=True)
        if self._is_endless:
            raise ServerUnreachable("the server has ended the stream", was_sent=True)
        self._has_ended = True

    @property
    def is_done(self) -> bool:
        return self._has_ended or (self._stop is not None and self._next > self._stop > 0)

    def pause_after(self, error: EbusError, answer: Answer | None) -> float:
        """How long to wait before going on, in seconds. Raises the error when to give up."""
        self._failures += 1
        if not is_passing(error, answer):
            raise error
        if not self._is_endless and self._failures >= self._retries.attempts:
            raise error
        asked_s = answer.retry_after_s if answer is not None else None
        return self._retries.pause_s(self._failures, asked_s)
