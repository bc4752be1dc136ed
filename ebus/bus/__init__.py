"""An event bus for one process or for several: publish and subscribe by event class.

There are only a few things to know:

- an **event** is an instance of a msgspec Struct, a dataclass or a pydantic model; `@event` gives
  its class a stable name and a version, `@upcast` brings old versions up to date;
- a **bus** hands what is published to the handlers that subscribed: `EventBus()`;
- with a store of any engine, or of the client, events are appended before they are handled:
  `EventBus(store)`; what is stored can be handled once more by `replay`;
- `follow` hands on what other processes publish;
- a **resumable** subscription keeps a checkpoint, which moves only after success.
"""

from ebus.bus.bus import EventBus
from ebus.bus.errors import (
    BusClosed,
    BusError,
    NameTaken,
    NeedsApublish,
    NeedsStore,
    NotAnEvent,
    UndecodableEvent,
)
from ebus.bus.failures import Failure
from ebus.bus.following import Follower
from ebus.bus.naming import event, upcast
from ebus.bus.resumable import Resumable
from ebus.bus.subscriptions import Subscription

__all__ = [
    "BusClosed",
    "BusError",
    "EventBus",
    "Failure",
    "Follower",
    "NameTaken",
    "NeedsApublish",
    "NeedsStore",
    "NotAnEvent",
    "Resumable",
    "Subscription",
    "UndecodableEvent",
    "event",
    "upcast",
]
