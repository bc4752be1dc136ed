"""Streams of events that go on where they broke off."""

from __future__ import annotations

import time

import msgspec

from ebus.client.calls import Call, Calls
from ebus.client.errors import ProtocolError, ServerUnreachable
from ebus.client.problems import Answer
from ebus.client.retries import Retries, is_worth_repeating
from ebus.core.errors import EbusError
from ebus.core.event import Event, decode_event
from ebus.core.filter import Filter
from ebus.core.store import Page

SILENCE_S = 45.0
"""A stream that says nothing for so long is dead: a server says something every 15 s."""


class Following:
    """Where a stream is. Whoever does its input and output asks it what to do next.

    With `is_endless` it never gives up on what may pass by itself. Without, it gives up after so
    many failures in a row, and so much time, as the client's calls do; and it has an end, so that
    an answer that was cut short is not taken for whole.
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
        self.is_endless = is_endless
        self._failures = 0
        self._give_up_s = 0.0
        self._rest = b""
        self._has_ended = False
        self.call()  # refuses what cannot be before anything is sent

    def end_at(self, head: int) -> None:
        """What is stored by now is all that there is."""
        self._stop = head if self._stop is None else min(self._stop, head)

    def call(self) -> Call[None]:
        """The request that goes on behind the last event."""
        self._rest = b""
        return self._calls.stream(self._next, self._stop, self._filter, follow=self.is_endless)

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
        if events or (lines and self.is_endless):
            self._failures = 0
        return events

    def end(self) -> None:
        """The answer is over. Raises `ServerUnreachable` when that is none of its ends.

        It may have been cut between two events: without `is_done`, `rest` says whether it was.
        """
        if self._rest:
            raise ServerUnreachable("the stream broke off within an event", was_sent=True)
        if self.is_endless:
            raise ServerUnreachable("the server has ended the stream", was_sent=True)

    def rest(self) -> Call[Page]:
        """The request that says what is left."""
        return self._calls.read(
            self._next,
            self._stop,
            limit=1,
            max_bytes=None,
            filter=self._filter,
            backwards=False,
        )

    def look(self, rest: Page) -> None:
        """Raises `ServerUnreachable` when events are left though the answer is over.

        Until it `is_done`, `rest` is to be asked for again: it looks at so many events only. To
        stream what is left instead would be to look through all of it each time.
        """
        if rest.events:
            self._next = rest.events[0].position  # nothing matches before
            raise ServerUnreachable("the stream ended before its last event", was_sent=True)
        if rest.next is None:
            self._has_ended = True
        else:
            self._next = rest.next

    @property
    def is_done(self) -> bool:
        return self._has_ended or (self._stop is not None and self._next > self._stop)

    def pause_after(self, error: EbusError, answer: Answer | None) -> float:
        """How long to wait before going on, in seconds. Raises the error when to give up."""
        self._failures += 1
        if self._failures == 1:
            self._give_up_s = time.monotonic() + self._retries.total_s
        if not is_worth_repeating(error, answer):
            raise error
        asked_s = answer.retry_after_s if answer is not None else None
        pause_s = self._retries.pause_s(self._failures, asked_s)
        if not self.is_endless and (
            self._failures >= self._retries.attempts or time.monotonic() + pause_s > self._give_up_s
        ):
            raise error
        return pause_s
