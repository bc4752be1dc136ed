"""How the configuration that is served came about: what a reload has to tell."""

from __future__ import annotations

import time
from typing import Protocol

import msgspec


class ConfigState(Protocol):
    """What the figures tell of it. All workers must tell the same."""

    @property
    def generation(self) -> int:
        """Which configuration is served: 1 at start, one more with each that was taken over."""
        ...

    @property
    def loaded_at_s(self) -> float:
        """When it was taken over, in seconds since 1970."""
        ...

    @property
    def failures(self) -> int:
        """How many reloads failed, since the start."""
        ...

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt to reload failed: the file is not what is served."""
        ...


class AsAtStart(msgspec.Struct, frozen=True):
    """The state of a server that was never asked to reload."""

    generation: int = 1
    loaded_at_s: float = msgspec.field(default_factory=time.time)
    failures: int = 0
    has_failed: bool = False
