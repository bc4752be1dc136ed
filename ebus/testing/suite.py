"""What every part of the suite starts from: the place, an engine on it, a tenant's store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from ebus.core.engine import Engine
from ebus.core.store import TenantStore
from ebus.testing.observation import check_place
from ebus.testing.place import Place

ALICE = "alice"
"""The tenant of the tests that need only one."""


class Suite(ABC):
    """The author's part: `new_place`, and what the engine can do beyond the protocol."""

    powers: ClassVar[frozenset[type]] = frozenset()
    """The optional protocols that the engine or its stores fulfil, such as `SupportsTrim`.

    A test that needs a power which is not named here is skipped, and a store that has other
    powers than these fails: a power that is lost by mistake does not take its tests with it.
    """

    shared: ClassVar[bool] = True
    """Whether several engines may be open on one place; if not, the second gets `StoreBusy`."""

    any_name: ClassVar[bool] = True
    """Whether a checkpoint may have any name; if not, one that a URL's path cannot hold unescaped
    gets `InvalidCheckpoint`."""

    @abstractmethod
    def new_place(self, directory: Path) -> Place:
        """A new, empty place. The directory is new and empty too, and need not be used."""
        ...

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Place]:
        """A new place. After the test, what is stored there must agree with what is said."""
        directory = tmp_path / "place"
        directory.mkdir()
        place = self.new_place(directory)
        yield place
        check_place(place)

    @pytest.fixture
    def engine(self, place: Place) -> Iterator[Engine]:
        with place.open() as engine:
            yield engine

    @pytest.fixture
    def store(self, engine: Engine) -> TenantStore:
        """The store of `ALICE`."""
        return engine.open(ALICE)

    @contextmanager
    def open_stores(self, place: Place, engines: int) -> Iterator[list[TenantStore]]:
        """A store of alice from each of so many engines on one place."""
        if engines > 1 and not self.shared:
            pytest.skip("this place has one engine at a time")
        with ExitStack() as stack:
            opened = [stack.enter_context(place.open()) for _ in range(engines)]
            yield [engine.open(ALICE) for engine in opened]
