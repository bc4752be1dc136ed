"""Publishing: who is called, in which order, with what, and what an error does."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus import Event, NewEvent, TenantStore
from ebus.bus import (
    BusClosed,
    EventBus,
    Failure,
    NeedsApublish,
    NeedsStore,
    NotAnEvent,
)
from ebus.core.errors import IdConflict, InvalidEvent, StoreClosed, VersionConflict
from ebus.core.store import Appended, Expectation
from tests.bus.orders import Counted, OrderEvent, Placed, Shipped


def _append(called: list[str], name: str, _: object) -> None:
    called.append(name)


def test_handlers_of_the_class_are_called_in_the_order_in_which_they_subscribed() -> None:
    called: list[str] = []
    bus = EventBus()
    for name in "abc":
        bus.subscribe(Placed, partial(_append, called, name))
    bus.subscribe(Shipped, lambda _: called.append("never"))
    bus.publish(Placed("1"))
    assert called == ["a", "b", "c"]


def test_a_base_class_and_object_see_what_is_below() -> None:
    seen: list[tuple[str, object]] = []
    bus = EventBus()
    bus.subscribe(OrderEvent, lambda it: seen.append(("order", it)))
    bus.subscribe(object, lambda it: seen.append(("any", it)))
    bus.publish(Placed("1"))
    bus.publish(Counted(1))
    assert seen == [("order", Placed("1")), ("any", Placed("1")), ("any", Counted(1))]


def test_the_decorator_gives_the_handler_back() -> None:
    bus, seen = EventBus(), list[Placed]()

    @bus.subscribe(Placed)
    def handler(placed: Placed) -> None:
        seen.append(placed)

    bus.publish(Placed("1"))
    handler(Placed("2"))
    assert seen == [Placed("1"), Placed("2")]


def test_a_cancelled_handler_is_called_no_more() -> None:
    bus, seen = EventBus(), list[Placed]()
    subscription = bus.subscribe(Placed, seen.append)
    bus.publish(Placed("1"))
    assert subscription.cancel()
    assert not subscription.cancel()
    bus.publish(Placed("2"))
    assert seen == [Placed("1")]


@given(st.lists(st.integers()), st.integers())
def test_a_filter_chooses(numbers: list[int], least: int) -> None:
    bus, seen = EventBus(), list[int]()
    bus.subscribe(Counted, lambda it: seen.append(it.number), where=lambda it: it.number >= least)
    for number in numbers:
        bus.publish(Counted(number))
    assert seen == [number for number in numbers if number >= least]


def test_one_that_fails_keeps_no_other_from_being_called() -> None:
    failures, seen = list[Failure](), list[Placed]()
    bus = EventBus(on_error=failures.append)

    def fail(_: Placed) -> None:
        raise RuntimeError("no")

    bus.subscribe(Placed, fail)
    bus.subscribe(Placed, seen.append, where=lambda _: 1 // 0 == 1)
    bus.subscribe(Placed, seen.append)
    bus.publish(Placed("1"))
    assert seen == [Placed("1")]
    assert [type(it.error) for it in failures] == [RuntimeError, ZeroDivisionError]
    assert failures[0].handler is fail
    assert failures[0].event == Placed("1")


def test_errors_are_logged_if_nobody_asks_for_them(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus()
    bus.subscribe(Placed, lambda _: 1 // 0)
    with caplog.at_level(logging.ERROR):
        bus.publish(Placed("1"))
    assert "handling by" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_on_error_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(_: Failure) -> None:
        raise RuntimeError("nor this")

    bus, seen = EventBus(on_error=on_error), list[Placed]()
    bus.subscribe(Placed, lambda _: 1 // 0)
    bus.subscribe(Placed, seen.append)
    bus.publish(Placed("1"))
    assert seen == [Placed("1")]
    assert "nor this" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_once_is_once_however_many_threads_publish() -> None:
    bus, seen = EventBus(), list[int]()
    bus.subscribe(Counted, lambda it: seen.append(it.number), where=lambda it: it.number % 2 == 1)
    once = list[int]()
    bus.subscribe(
        Counted, lambda it: once.append(it.number), where=lambda it: it.number % 2 == 1, once=True
    )
    gate = threading.Barrier(8)

    def publish(number: int) -> None:
        gate.wait()
        for _ in range(50):
            bus.publish(Counted(number))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 200
    assert len(once) == 1
    assert once[0] % 2 == 1


def test_a_handler_may_publish_subscribe_and_cancel(memory_store: TenantStore) -> None:
    bus, seen = EventBus(memory_store), list[object]()

    def ship(placed: Placed) -> None:
        bus.subscribe(Shipped, seen.append)
        bus.publish(Shipped(placed.order))
        subscription.cancel()

    subscription = bus.subscribe(Placed, ship)
    bus.publish(Placed("1"))
    bus.publish(Placed("2"))
    assert seen == [Shipped("1")]


def test_async_handlers_run_to_their_end_in_a_sync_program() -> None:
    loops, seen = set[asyncio.AbstractEventLoop](), list[Placed]()
    with EventBus() as bus:

        @bus.subscribe(Placed)
        async def handler(placed: Placed) -> None:
            await asyncio.sleep(0)
            loops.add(asyncio.get_running_loop())
            seen.append(placed)

        bus.publish(Placed("1"))
        assert seen == [Placed("1")]
        bus.publish(Placed("2"))
    assert seen == [Placed("1"), Placed("2")]
    assert len(loops) == 1


def test_on_a_loop_everything_runs_on_the_loop(store: TenantStore) -> None:
    threads, seen = set[int](), list[object]()

    async def program() -> None:
        async with EventBus(store) as bus:

            @bus.subscribe(Placed)
            async def later(placed: Placed) -> None:
                await asyncio.sleep(0)
                seen.append(placed)
                threads.add(threading.get_ident())

            @bus.subscribe(Placed)
            def now(placed: Placed, stored: Event) -> None:
                seen.append(stored.position)
                threads.add(threading.get_ident())

            await bus.apublish(Placed("1"))
            assert await bus.areplay() == 1
            async with bus.follow() as follower:
                await bus.apublish(Placed("2"))
                assert await follower.await_for(2, 30)
            totals = bus.resumable("totals")
            totals.subscribe(Placed, later)
            totals.subscribe(Placed, now)
            assert await totals.acatch_up() == 2

    asyncio.run(program())
    once = [Placed("1"), 1]
    assert seen == [*once, *once, Placed("2"), 2, *once, Placed("2"), 2]
    assert threads == {threading.get_ident()}


def test_publish_on_a_loop_refuses_async_handlers_before_anything_is_stored(
    memory_store: TenantStore,
) -> None:
    async def handler(_: Placed) -> None:
        raise AssertionError

    async def program() -> None:
        bus = EventBus(memory_store)
        bus.subscribe(Placed, handler)
        bus.publish(Shipped("1"))
        with pytest.raises(NeedsApublish, match="apublish"):
            bus.publish(Placed("1"))

    asyncio.run(program())
    assert memory_store.head() == 1


def test_an_event_is_stored_before_it_is_handled(store: TenantStore) -> None:
    seen: list[tuple[Placed, Event]] = []
    bus = EventBus(store)

    @bus.subscribe(Placed)
    def handler(placed: Placed, stored: Event) -> None:
        assert store.head() == stored.position
        seen.append((placed, stored))

    returned = bus.publish(Placed("1", 5), stream="order-1", metadata={"causation": "x"})
    [stored] = store.read(1).events
    assert seen == [(Placed("1", 5), stored)]
    assert returned == stored
    assert (stored.type, stored.stream, stored.version) == ("order.placed", "order-1", 1)
    assert stored.metadata == {"causation": "x"}
    assert stored.value() == {"order": "1", "cents": 5}


def test_a_repeated_append_of_the_bus_is_handled_where_it_was_published(
    store: TenantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose first answer was lost asks again, and is told that the event is there."""
    append, seen = store.append, list[Placed]()

    def append_twice(events: Sequence[NewEvent], **more: Any) -> Appended:
        append(events, **more)
        return append(events, **more)

    monkeypatch.setattr(store, "append", append_twice)
    bus = EventBus(store)
    bus.subscribe(Placed, seen.append)
    bus.publish(Placed("1"))
    assert seen == [Placed("1")]
    bus.publish(Placed("2"), id="place-2")
    assert seen == [Placed("1")]  # of an id of the caller's own nobody knows who stored it


def test_an_id_is_stored_and_handled_once(store: TenantStore) -> None:
    bus, seen = EventBus(store), list[Placed]()
    bus.subscribe(Placed, seen.append)
    first = bus.publish(Placed("1"), id="place-1")
    assert bus.publish(Placed("1"), id="place-1") == first
    with pytest.raises(IdConflict):
        bus.publish(Placed("2"), id="place-1")
    assert seen == [Placed("1")]
    assert store.head() == 1


def test_what_cannot_be_appended_is_raised_and_not_handled(store: TenantStore) -> None:
    bus, seen = EventBus(store), list[object]()
    bus.subscribe(object, seen.append)
    with pytest.raises(NotAnEvent):
        bus.publish("text")
    with pytest.raises(NotAnEvent):
        bus.publish(NewEvent.of("a", 1))
    with pytest.raises(InvalidEvent):
        bus.publish(Placed("1"), stream="")
    with pytest.raises(VersionConflict):
        bus.publish(Placed("1"), stream="s", expect=Expectation(versions={"s": 3}))
    store.close()
    with pytest.raises(StoreClosed):
        bus.publish(Placed("1"))
    assert seen == []


def test_raw_handlers_see_the_stored_event(memory_store: TenantStore) -> None:
    bus, seen = EventBus(memory_store), list[Event]()
    bus.subscribe(Event, seen.append)
    bus.publish(Placed("1"))
    assert seen == memory_store.read(1).events


def test_hooks_come_before_and_after(memory_store: TenantStore) -> None:
    calls: list[object] = []
    failures: list[Failure] = []

    def before(event: object, metadata: dict[str, str]) -> None:
        if isinstance(event, Shipped):
            raise PermissionError("not now")
        metadata["correlation"] = "c1"
        calls.append("before")

    def after(event: object, stored: Event | None) -> None:
        assert stored is not None
        calls.append(("after", stored.metadata))
        raise RuntimeError("too late")

    bus = EventBus(
        memory_store, before_publish=before, after_publish=after, on_error=failures.append
    )
    bus.subscribe(object, calls.append)
    bus.publish(Placed("1"))
    with pytest.raises(PermissionError):
        bus.publish(Shipped("1"))
    assert calls == ["before", Placed("1"), ("after", {"correlation": "c1"})]
    assert [(it.doing, str(it.error)) for it in failures] == [("after_publish", "too late")]
    assert memory_store.head() == 1


def test_what_needs_a_store_says_so() -> None:
    bus = EventBus()
    with pytest.raises(NeedsStore):
        bus.replay()
    with pytest.raises(NeedsStore):
        bus.follow()
    with pytest.raises(NeedsStore):
        bus.resumable("name")
    with pytest.raises(NeedsStore):
        bus.subscribe(Event, print)

    def handler(_: Placed, stored: Event) -> None: ...

    with pytest.raises(NeedsStore):
        bus.subscribe(Placed, handler)


def test_without_a_store_an_event_is_any_object() -> None:
    class Clicked(ABC):  # noqa: B024
        pass

    bus, seen = EventBus(), list[Clicked]()
    bus.subscribe(Clicked, seen.append)
    assert bus.publish(Clicked()) is None
    assert len(seen) == 1


@pytest.mark.parametrize("way", ["close", "aclose"])
def test_an_async_handler_cannot_close_the_bus_whose_loop_it_runs_on(way: str) -> None:
    failures, published = list[Failure](), list[int]()
    with EventBus(on_error=failures.append) as bus:

        @bus.subscribe(Counted)
        async def handler(_: Counted) -> None:
            if way == "close":
                bus.close()
            else:
                await bus.aclose()

        bus.subscribe(Counted, lambda it: published.append(it.number))
        for number in range(2):
            bus.publish(Counted(number))
    assert published == [0, 1]
    assert ["cannot close" in str(it.error) for it in failures] == [True, True]


def test_a_closed_bus_refuses_and_leaves_the_store_open(memory_store: TenantStore) -> None:
    with EventBus(memory_store) as bus:
        bus.publish(Placed("1"))
    bus.close()
    with pytest.raises(BusClosed):
        bus.publish(Placed("1"))
    assert memory_store.head() == 1


def test_a_handler_of_three_is_refused() -> None:
    handler: Any = lambda a, b, c: None  # noqa: E731
    with pytest.raises(TypeError):
        EventBus().subscribe(Placed, handler)


def test_what_a_handler_need_not_be_given_it_is_not_given(memory_store: TenantStore) -> None:
    bus, seen = EventBus(memory_store), list[object]()
    handler: Any = lambda placed, name="closed over": seen.append((placed, name))  # noqa: E731
    bus.subscribe(Placed, handler)
    bus.publish(Placed("1"))
    assert seen == [(Placed("1"), "closed over")]
