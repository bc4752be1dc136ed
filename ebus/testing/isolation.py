"""Isolation: what is done to one tenant changes nothing that can be seen of another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebus.core.engine import Engine
from ebus.core.errors import InvalidEvent
from ebus.core.store import Append, SupportsTrim
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import NEW_TENANT, Observation, observe, read_through, stored
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import Suite

NAMES = ["a", "a-", "ab", "A_b", "a-wal", "events", "main"]
"""Neighbours whose names begin alike or mean something to a database.

None differs from another by case alone: some file systems do not tell those apart.
"""


def fill(engine: Engine) -> None:
    """Give each tenant events and checkpoints that are its own, at equal positions and names."""
    for place_in_list, name in enumerate(NAMES):
        store = engine.open(name)
        store.append([new_event(b'"%b %d"' % (name.encode(), number)) for number in range(5)])
        store.append(numbered(place_in_list + 1))
        store.save_checkpoint("mailer", place_in_list)
        store.save_checkpoint(name, 7)


def append(engine: Engine, name: str) -> None:
    engine.open(name).append(numbered(3))


def append_many(engine: Engine, name: str) -> None:
    engine.open(name).commit([Append(numbered(2)), Append([]), Append(numbered(300))])


def append_in_vain(engine: Engine, name: str) -> None:
    with pytest.raises(InvalidEvent):
        engine.open(name).append([*numbered(2), new_event(b"{")])


def save_checkpoints(engine: Engine, name: str) -> None:
    store = engine.open(name)
    for checkpoint in ("mailer", name, "new", *NAMES):
        store.save_checkpoint(checkpoint, 99)


def delete_checkpoints(engine: Engine, name: str) -> None:
    store = engine.open(name)
    for checkpoint in ("mailer", name, "new", *NAMES):
        store.delete_checkpoint(checkpoint)


def trim(engine: Engine, name: str) -> None:
    store = engine.open(name)
    if not isinstance(store, SupportsTrim):
        pytest.skip("SupportsTrim is not among the powers of this engine")
    store.trim(3)
    store.trim(store.head())


def close(engine: Engine, name: str) -> None:
    engine.open(name).close()


def drop(engine: Engine, name: str) -> None:
    engine.drop(name)


def recreate(engine: Engine, name: str) -> None:
    engine.drop(name)
    engine.open(name).append(numbered(2))


def read(engine: Engine, name: str) -> None:
    store = engine.open(name)
    read_through(store, limit=2)
    read_through(store, 3, 4)


ACTIONS = [
    append,
    append_many,
    append_in_vain,
    save_checkpoints,
    delete_checkpoints,
    trim,
    close,
    drop,
    recreate,
    read,
]


def observe_all_but(place: Place, engine: Engine, name: str) -> dict[str, Observation]:
    return {
        other: observe(place, other, engine.open(other))
        for other in engine.tenants()
        if other != name
    }


class Isolation(Suite):
    @pytest.mark.parametrize("name", NAMES, ids=str)
    @pytest.mark.parametrize("act", ACTIONS, ids=lambda act: act.__name__)
    def test_what_is_done_to_one_tenant_changes_nothing_of_another(
        self, place: Place, act: Callable[[Engine, str], None], name: str
    ) -> None:
        with place.open() as engine:
            fill(engine)
            before = observe_all_but(place, engine, name)
            assert len(before) == len(NAMES) - 1
            act(engine, name)
            assert observe_all_but(place, engine, name) == before
        with place.open() as engine:
            assert observe_all_but(place, engine, name) == before

    def test_every_tenant_counts_from_1(self, engine: Engine) -> None:
        for size, name in enumerate(NAMES, 1):
            assert engine.open(name).append(numbered(size)).first_position == 1
        for size, name in enumerate(NAMES, 1):
            assert read_through(engine.open(name)) == stored(numbered(size))

    def test_a_tenant_that_is_opened_late_is_empty(self, place: Place, engine: Engine) -> None:
        fill(engine)
        for name in ("a--", "b", "aa", "event"):
            store = engine.open(name)
            assert observe(place, name, store) == NEW_TENANT

    def test_events_of_racing_tenants_do_not_mix(self, engine: Engine) -> None:
        names = NAMES[:4]

        def write(name: str) -> None:
            store = engine.open(name)
            for number in range(20):
                store.append([new_event(b'"%b %d"' % (name.encode(), number))])
                store.save_checkpoint(name, number)

        race(*(lambda name=name: write(name) for name in names))
        for name in names:
            store = engine.open(name)
            events = [new_event(b'"%b %d"' % (name.encode(), number)) for number in range(20)]
            assert read_through(store) == stored(events)
            assert store.checkpoints() == {name: 19}
