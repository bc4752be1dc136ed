"""What an engine's author supplies: a place where engines keep tenants, and a raw look at it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ebus.core.engine import Engine
from ebus.core.limits import Limits


class Peeked(NamedTuple):
    """What is really stored for one tenant.

    `events` has each event as the JSON object that goes over the wire, in the order of the
    positions; `checkpoints` has each checkpoint's position by its name.
    """

    events: list[bytes]
    checkpoints: dict[str, int]


NOTHING_STORED = Peeked([], {})


class Place(Protocol):
    """Storage that outlives the engines that are opened on it: a directory, a schema, a dict."""

    def open(self, *, limits: Limits | None = None) -> Engine:
        """Another engine on the same storage; with the default limits when none are given.

        What one engine has stored, the next one finds. The suite closes what it opens.
        """
        ...

    def peek(self, name: str) -> Peeked:
        """What is stored for a tenant, read without the engine; empty when there is none.

        Called between operations, also while engines are open, and must leave everything as
        it is. An engine that holds what is written back until it is closed does not conform.
        """
        ...
