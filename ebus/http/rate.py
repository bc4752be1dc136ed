"""How many requests each tenant may make, counted over all workers."""

from __future__ import annotations

import mmap
import time


class Rates:
    """One rate limit for each tenant, in memory that the workers of a server share.

    A bucket of `burst` requests that empties at `rate` requests a second, as the generic cell
    rate algorithm keeps it: in one number, the time at which the bucket would be empty (ITU-T
    I.371, annex A, "virtual scheduling"). No lock is taken: of two requests of one tenant that
    two workers look at in the same instant, one may go uncounted.
    """

    def __init__(self, tenants: int, *, rate: float, burst: int) -> None:
        self.rate = rate
        self._interval_s = 1 / rate
        self._tolerance_s = (burst - 1) / rate
        self._empty_at_s = memoryview(mmap.mmap(-1, 8 * max(1, tenants))).cast("d")

    def take(self, tenant: int) -> bool:
        """Count a request of the n-th tenant. False, and not counted, when it is one too many."""
        now_s = time.monotonic()  # one clock for all processes of a machine
        empty_at_s = max(self._empty_at_s[tenant], now_s)
        if empty_at_s - now_s > self._tolerance_s:
            return False
        self._empty_at_s[tenant] = empty_at_s + self._interval_s
        return True
