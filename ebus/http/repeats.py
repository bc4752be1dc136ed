"""A line of the log that many have cause to write at the same moment: written once, and counted.

While a store is away every request of every client is refused for one and the same reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

EVERY_S = 5.0
"""How often the same line is written."""

MAX_LINES = 1_000
"""How many different lines are remembered."""


class Repeats:
    """Warnings, of which the same one is written every `EVERY_S` seconds at most."""

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._lines: dict[str, tuple[float, int]] = {}
        """When a line was written, the last one last, and how often it would have been since."""

    def warn(self, line: str) -> None:
        now = self._clock()
        written_s, more = self._lines.get(line, (None, 0))
        if written_s is not None and now - written_s < EVERY_S:
            self._lines[line] = (written_s, more + 1)
            return
        self._lines.pop(line, None)
        if len(self._lines) >= MAX_LINES:
            del self._lines[next(iter(self._lines))]
        self._lines[line] = (now, 0)
        if more:
            self._logger.warning("%s [and %d times more before]", line, more)
        else:
            self._logger.warning("%s", line)
