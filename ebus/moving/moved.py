"""What has become of a move."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What has been moved."""

    first_position: int = 0
    """0 when there was nothing to move."""

    last_position: int = 0
    events: int = 0
    """All events that were looked at, whether they had been there before or not."""

    appended: int = 0
    """Those that were not there before."""

    digest: str = ""
    """The SHA-256 of the lines of all these events; what was read back has the same."""

    checkpoints: int = 0
    """Checkpoints that were looked at."""

    ahead: Sequence[str] = ()
    """Checkpoints that are further on at the target: they were left there."""

    parked: Sequence[str] = ()
    """Subscriptions with parked events, of which only the checkpoint was taken."""
