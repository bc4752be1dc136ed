"""When a request is sent again, and how long to wait before: for both clients.

The wait is drawn at random between nothing and a bound that doubles each time ("full jitter"; M.
Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015), unless the server says how
long to wait at least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import tenacity

from ebus.client.calls import Call
from ebus.client.errors import Answered, ServerUnreachable

FIRST_WAIT_S = 0.1
MAX_WAIT_S = 5.0

_PASSING = frozenset({429, 502, 503, 504})
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Unsent(ServerUnreachable):
    """No connection was made, so nothing was sent."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and for how long."""

    retries: int
    """How often a request is sent again, at most."""

    for_s: float
    """After so many seconds it is not sent again."""

    def arguments(self, call: Call[Any]) -> dict[str, Any]:
        """Those of `tenacity.Retrying` and `tenacity.AsyncRetrying`."""
        return {
            "retry": tenacity.retry_if_exception(_may_repeat(call)),
            "wait": _wait,
            "stop": tenacity.stop_after_attempt(self.retries + 1)
            | tenacity.stop_before_delay(self.for_s),
            "reraise": True,
        }


def unanswered(failure: httpx.TransportError) -> ServerUnreachable:
    """Why no answer came, without the request: it carries the key."""
    kind = Unsent if isinstance(failure, _NOT_SENT) else ServerUnreachable
    return kind(f"{type(failure).__name__}: {failure}")


def _may_repeat(call: Call[Any]) -> Callable[[BaseException], bool]:
    def may_repeat(error: BaseException) -> bool:
        if isinstance(error, Unsent):
            return True
        if isinstance(error, ServerUnreachable):
            return call.is_repeatable
        answered = error.__cause__
        if not isinstance(answered, Answered):
            return False
        # 429 is said before anything is done.
        return answered.status == 429 or (call.is_repeatable and answered.status in _PASSING)

    return may_repeat


_jitter = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    answered = error.__cause__ if error is not None else None
    least_s = answered.retry_after_s if isinstance(answered, Answered) else None
    return (least_s or 0.0) + _jitter(state)
