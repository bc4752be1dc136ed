"""Isolation: what is done to one tenant changes nothing that can be seen of another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebus.core.engine import Engine
from ebus.core.errors import InvalidEvent
from ebus.core.store import Append, Appended, SupportsTrim
from ebus.testing.events import new_event, numbered
from ebus.testing.observation import NEW_TENANT, Observation, observe, parsed, read_through, stored
from ebus.testing.place import Place
from ebus.testing.racing import race
from ebus.testing.suite import Suite

NAMES = ["a", "a-", "a_", "ab", "A_b", "a-wal", "events", "main"]
"""Neighbours whose names begin alike or mean something to a database.

None differs from another by case alone: some file systems do not tell those apart.
"""


def fill(engine: Engine, name: str) -> None:
    """Give a tenant events and checkpoints of its own, at the positions and names of others."""
    store = engine.open(name)
    store.append([new_event(b'"%b %d"' % (name.encode(), number)) for number in range(5)])
    store.append(numbered(1 + NAMES.index(name)))
    store.save_checkpoint("mailer", NAMES.index(name))
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


def observe_all(place: Place, engine: Engine) -> dict[str, Observation]:
    return {name: observe(place, name, engine.open(name)) for name in NAMES}


class Isolation(Suite):
    @pytest.mark.parametrize("act", ACTIONS, ids=lambda act: act.__name__)
    def test_what_is_done_to_one_tenant_changes_nothing_of_another(
        self, place: Place, act: Callable[[Engine, str], None]
    ) -> None:
        with place.open() as engine:
            for name in NAMES:
                fill(engine, name)
            before = observe_all(place, engine)
            for name in NAMES:
                act(engine, name)
                after = observe_all(place, engine)
                after[name] = before[name]
                assert after == before, f"{act.__name__} on {name!r} changed another tenant"
                engine.drop(name)
                fill(engine, name)
        with place.open() as engine:
            assert observe_all(place, engine) == before

    def test_every_tenant_counts_from_1(self, engine: Engine) -> None:
        for size, name in enumerate(NAMES, 1):
            assert engine.open(name).append(numbered(size)).first_position == 1
        for size, name in enumerate(NAMES, 1):
            assert read_through(engine.open(name)) == stored(numbered(size))

    def test_stores_that_are_open_side_by_side_do_not_mix(
        self, place: Place, engine: Engine
    ) -> None:
        stores = {name: engine.open(name) for name in NAMES}
        for number in range(3):
            for name, store in stores.items():
                event = new_event(b'"%b %d"' % (name.encode(), number))
                assert store.append([event]) == Appended(number + 1, number + 1)
                store.save_checkpoint(name, number)
        for name, store in stores.items():
            events = [new_event(b'"%b %d"' % (name.encode(), number)) for number in range(3)]
            seen = observe(place, name, store)
            assert (seen.events, seen.checkpoints) == (stored(events), [(name, 2)])
            assert parsed(seen.peeked.events) == stored(events)

    def test_a_tenant_that_is_opened_late_is_empty(self, place: Place, engine: Engine) -> None:
        for name in NAMES:
            fill(engine, name)
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
