"""A store that cannot be had for a while, to one who waits until it is back."""

from __future__ import annotations

import logging
import random

from ebus.core.errors import StoreError
from ebus.http.repeats import Repeats

_waits = Repeats(logging.getLogger("ebus.http"))

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
"""Between one try and the next. Many wait for the same store, and each asks for itself."""


class Outage:
    """How often it was tried in vain since the last time that it was not."""

    def __init__(self) -> None:
        self._pause_s = 0.0

    def pause_s(self, error: StoreError) -> float:
        """How long to wait before the next try. Raises the error if it does not pass by itself."""
        if not error.is_passing:
            raise error
        if not self._pause_s:
            _waits.warn(f"who follows a tenant waits for its store: {error}")
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
        return self._pause_s * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def is_over(self) -> None:
        """It was not in vain."""
        self._pause_s = 0.0
