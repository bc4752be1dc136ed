"""How much may be done how often, counted over all workers."""

from __future__ import annotations

import mmap
import time

from ebus.config import Rate

ROUNDING_S = 1e-9


class Buckets:
    """Leaky buckets that start empty, in memory that the workers of a server share.

    Each holds a rate's burst and empties at the rate, as the generic cell rate algorithm keeps
    it: in one number, the time at which the bucket would be empty (ITU-T I.371, annex A,
    "virtual scheduling"). No lock is taken: of two calls for one bucket that two workers make
    in the same instant, one may go uncounted.
    """

    def __init__(self, count: int) -> None:
        self._empty_at_s = memoryview(mmap.mmap(-1, 8 * max(1, count))).cast("d")

    def take(self, number: int, rate: Rate, amount: int = 1) -> float:
        """Pour so much into the n-th bucket, and return 0.

        Or pour nothing, where it is so full that not even one would fit: then return the seconds
        until one does. An amount of more than one may make it overflow, and the bucket is then
        shut for as long as that takes to leak away.
        """
        now_s = time.monotonic()  # one clock for all processes of a machine
        interval_s = 1 / rate.per_second
        ahead_s = max(0.0, self._empty_at_s[number] - now_s)
        wait_s = ahead_s - (rate.burst - 1) * interval_s
        if wait_s > ROUNDING_S:
            return wait_s
        self._empty_at_s[number] = now_s + ahead_s + amount * interval_s
        return 0.0
