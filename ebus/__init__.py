"""ebus: a multi-tenant event store.

There are only a few things to know:

- an **engine** keeps tenants: `open_engine("sqlite:data")`;
- a **tenant**'s store is its log: `engine.open("alice")`;
- an **event** is appended as `NewEvent` and read back as `Event`, which has a position;
- a **checkpoint** is a position that a consumer saved under a name.

Everything that goes wrong on purpose is an `EbusError`; `ebus.core.errors` draws the tree.
"""

from ebus.core.consumers import Lease, Subscription
from ebus.core.engine import Durability, Engine, engine_names, open_engine
from ebus.core.errors import EbusError
from ebus.core.event import Event, NewEvent
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import (
    Append,
    Appended,
    Expectation,
    NoneAfter,
    Page,
    Placed,
    StreamInfo,
    TenantStore,
)
from ebus.core.tenant import TenantName

__version__ = "0.1.0"

__all__ = [
    "Append",
    "Appended",
    "Durability",
    "EbusError",
    "Engine",
    "Event",
    "Expectation",
    "Filter",
    "Lease",
    "Limits",
    "NewEvent",
    "NoneAfter",
    "Page",
    "Placed",
    "StreamInfo",
    "Subscription",
    "TenantName",
    "TenantStore",
    "__version__",
    "engine_names",
    "open_engine",
]
