"""What is told of an error that nobody can be given by raising it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from ebus.core.event import Event

logger = logging.getLogger(__name__)

Doing = Literal["handling", "decoding", "following", "after_publish"]


class Failure(msgspec.Struct, frozen=True):
    """An error, and what was being done: a handler was called, an event was decoded, the log
    was followed (the store failed; it is tried again), or `after_publish` was called."""

    error: Exception
    doing: Doing
    handler: Callable[..., Any] | None = None
    event: object = None
    stored: Event | None = None


OnError = Callable[[Failure], object]


def log_failure(failure: Failure) -> None:
    """Write the failure to the log of `ebus.bus.failures`, with where it was raised."""
    where = f" at position {failure.stored.position}" if failure.stored else ""
    name = getattr(failure.handler, "__qualname__", None) or repr(failure.handler)
    by = f" by {name}" if failure.handler else ""
    logger.error("%s%s%s failed", failure.doing, by, where, exc_info=failure.error)


def reporter(on_error: OnError) -> Callable[[Failure], None]:
    """Calls `on_error`; what that raises is logged, so that nothing else is harmed by it."""

    def report(failure: Failure) -> None:
        try:
            on_error(failure)
        except Exception:
            logger.exception("on_error failed")
            log_failure(failure)

    return report
