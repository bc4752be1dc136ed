"""When to try again: what the cluster cannot do now, and what another server was quicker at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import SystemRandom

from ebus.core.errors import StoreBusy

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Between tries; the last one again and again."""

FREE_TRIES = 2
"""So often it is tried again at once: seldom does anybody else write at the same moment."""

MAX_TURN_S = 0.05
"""How long one may be left to others at most, once it is seen that there are any."""

_random = SystemRandom()


def pauses() -> Iterator[float]:
    """How long to wait before each further try."""
    yield from _PAUSES_S
    while True:
        yield _PAUSES_S[-1]


def tries(timeout_s: float, refusal: str) -> Iterator[None]:
    """Once for each try, with pauses of random lengths in between, so that all get their turn.

    Raises `StoreBusy` with these words when the time is over.
    """
    until_s = time.monotonic() + timeout_s
    number = 0
    while True:
        yield
        number += 1
        if time.monotonic() > until_s:
            raise StoreBusy(refusal)
        if number > FREE_TRIES:
            time.sleep(_random.uniform(0.0, min(MAX_TURN_S, 0.002 * number)))
