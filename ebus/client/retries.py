"""Whether a request is sent once more, and when: full jitter on exponential backoff."""

from __future__ import annotations

import time
from random import SystemRandom
from typing import Generic, TypeVar, cast

import msgspec

from ebus.client.calls import Call
from ebus.client.errors import ProtocolError, ServerUnreachable
from ebus.client.problems import Answer, error_of, problem_of
from ebus.core.errors import EbusError, EngineError, StoreRefused

T = TypeVar("T")

_random = SystemRandom()

PASSING = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may succeed."""

NOTHING_DONE = frozenset(
    {"server_overloaded", "too_many_connections", "too_many_tails", "store_overloaded", "read_only"}
)
"""Codes with which a server says that it has not begun: then even what is unsafe may be sent."""


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client goes on trying. Times are in seconds."""

    attempts: int = 20
    """How often a request is sent at most; 1 for never again.

    So many that `total_s` ends before them: a server that restarts is back by then.
    """

    first_pause_s: float = 0.1
    """The longest pause before the second attempt; it doubles with each."""

    max_pause_s: float = 5.0
    """The longest pause of all, but for what a server asks for."""

    total_s: float = 30.0
    """No further attempt begins after this time."""

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """How long to wait after so many failures in a row; at least what the server asks for."""
        most = min(self.max_pause_s, self.first_pause_s * 2 ** min(failures - 1, 30))
        return (asked_s or 0.0) + _random.uniform(0.0, most)


NO_RETRIES = Retries(attempts=1)


def is_worth_repeating(error: EbusError, answer: Answer | None) -> bool:
    """Whether the same request may succeed within the time that a call takes."""
    if isinstance(error, ServerUnreachable):
        return True
    return (
        answer is not None
        and answer.status in PASSING
        and not isinstance(error, (StoreRefused, EngineError))
    )


class Attempts(Generic[T]):
    """The attempts at one call, until one gives a result or there are to be no more."""

    def __init__(self, call: Call[T], retries: Retries) -> None:
        self._call = call
        self._retries = retries
        self._until_s = time.monotonic() + retries.total_s
        self._failures = 0
        self._is_in_doubt = False
        self._answer: Answer | None = None

    def read(self, answer: Answer) -> T:
        """The result that an answer holds. Raises the error that it tells of."""
        self._answer = answer
        call = self._call
        if not answer.is_success:
            code = problem_of(answer).code
            if code in call.otherwise:
                return call.otherwise[code]
            error = error_of(answer)
            if self._is_in_doubt and call.was_done is not None and call.was_done(error):
                return cast("T", None)
            raise error
        try:
            return call.read(answer)
        except (msgspec.DecodeError, ValueError, KeyError) as error:
            detail = f"the answer to {call.method} {call.path} is none of ebus: {error}"
            raise ProtocolError(detail, status=answer.status) from None

    def pause_after(self, error: EbusError) -> float:
        """How long to wait before the next attempt. Raises the error when there is none."""
        answer, self._answer = self._answer, None
        self._failures += 1
        was_begun = _was_begun(error, answer)
        self._is_in_doubt = self._is_in_doubt or was_begun
        may_repeat = self._call.is_repeatable or not was_begun
        if (
            self._failures >= self._retries.attempts
            or not may_repeat
            or not is_worth_repeating(error, answer)
        ):
            raise error
        asked_s = answer.retry_after_s if answer is not None else None
        pause_s = self._retries.pause_s(self._failures, asked_s)
        if time.monotonic() + pause_s > self._until_s:
            raise error
        return pause_s


def _was_begun(error: EbusError, answer: Answer | None) -> bool:
    """Whether the server may have begun, and done, what it was asked for."""
    if answer is not None:
        return answer.status != 429 and problem_of(answer).code not in NOTHING_DONE
    return not isinstance(error, ServerUnreachable) or error.was_sent
