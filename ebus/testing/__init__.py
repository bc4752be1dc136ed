"""The conformance suite that every engine passes, ours and other people's.

An engine's author supplies a place where engines keep tenants, with a raw look at what is
stored there, and one class for pytest to find:

    from ebus.testing import EngineConformance, Peeked

    class DirectoryPlace:
        def __init__(self, directory: Path) -> None:
            self.directory = directory

        def open(self, *, limits: Limits | None = None) -> Engine:
            return MyEngine(self.directory, limits=limits)

        def peek(self, name: str) -> Peeked:
            ...  # read the events and checkpoints without MyEngine

    class TestMyConformance(EngineConformance):
        powers = frozenset({SupportsTrim})

        def new_place(self, directory: Path) -> DirectoryPlace:
            return DirectoryPlace(directory)

It needs pytest and Hypothesis: `pip install 'ebus[testing]'`. Call `load_profile()` in
`conftest.py` and the environment's `EBUS_HYPOTHESIS` (quick, ci or long) says how long
Hypothesis looks for sequences of operations that go wrong.
"""

import pytest

# Before they are imported, so that a failing assert shows what differs.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "appending",
            "checkpoints",
            "consumers",
            "discarding",
            "durability",
            "expectations",
            "fidelity",
            "filters",
            "gaps",
            "ids",
            "isolation",
            "lifetime",
            "observation",
            "ordering",
            "putting_away",
            "quotas",
            "racing",
            "reading",
            "refusal",
            "stateful",
            "streams",
            "waiting",
            "watching",
        )
    )
)

from ebus.testing.conformance import EngineConformance  # noqa: E402
from ebus.testing.place import NOTHING_STORED, Peeked, Place  # noqa: E402
from ebus.testing.profiles import load_profile, register_profiles  # noqa: E402

__all__ = [
    "NOTHING_STORED",
    "EngineConformance",
    "Peeked",
    "Place",
    "load_profile",
    "register_profiles",
]
