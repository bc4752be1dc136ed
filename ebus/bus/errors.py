"""What a bus raises on purpose, beside the errors of its store.

EbusError
└── BusError
    ├── BusClosed          it was closed
    ├── NeedsStore         this can only be done with a store
    ├── NeedsApublish      an async handler cannot be waited for on a running loop
    ├── NotAnEvent         an object that cannot be stored
    ├── NameTaken          two classes of one bus have the same name
    └── UndecodableEvent   what is stored does not fit the class of its name
"""

from __future__ import annotations

from ebus.core.errors import EbusError
from ebus.core.event import Event


class BusError(EbusError):
    """The root of the bus's own errors."""

    code = "bus_error"


class BusClosed(BusError):
    code = "bus_closed"


class NeedsStore(BusError):
    code = "needs_store"


class NeedsApublish(BusError):
    code = "needs_apublish"


class NotAnEvent(BusError, TypeError):
    code = "not_an_event"


class NameTaken(BusError, ValueError):
    code = "name_taken"


class UndecodableEvent(BusError):
    """`stored` is the event as it is stored. To try again does not help."""

    code = "undecodable_event"

    def __init__(self, stored: Event, problem: str) -> None:
        self.stored = stored
        super().__init__(f"position {stored.position}, {stored.type}: {problem}")
