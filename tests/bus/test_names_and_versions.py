"""Event classes: their three kinds, their names, and old versions of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus import Event, NewEvent, TenantStore, open_engine
from ebus.bus import EventBus, Failure, NameTaken, UndecodableEvent, event, upcast
from ebus.core.errors import InvalidEvent
from tests.bus.orders import OrderEvent, Placed, Returned, Shipped, Weighed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "published",
    [
        Placed("1", 5),
        Weighed("1", Decimal("0.10"), NOON),
        Returned(order="1", at=NOON, unitPrice=Decimal("0.10")),
    ],
    ids=["struct", "dataclass", "pydantic"],
)
def test_all_kinds_of_classes_come_back_as_they_were(published: object, store: TenantStore) -> None:
    bus, seen = EventBus(store), list[object]()
    bus.publish(published)
    bus.subscribe(type(published), seen.append)
    bus.replay()
    assert seen == [published]


def test_names_and_versions_are_what_is_stored(memory_store: TenantStore) -> None:
    @dataclass
    class Local:
        pass

    bus = EventBus(memory_store)
    bus.publish(Placed("1"))
    bus.publish(Returned(order="1", at=NOON, unitPrice=Decimal(1)))
    bus.publish(Weighed("1", Decimal(1), NOON))
    bus.publish(Local())
    events = memory_store.read(1).events
    assert [(it.type, it.metadata) for it in events] == [
        ("order.placed", None),
        ("order.returned", {"schema": "3"}),
        ("Weighed", None),
        ("Local", None),
    ]


def test_the_version_in_the_metadata_is_the_buss_own(memory_store: TenantStore) -> None:
    def add(event: object, metadata: dict[str, str]) -> None:
        metadata["schema"] = "orders-v2"

    for bus, metadata in (
        (EventBus(memory_store), {"schema": "orders-v2"}),
        (EventBus(memory_store, before_publish=add), None),
    ):
        with pytest.raises(InvalidEvent, match="schema") as raised:
            bus.publish(Placed("1"), metadata=metadata)
        assert raised.value.field == "metadata"
    assert memory_store.head() == 0


def test_a_name_is_not_inherited_and_means_one_class(memory_store: TenantStore) -> None:
    class Urgent(Placed, frozen=True):
        pass

    @event("order.placed")
    class Another(msgspec.Struct):
        pass

    bus = EventBus(memory_store, events=[Placed])
    bus.publish(Urgent("1"))
    assert memory_store.read(1).events[0].type == "Urgent"
    with pytest.raises(NameTaken):
        bus.subscribe(Another, print)
    with pytest.raises(NameTaken):
        bus.publish(Another())


def test_a_renamed_class_knows_its_former_name(memory_store: TenantStore) -> None:
    @event("customer.joined", formerly=("UserCreated",))
    class Joined(msgspec.Struct):
        name: str

    memory_store.append([NewEvent.of("UserCreated", {"name": "ann"})])
    bus, seen = EventBus(memory_store), list[Joined]()
    bus.subscribe(Joined, seen.append)
    bus.replay(types=[Joined])
    assert seen == [Joined("ann")]


def test_a_base_class_finds_its_named_subclasses_in_the_log(memory_store: TenantStore) -> None:
    memory_store.append(
        [
            NewEvent.of("order.shipped", {"order": "1"}),
            NewEvent.of("somebody else's", {}),
            NewEvent.of("order.placed", {"order": "2"}),
        ]
    )
    bus, seen = EventBus(memory_store), list[OrderEvent]()
    bus.subscribe(OrderEvent, seen.append)
    assert bus.replay() == 3
    assert seen == [Shipped("1"), Placed("2")]
    assert bus.replay(types=[OrderEvent]) == 2


def versioned(version: int) -> type:
    """A class whose data says which upcasts it went through."""

    @event("stepped", version=version)
    class Stepped(msgspec.Struct):
        steps: list[int]

    def step_from(number: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda data: {"steps": [*data["steps"], number]}

    for number in range(1, version):
        upcast(Stepped, from_version=number)(step_from(number))
    return Stepped


@given(st.integers(1, 6).flatmap(lambda to: st.tuples(st.integers(1, to), st.just(to))))
def test_upcasts_are_chained_from_the_stored_version_on(versions: tuple[int, int]) -> None:
    stored, known = versions
    with open_engine("memory:") as engine:
        store = engine.open("a")
        metadata = {"schema": str(stored)} if stored > 1 else None
        store.append([NewEvent.of("stepped", {"steps": []}, metadata=metadata)])
        bus, seen = EventBus(store), list[Any]()
        bus.subscribe(versioned(known), seen.append)
        bus.replay()
    assert [it.steps for it in seen] == [list(range(stored, known))]


@pytest.mark.parametrize(
    ("data", "schema", "problem"),
    [
        ({"steps": "text"}, "2", "Expected `array`"),
        ({"steps": []}, "3", "is of version 3, this program knows 2"),
        ({"steps": []}, "x", "invalid literal"),
        ({"steps": []}, "0", "no upcast from version 0"),
        ({}, "1", "'steps'"),
    ],
)
def test_what_cannot_be_decoded_is_told_and_passed_over(
    data: object, schema: str, problem: str, memory_store: TenantStore
) -> None:
    memory_store.append(
        [
            NewEvent.of("stepped", data, metadata={"schema": schema}),
            NewEvent.of("stepped", {"steps": [7]}, metadata={"schema": "2"}),
        ]
    )
    failures, seen, raw = list[Failure](), list[Any](), list[Event]()
    bus = EventBus(memory_store, on_error=failures.append)
    bus.subscribe(versioned(2), seen.append)
    bus.subscribe(Event, raw.append)
    bus.replay()
    [failure] = failures
    assert failure.doing == "decoding"
    assert isinstance(failure.error, UndecodableEvent)
    assert problem in str(failure.error)
    assert [it.steps for it in seen] == [[7]]
    assert [it.position for it in raw] == [1, 2]


def test_an_upcast_that_leads_nowhere_is_refused() -> None:
    stepped = versioned(2)
    with pytest.raises(ValueError, match="already"):
        upcast(stepped, from_version=1)
    with pytest.raises(ValueError, match="over 2"):
        upcast(stepped, from_version=2)
    with pytest.raises(ValueError, match="no @event"):
        upcast(Weighed, from_version=1)
    with pytest.raises(ValueError, match="version from 1"):
        event("a", version=0)
