"""How fast a step within this process goes."""

from __future__ import annotations

import time
from collections.abc import Callable


def repeats_per_s(step: Callable[[], object], seconds: float) -> float:
    """How often a step can be done in a second, tried for at least so many seconds."""
    begun = time.perf_counter()
    repeats = 0
    while (taken := time.perf_counter() - begun) < seconds:
        step()
        repeats += 1
    return repeats / taken
