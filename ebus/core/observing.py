"""What a store tells of itself: how long its commits take, and how large it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec


class StoreObserver(Protocol):
    """Who wants to know how a tenant's store fares. It must be quick, and raises nothing."""

    def committed(self, writes: int, duration_ns: int) -> None:
        """So many writes shared a commit, which took so long in all. Called on the event loop."""
        ...

    def synced(self, duration_ns: int) -> None:
        """So long took what made a commit durable. Called by the one thread that writes."""
        ...

    def written_back(self, duration_ns: int) -> None:
        """So long took writing a log back. Called in a thread, one call at a time."""
        ...


@runtime_checkable
class SupportsObserver(Protocol):
    """The power to tell how long a store waits for its disk."""

    def observe(self, observer: StoreObserver) -> None:
        """Call `synced` and `written_back` from now on; `committed` is called by who commits."""
        ...


class Sizes(msgspec.Struct, frozen=True):
    """What a tenant takes where it is stored, in bytes."""

    database_bytes: int
    wal_bytes: int
    """What was committed and is not yet where it belongs."""


@runtime_checkable
class SupportsSizes(Protocol):
    """The power to say how large tenants are, without opening any. Of an engine."""

    def sizes(self, name: str) -> Sizes | None:
        """How large this tenant is; None when there is nothing of it.

        Raises `StoreUnavailable`.
        """
        ...
