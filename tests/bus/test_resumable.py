"""Resumable subscriptions: the checkpoint never passes what is not done."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebus import Event, NewEvent, TenantStore, open_engine
from ebus.bus import BusError, EventBus, Failure, NeedsApublish, UndecodableEvent, following
from ebus.core.errors import CheckpointConflict, StoreUnavailable, TooManyParked
from ebus.core.limits import Limits
from tests.bus.orders import Counted, OrderEvent, Placed, Shipped
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_BACKOFF_S", 0.001)


def append_numbers(store: TenantStore, *numbers: int) -> None:
    store.append([NewEvent.of("counted", {"number": it}) for it in numbers])


@contextmanager
def quiet_bus(store: TenantStore) -> Iterator[tuple[EventBus, list[Failure]]]:
    failures = list[Failure]()
    with EventBus(store, on_error=failures.append) as bus:
        yield bus, failures


def test_it_goes_on_where_it_stopped(store: TenantStore) -> None:
    seen = list[int]()
    append_numbers(store, 1, 2)
    for numbers in ([3], [], [4, 5]):
        with EventBus(store) as bus:
            resumable = bus.resumable("sum")
            resumable.subscribe(Counted, lambda it: seen.append(it.number))
            assert resumable.catch_up() == store.head() == store.checkpoint("sum")
        if numbers:
            append_numbers(store, *numbers)
    assert seen == [1, 2, 3]


def test_it_follows_and_saves_by_itself(store: TenantStore) -> None:
    seen = list[int]()
    append_numbers(store, 1)
    with EventBus(store) as bus:
        resumable = bus.resumable("sum", save_s=0.01)
        resumable.subscribe(Counted, lambda it: seen.append(it.number))
        with resumable.follow() as follower:
            bus.publish(Counted(2))
            bus.publish(Placed("not for it"))
            assert follower.wait_for(3, 30)
            until_s = time.monotonic() + 30
            while store.checkpoint("sum") != 3 and time.monotonic() < until_s:
                time.sleep(0.01)
            assert store.checkpoint("sum") == 3
            with pytest.raises(BusError, match="already"):
                resumable.catch_up()
    assert seen == [1, 2]


def test_it_saves_seldom(memory_store: TenantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = list[int]()
    save = memory_store.save_checkpoint

    def note(name: str, position: int, *, expected: int | None = None) -> None:
        saved.append(position)
        save(name, position, expected=expected)

    monkeypatch.setattr(memory_store, "save_checkpoint", note)
    append_numbers(memory_store, *range(95))
    with EventBus(memory_store) as bus:
        resumable = bus.resumable("sum", save_events=30, save_s=3600)
        resumable.subscribe(Counted, lambda _: None)
        resumable.catch_up()
    assert saved == [30, 60, 90, 95]


def test_it_begins_where_it_is_told_to(memory_store: TenantStore) -> None:
    append_numbers(memory_store, 1, 2, 3)
    seen = list[int]()
    with EventBus(memory_store) as bus:
        for _ in range(2):
            resumable = bus.resumable("sum", start=3)
            resumable.subscribe(Counted, lambda it: seen.append(it.number))
            resumable.catch_up()
    assert seen == [3]


def test_a_handler_that_fails_is_called_again_and_the_others_are_not(store: TenantStore) -> None:
    append_numbers(store, 1, 2)
    calls = list[str]()
    with quiet_bus(store) as (bus, failures):
        resumable = bus.resumable("sum")
        resumable.subscribe(Counted, lambda it: calls.append(f"first {it.number}"))

        @resumable.subscribe(Counted)
        def shaky(counted: Counted) -> None:
            calls.append(f"shaky {counted.number}")
            if len(calls) < 4:
                raise RuntimeError("not yet")

        assert resumable.catch_up() == 2
    assert calls == ["first 1", "shaky 1", "shaky 1", "shaky 1", "first 2", "shaky 2"]
    assert [str(it.error) for it in failures] == ["not yet", "not yet"]


def test_it_stops_before_what_fails(store: TenantStore) -> None:
    append_numbers(store, 1, 0, 2)
    with quiet_bus(store) as (bus, failures):
        resumable = bus.resumable("division", attempts=2)
        resumable.subscribe(Counted, lambda it: 1 // it.number)
        with pytest.raises(ZeroDivisionError) as raised:
            resumable.catch_up()
        assert raised.value.__notes__ == ["division stopped before position 2"]
        assert store.checkpoint("division") == 1
        follower = resumable.follow()
        with pytest.raises(ZeroDivisionError):
            follower.join(30)
        assert store.checkpoint("division") == 1
    assert len(failures) == 4


def test_an_error_of_a_store_that_a_handler_raises_is_the_handlers(
    memory_store: TenantStore,
) -> None:
    append_numbers(memory_store, 1)

    def handler(_: Counted) -> None:
        raise StoreUnavailable("another store")

    with quiet_bus(memory_store) as (bus, failures):
        resumable = bus.resumable("copy", attempts=2)
        resumable.subscribe(Counted, handler)
        with pytest.raises(StoreUnavailable):
            resumable.follow().join(30)
    assert [it.doing for it in failures] == ["handling", "handling"]


def test_it_parks_what_fails_if_it_is_to(store: TenantStore) -> None:
    append_numbers(store, 1, 0, 2, 0)
    seen = list[int]()
    with quiet_bus(store) as (bus, _):
        resumable = bus.resumable("division", attempts=2, on_failure="park")

        @resumable.subscribe(Counted)
        def divide(counted: Counted) -> None:
            seen.append(1 // (counted.number + len(repaired)))

        repaired = list[int]()
        assert resumable.catch_up() == 4 == store.checkpoint("division")
        assert seen == [1, 0]
        subscription = store.subscription("division")
        assert subscription is not None
        assert [(it.first_position, it.last_position, it.reason) for it in subscription.parked] == [
            (2, 2, "ZeroDivisionError: integer division or modulo by zero"),
            (4, 4, "ZeroDivisionError: integer division or modulo by zero"),
        ]
        assert resumable.retry_parked() == 0
        repaired.append(1)
        assert resumable.retry_parked() == 2
        subscription = store.subscription("division")
        assert subscription is not None
        assert subscription.parked == ()
        assert seen == [1, 0, 1, 1]
        append_numbers(store, 1)
        assert resumable.catch_up() == 5


def parked_in(store: TenantStore, name: str) -> list[int]:
    subscription = store.subscription(name)
    assert subscription is not None
    assert (subscription.leases, subscription.waiting) == ((), ())
    return sorted(it.first_position for it in subscription.parked)


def test_what_is_redelivered_is_parked_again_and_the_rest_goes_on(store: TenantStore) -> None:
    append_numbers(store, 0, 0, 1)
    with quiet_bus(store) as (bus, _):
        repaired = list[int]()
        resumable = bus.resumable("division", attempts=1, on_failure="park")
        resumable.subscribe(Counted, lambda it: 1 // (it.number + len(repaired)))
        assert resumable.catch_up() == 3
        assert store.redeliver_parked("division", 1)
        assert store.redeliver_parked("division", 2)  # waits as one range with the first
        append_numbers(store, 0, 1)
        assert resumable.catch_up() == 5 == store.checkpoint("division")
        assert parked_in(store, "division") == [1, 2, 4]
        repaired.append(1)
        assert resumable.retry_parked() == 3
        assert parked_in(store, "division") == []


def test_what_is_redelivered_is_retried(store: TenantStore) -> None:
    append_numbers(store, 0, 0)
    with quiet_bus(store) as (bus, _):
        resumable = bus.resumable("division", attempts=1, on_failure="park")
        subscription = resumable.subscribe(Counted, lambda it: 1 // it.number)
        assert resumable.catch_up() == 2
        assert store.redeliver_parked("division", 2)
        assert resumable.retry_parked() == 0
        assert parked_in(store, "division") == [1, 2]
        assert store.redeliver_parked("division", 1)
        subscription.cancel()
        assert resumable.retry_parked() == 2
        assert parked_in(store, "division") == []
        assert store.checkpoint("division") == 2


def test_with_too_much_parked_the_rest_is_retried_all_the_same() -> None:
    with open_engine("memory:", limits=Limits(max_parked=2)) as engine:
        store = engine.open("shop")
        append_numbers(store, 0, 0)
        with quiet_bus(store) as (bus, _):
            resumable = bus.resumable("division", attempts=1, on_failure="park")
            subscription = resumable.subscribe(Counted, lambda it: 1 // it.number)
            resumable.catch_up()
            assert store.redeliver_parked("division", 1)
            append_numbers(store, 0, 0)
            with pytest.raises(TooManyParked):
                resumable.catch_up()
            subscription.cancel()
            resumable.retry_parked()
            assert parked_in(store, "division") == []


def test_an_event_that_a_consumer_has_leased_is_not_parked(
    memory_store: TenantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_numbers(memory_store, 0, 1)
    lease = memory_store.lease
    taken = list[int]()

    def somebody_first(name: str, **wanted: Any) -> Any:
        if not taken:
            theirs = lease(name, max_events=1)
            assert theirs is not None
            taken.append(theirs.first_position)
        return lease(name, **wanted)

    monkeypatch.setattr(memory_store, "lease", somebody_first)
    with quiet_bus(memory_store) as (bus, _):
        resumable = bus.resumable("division", attempts=1, on_failure="park")
        resumable.subscribe(Counted, lambda it: 1 // it.number)
        with pytest.raises(BusError, match="position 1 is theirs"):
            resumable.catch_up()
    subscription = memory_store.subscription("division")
    assert subscription is not None
    assert [it.first_position for it in subscription.leases] == taken == [1]
    next_up = lease("division")
    assert next_up is not None
    assert (next_up.first_position, next_up.attempt) == (2, 1)


def test_what_cannot_be_decoded_stops_or_is_parked(store: TenantStore) -> None:
    store.append([NewEvent.of("counted", {"number": "x"}), NewEvent.of("counted", {"number": 1})])
    seen = list[Counted]()
    with quiet_bus(store) as (bus, failures):
        stopping = bus.resumable("stopping")
        stopping.subscribe(Counted, seen.append)
        with pytest.raises(UndecodableEvent):
            stopping.catch_up()
        assert not store.checkpoint("stopping")
        parking = bus.resumable("parking", on_failure="park")
        parking.subscribe(Counted, seen.append)
        assert parking.catch_up() == 2
    assert seen == [Counted(1)]
    assert [it.doing for it in failures] == ["decoding", "decoding"]


def test_a_second_process_of_the_same_name_is_noticed(store: TenantStore) -> None:
    append_numbers(store, 1, 2)
    with EventBus(store) as bus, EventBus(store) as other:
        first, second = bus.resumable("sum", save_events=1), other.resumable("sum")
        second.subscribe(Counted, lambda _: None)
        first.subscribe(Counted, lambda _: second.catch_up(), once=True)
        with pytest.raises(CheckpointConflict) as raised:
            first.catch_up()
        assert raised.value.current == 2 == store.checkpoint("sum")


def test_a_second_process_in_step_is_noticed_too(store: TenantStore) -> None:
    append_numbers(store, 1)
    with EventBus(store) as bus, EventBus(store) as other:
        first, second = bus.resumable("sum"), other.resumable("sum")
        second.subscribe(Counted, lambda _: None)
        first.subscribe(Counted, lambda _: second.catch_up())
        with pytest.raises(CheckpointConflict) as raised:
            first.catch_up()
        assert raised.value.current == 1 == first.store.checkpoint("sum")


class Shaky:
    """A store that fails once at a method, after or before it is done."""

    def __init__(self, store: TenantStore, method: str, *, is_done: bool) -> None:
        self._store = store
        self._method = method
        self._is_done = is_done

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name != self._method:
            return real

        def fail(*arguments: Any, **further: Any) -> None:
            self._method = ""
            if self._is_done:
                real(*arguments, **further)
            raise StoreUnavailable(f"{name} failed")

        return fail


def shaky(store: TenantStore, method: str, *, is_done: bool) -> Any:
    return Shaky(store, method, is_done=is_done)


@pytest.mark.parametrize("is_done", [True, False])
def test_a_save_that_fails_is_made_up_for(memory_store: TenantStore, is_done: bool) -> None:
    """Whether it was done or not: nobody else has saved."""
    append_numbers(memory_store, 1, 2, 3)
    seen = list[int]()
    with quiet_bus(shaky(memory_store, "save_checkpoint", is_done=is_done)) as (bus, failures):
        resumable = bus.resumable("sum", save_events=1)
        resumable.subscribe(Counted, lambda it: seen.append(it.number))
        with resumable.follow() as follower:
            assert follower.wait_for(3, 30)
    assert follower.failure is None
    assert seen == [1, 2, 3]
    assert memory_store.checkpoint("sum") == 3
    assert [(it.doing, str(it.error)) for it in failures] == [
        ("following", "save_checkpoint failed")
    ]


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("method", ["save_checkpoint", "lease", "release"])
def test_a_store_that_fails_meanwhile_has_no_handler_called_again(
    memory_store: TenantStore, method: str, is_done: bool
) -> None:
    append_numbers(memory_store, 1, 2, 3)
    calls = list[str]()
    with quiet_bus(shaky(memory_store, method, is_done=is_done)) as (bus, failures):
        resumable = bus.resumable("sum", attempts=2, on_failure="park")
        resumable.subscribe(Counted, lambda it: calls.append(f"first {it.number}"))

        @resumable.subscribe(Counted)
        def fails(counted: Counted) -> None:
            calls.append(f"fails {counted.number}")
            if counted.number == 2:
                raise RuntimeError("not 2")

        with resumable.follow() as follower:
            assert follower.wait_for(3, 30)
    assert calls == ["first 1", "fails 1", "first 2", "fails 2", "fails 2", "first 3", "fails 3"]
    assert [it.doing for it in failures].count("following") == 1
    subscription = memory_store.subscription("sum")
    assert subscription is not None
    assert [it.first_position for it in subscription.parked] == [2]
    assert (subscription.position, subscription.leases) == (3, ())


def test_with_too_much_parked_it_ends_and_goes_on_when_there_is_room() -> None:
    with open_engine("memory:", limits=Limits(max_parked=2)) as engine:
        store = engine.open("shop")
        append_numbers(store, 0, 0, 0, 1)
        with quiet_bus(store) as (bus, _):
            resumable = bus.resumable("division", attempts=1, on_failure="park")
            resumable.subscribe(Counted, lambda it: 1 // it.number)
            with pytest.raises(TooManyParked):
                resumable.follow().join(30)
            assert store.checkpoint("division") == 2
            assert store.drop_parked("division", 1)
            assert resumable.catch_up() == 4


@pytest.mark.parametrize("is_async", [False, True])
def test_once_is_for_a_success(store: TenantStore, is_async: bool) -> None:
    append_numbers(store, 1, 2, 3, 4)
    calls = list[int]()

    def handle(counted: Counted) -> None:
        calls.append(counted.number)
        if len(calls) < 4:
            raise RuntimeError("not yet")

    async def handle_async(counted: Counted) -> None:
        await asyncio.sleep(0)
        handle(counted)

    with quiet_bus(store) as (bus, _):
        resumable = bus.resumable("sum", attempts=2, on_failure="park")
        resumable.subscribe(Counted, handle_async if is_async else handle, once=True)
        resumable.subscribe(Counted, lambda _: None)
        assert resumable.catch_up() == 4
    assert calls == [1, 1, 2, 2]


@pytest.mark.parametrize("is_async", [False, True])
def test_once_is_for_one_thread_at_a_time(store: TenantStore, is_async: bool) -> None:
    """Of a follower, and of who retries meanwhile."""
    append_numbers(store, 1)
    calls = list[int]()
    is_called, may_end = threading.Event(), threading.Event()

    def handle(counted: Counted) -> None:
        calls.append(counted.number)
        if calls == [1]:
            raise RuntimeError("not yet")
        is_called.set()

    def handle_slowly(counted: Counted) -> None:
        handle(counted)
        assert may_end.wait(30)

    async def handle_async(counted: Counted) -> None:
        handle(counted)
        assert await asyncio.to_thread(may_end.wait, 30)

    with quiet_bus(store) as (bus, failures):
        resumable = bus.resumable("sum", attempts=1, on_failure="park")
        handler = handle_async if is_async else handle_slowly
        once = resumable.subscribe(Counted, handler, once=True)
        assert resumable.catch_up() == 1
        append_numbers(store, 2)
        with resumable.follow() as follower:
            assert is_called.wait(30)
            timer = threading.Timer(1, may_end.set)  # for who calls it twice
            timer.start()
            assert resumable.retry_parked() == 1
            may_end.set()
            timer.cancel()
            assert follower.wait_for(2, 30)
        assert calls == [1, 2]
        assert not once.cancel()
    assert len(failures) == 1


def test_why_a_handler_failed_is_made_fit_to_be_stored(store: TenantStore) -> None:
    append_numbers(store, 1)

    def handle(_: Counted) -> None:
        raise ValueError("bad file\n caf\udce9" + "x" * 999)

    with quiet_bus(store) as (bus, _):
        resumable = bus.resumable("sum", attempts=1, on_failure="park")
        resumable.subscribe(Counted, handle)
        assert resumable.catch_up() == 1
    subscription = store.subscription("sum")
    assert subscription is not None
    [parked] = subscription.parked
    assert parked.reason.startswith("ValueError: bad file caf?xxx")
    assert len(parked.reason) == 255


def test_raw_handlers_and_base_classes_resume_too(store: TenantStore) -> None:
    store.append([NewEvent.of("unknown", 1), NewEvent.of("order.shipped", {"order": "1"})])
    raw, orders = list[str](), list[OrderEvent]()
    with EventBus(store) as bus:
        bus.publish(Placed("2"))
        everything = bus.resumable("everything")
        everything.subscribe(Event, lambda it: raw.append(it.type))
        everything.catch_up()
        some = bus.resumable("some")
        some.subscribe(OrderEvent, orders.append)
        assert some.catch_up() == 3
    assert raw == ["unknown", "order.shipped", "order.placed"]
    assert orders == [Shipped("1"), Placed("2")]


def test_without_handlers_it_does_not_run_away(memory_store: TenantStore) -> None:
    with EventBus(memory_store) as bus:
        with pytest.raises(BusError, match="no handlers"):
            bus.resumable("sum").catch_up()
        with pytest.raises(ValueError, match="stop or park"):
            bus.resumable("sum", attempts=0)


def test_on_a_loop_it_is_awaited(memory_store: TenantStore) -> None:
    async def program() -> None:
        bus = EventBus(memory_store)
        with pytest.raises(NeedsApublish):
            bus.resumable("sum").catch_up()
        with pytest.raises(NeedsApublish):
            bus.resumable("sum").retry_parked()
        with pytest.raises(NeedsApublish):
            bus.replay()

    asyncio.run(program())


def test_what_is_parked_is_handled_on_the_loop_too(memory_store: TenantStore) -> None:
    append_numbers(memory_store, 1)
    seen = list[int]()

    async def program() -> None:
        with quiet_bus(memory_store) as (bus, _):
            resumable = bus.resumable("shaky", attempts=1, on_failure="park")

            @resumable.subscribe(Counted)
            async def shaky(counted: Counted) -> None:
                await asyncio.sleep(0)
                if not seen:
                    seen.append(0)
                    raise RuntimeError
                seen.append(counted.number)

            assert await resumable.acatch_up() == 1
            assert await resumable.aretry_parked() == 1

    asyncio.run(program())
    assert seen == [0, 1]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 8), st.integers(1, 3))
def test_every_event_is_handled_in_order_and_again_only_from_the_checkpoint_on(
    fails: list[int], save_events: int, attempts: int
) -> None:
    """Each event fails so many times; the program is started again until all are done."""
    with open_engine("memory:") as engine:
        store = engine.open("shop")
        if fails:
            append_numbers(store, *range(len(fails)))
        left = dict(enumerate(fails))
        done = list[int]()

        def handler(counted: Counted) -> None:
            assert (store.checkpoint("all") or 0) <= counted.number
            if left[counted.number]:
                left[counted.number] -= 1
                raise RuntimeError
            done.append(counted.number)

        for _ in range(sum(fails) + 1):
            with EventBus(store, on_error=lambda _: None) as bus:
                resumable = bus.resumable("all", save_events=save_events, attempts=attempts)
                resumable.subscribe(Counted, handler)
                try:
                    resumable.catch_up()
                except RuntimeError:
                    assert (store.checkpoint("all") or 0) == len(done)
                else:
                    break
        assert done == list(range(len(fails)))


def test_after_a_kill_nothing_is_missing_and_little_is_done_again(tmp_path: Path) -> None:
    address, output = f"sqlite:{tmp_path / 'log'}", tmp_path / "notes.txt"
    count = 300
    with open_engine(address) as engine:
        store = engine.open("shop")
        append_numbers(store, *range(count))
        kills = 0
        for threshold in (60, 150, count):
            program = subprocess.Popen(
                [sys.executable, "-m", "tests.bus.programs", "resume", address, str(output)],
                cwd=ROOT,
            )
            until_s = time.monotonic() + 60
            while _last_position(output) < threshold and time.monotonic() < until_s:
                time.sleep(0.005)
            program.kill()
            program.wait(60)
            kills += 1
    positions = [int(line.split()[0]) for line in output.read_text().splitlines()]
    assert set(positions) == set(range(1, count + 1))
    # Each restart goes back to the checkpoint, at most so many events before the last.
    assert len(positions) <= count + kills * 8
    assert all(after <= before + 1 for before, after in pairwise(positions))


def _last_position(output: Path) -> int:
    lines = output.read_text().splitlines() if output.exists() else []
    return int(lines[-1].split()[0]) if lines else 0
