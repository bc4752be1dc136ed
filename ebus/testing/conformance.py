"""The suite itself: every part of it in one class."""

from __future__ import annotations

from ebus.testing.appending import Appending
from ebus.testing.checkpoints import Checkpoints
from ebus.testing.consumers import Consumers
from ebus.testing.discarding import Discarding
from ebus.testing.durability import Durabilities
from ebus.testing.expectations import Expectations
from ebus.testing.fidelity import Fidelity
from ebus.testing.filters import Filters
from ebus.testing.gaps import Gaps
from ebus.testing.ids import Identity
from ebus.testing.isolation import Isolation
from ebus.testing.lifetime import Lifetime
from ebus.testing.ordering import Ordering
from ebus.testing.putting_away import PuttingAway
from ebus.testing.quotas import Quotas
from ebus.testing.reading import Reading
from ebus.testing.refusal import Refusal
from ebus.testing.stateful import AnySequence
from ebus.testing.streams import Streams
from ebus.testing.waiting import Waiting
from ebus.testing.watching import Watching


class EngineConformance(
    Appending,
    Reading,
    Checkpoints,
    Quotas,
    Durabilities,
    Fidelity,
    Refusal,
    Isolation,
    Ordering,
    Lifetime,
    PuttingAway,
    Discarding,
    Identity,
    Streams,
    Gaps,
    Expectations,
    Filters,
    Consumers,
    Waiting,
    Watching,
    AnySequence,
):
    """What every engine does. Inherit it in a class whose name begins with `Test`."""
