"""What a consumer's loop knows of the lease that it works on."""

from __future__ import annotations

import time

from ebus.client.calls import Leased
from ebus.core.consumers import MAX_REASON_CHARS


class Work:
    """The events of a lease, and how long ago it was given or extended."""

    def __init__(self, leased: Leased, seconds: float) -> None:
        self.id = leased.lease.id
        self.events = leased.events
        self.seconds = seconds
        self.begin()

    def begin(self) -> None:
        """The lease lasts for its seconds from now on."""
        self._begun_s = time.monotonic()

    def is_half_over(self) -> bool:
        return time.monotonic() - self._begun_s > self.seconds / 2


def reason_of(error: Exception) -> str:
    """Why a handler failed, for people, as short as a reason may be."""
    text = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    return text[:MAX_REASON_CHARS]
