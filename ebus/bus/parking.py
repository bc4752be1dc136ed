"""What a resumable subscription leaves aside: single events, kept as those of consumers are."""

from __future__ import annotations

import threading
from contextlib import suppress

from ebus.bus.errors import BusError
from ebus.core.consumers import Lease
from ebus.core.errors import EbusError, LeaseLost, TooManyParked
from ebus.core.store import TenantStore

PARKING_S = 60.0

REDELIVERED = "it was to be delivered again: that is for retry_parked"


class Parking:
    """Leases single events in order to park them. Of its methods one thread at a time may run:
    it holds `lock`.

    What is redelivered waits below the checkpoint, for a consumer with leases, and is leased
    before anything else. A resumable subscription only goes forward, so it is parked again.
    """

    def __init__(self, store: TenantStore, name: str) -> None:
        self.lock = threading.Lock()
        self._store = store
        self._name = name

    def lease(self, position: int) -> Lease:
        """The lease of the event right behind the checkpoint; what is redelivered is parked again.

        Raises `BusError` when somebody else has leased the event, and `TooManyParked`.
        """
        for _ in range(self._store.limits.max_parked + 1):  # each round parks one event
            lease = self._next()
            if lease is None:
                break
            if lease.first_position == position:
                return lease
            if lease.first_position > position:
                self._give_back(lease)
                break
            self._set_aside(lease)
        raise BusError(f"{self._name} has consumers with leases: position {position} is theirs")

    def gather(self) -> None:
        """Park again what is redelivered, as far as there is room."""
        with suppress(TooManyParked):
            for _ in range(self._store.limits.max_parked):
                position = self._redelivered_below()
                lease = None if position is None else self._next()
                if position is None or lease is None:
                    return
                if lease.first_position > position:
                    self._give_back(lease)
                    return
                self._set_aside(lease)

    def _redelivered_below(self) -> int | None:
        """The checkpoint, when something waits that it has passed."""
        subscription = self._store.subscription(self._name)
        if subscription is None:
            return None
        position = subscription.position
        waits = any(one.first_position <= position for one in subscription.waiting)
        return position if waits else None

    def _next(self) -> Lease | None:
        return self._store.lease(self._name, max_events=1, seconds=PARKING_S, max_attempts=1)

    def _set_aside(self, lease: Lease) -> None:
        with suppress(LeaseLost):  # a saved checkpoint has ended it: it waits again
            self._store.release(self._name, lease.id, failed=True, reason=REDELIVERED)

    def _give_back(self, lease: Lease) -> None:
        with suppress(EbusError):
            self._store.release(self._name, lease.id, failed=False)
