"""Following: several processes are one bus, and every event is handled once in each."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebus import Event, NewEvent, Page, TenantStore, open_engine
from ebus.bus import BusError, EventBus, Failure, Follower
from ebus.bus.following import backoff_s
from ebus.client import NO_RETRIES, Client, RateLimited, ServerUnreachable
from ebus.core.errors import EbusError, StoreDamaged, StoreUnavailable
from tests.bus.orders import Counted, Placed
from tests.client.conftest import configured, free_port, key_of
from tests.conftest import ROOT
from tests.live_server import serving


def noting(bus: EventBus) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []

    @bus.subscribe(Counted)
    def note(counted: Counted, stored: Event) -> None:
        seen.append((stored.position, counted.number))

    return seen


def test_what_others_append_is_handed_on(store: TenantStore) -> None:
    with EventBus(store) as one, EventBus(store) as other:
        before, seen, raw = noting(one), noting(other), list[str]()
        one.publish(Counted(0))
        other.subscribe(Event, lambda it: raw.append(it.type))
        with other.follow() as follower:
            one.publish(Counted(1))
            store.append([NewEvent.of("unknown", {}), NewEvent.of("counted", {"number": 2})])
            assert follower.wait_for(4, 30)
        assert seen == [(2, 1), (4, 2)]
        assert raw == ["counted", "unknown", "counted"]
        assert before == [(1, 0), (2, 1)]


def test_what_is_published_meanwhile_is_handled_once_and_from_the_log(store: TenantStore) -> None:
    with EventBus(store) as bus:
        seen, threads = noting(bus), set[str]()
        bus.subscribe(Counted, lambda _: threads.add(threading.current_thread().name))
        follower = bus.follow()
        for number in range(20):
            bus.publish(Counted(number))
        assert follower.wait_for(20, 30)
        assert threads == {"ebus-follow"}
        follower.stop()
        follower.stop()
        bus.publish(Counted(20))
        assert seen == [(number + 1, number) for number in range(21)]
        with bus.follow(follower.position + 2):
            pass


def test_each_event_is_handled_once_however_following_begins(store: TenantStore) -> None:
    """Threads publish before, while and after the bus begins to follow."""
    with EventBus(store) as bus:
        seen = noting(bus)
        under_way = threading.Barrier(5)

        def publish(begin: int) -> None:
            under_way.wait()
            for number in range(begin, begin + 50):
                bus.publish(Counted(number))

        threads = [threading.Thread(target=publish, args=(it * 50,)) for it in range(4)]
        for thread in threads:
            thread.start()
        under_way.wait()
        follower = bus.follow()
        for thread in threads:
            thread.join()
        assert follower.wait_for(200, 30)
        assert sorted(position for position, _ in seen) == list(range(1, 201))
        assert sorted(number for _, number in seen) == list(range(200))


def test_several_processes_are_one_bus(tmp_path: Path) -> None:
    """Each sees every event of all: in the log's order, without a gap, none twice."""
    address = f"sqlite:{tmp_path / 'log'}"
    with open_engine(address) as engine:
        store = engine.open("shop")
        programs = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bus.programs", "follow", address]
                + [str(it) for it in (tmp_path / f"{number}.txt", number * 100, 40, 80)],
                cwd=ROOT,
            )
            for number in range(2)
        ]
        assert [program.wait(90) for program in programs] == [0, 0]
        stored = [f"{it.position} {it.value()['number']}" for it in store.read(1).events]
    assert len(stored) == 80
    for number in range(2):
        assert (tmp_path / f"{number}.txt").read_text().splitlines() == stored


def test_a_bus_follows_its_log_once(memory_store: TenantStore) -> None:
    with EventBus(memory_store) as bus:
        with bus.follow():
            with pytest.raises(BusError, match="already"):
                bus.follow()
        with bus.follow():
            pass


def test_an_error_does_not_end_following(memory_store: TenantStore) -> None:
    failures = list[Failure]()
    with EventBus(memory_store, on_error=failures.append) as bus:
        bus.subscribe(Counted, lambda it: 1 // it.number)
        seen = noting(bus)
        with bus.follow() as follower:
            bus.publish(Counted(0))
            bus.publish(Counted(1))
            assert follower.wait_for(2, 30)
    assert seen == [(1, 0), (2, 1)]
    [failure] = failures
    assert isinstance(failure.error, ZeroDivisionError)
    assert failure.stored is not None
    assert failure.stored.position == 1


def test_a_handler_may_stop_it(memory_store: TenantStore) -> None:
    with EventBus(memory_store) as bus:
        follower = bus.follow()
        bus.subscribe(Counted, lambda _: follower.stop())
        seen = noting(bus)
        memory_store.append([NewEvent.of("counted", {"number": it}) for it in range(3)])
        assert follower.join(30)
        assert seen == [(1, 0)]
        assert follower.position == 1
        assert not follower.wait_for(2, 30)


class Failing:
    """A store that fails a few times when it is read."""

    def __init__(self, store: TenantStore, errors: list[EbusError]) -> None:
        self._store = store
        self._errors = errors

    def read(self, *arguments: Any, **further: Any) -> Page:
        if self._errors:
            raise self._errors.pop(0)
        return self._store.read(*arguments, **further)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def failing(store: TenantStore, *errors: EbusError) -> Any:
    return Failing(store, list(errors))


def test_a_store_that_cannot_now_is_asked_again(memory_store: TenantStore) -> None:
    failures = list[Failure]()
    shaky = failing(
        memory_store,
        StoreUnavailable("a"),
        ServerUnreachable("b", was_sent=True),
        RateLimited("c", retry_after_s=1),
    )
    with EventBus(shaky, on_error=failures.append) as bus:
        seen = noting(bus)
        with bus.follow() as follower:
            bus.publish(Counted(1))
            assert follower.wait_for(1, 30)
    assert seen == [(1, 1)]
    assert [(it.doing, str(it.error)) for it in failures] == [
        ("following", "a"),
        ("following", "b"),
        ("following", "c"),
    ]


def test_it_outlasts_a_restart_of_the_server(tmp_path: Path) -> None:
    port = free_port()
    configured(tmp_path, tenants=[{"name": "alice", "api_key": key_of(1)}])

    def server() -> Any:
        return serving(["--config", "tenants.yaml"], cwd=tmp_path, environment={"PORT": str(port)})

    failures, resumed = list[Failure](), list[int]()
    away = threading.Event()

    def report(failure: Failure) -> None:
        failures.append(failure)
        away.set()

    client = Client(f"http://127.0.0.1:{port}", key_of(1), retries=NO_RETRIES)
    with client, EventBus(client, on_error=report) as bus:
        seen = noting(bus)
        resumable = bus.resumable("sum", save_events=1)
        resumable.subscribe(Counted, lambda it: resumed.append(it.number))
        with server():
            followers = [bus.follow(), resumable.follow()]
            bus.publish(Counted(1))
            assert all(it.wait_for(1, 30) for it in followers)
        assert away.wait(30)
        with server():
            bus.publish(Counted(2))
            assert all(it.wait_for(2, 30) for it in followers)
            for follower in followers:
                follower.stop()
        assert [it.failure for it in followers] == [None, None]
    assert seen == [(1, 1), (2, 2)]
    assert resumed == [1, 2]
    assert {it.doing for it in failures} == {"following"}


def test_a_store_that_is_damaged_ends_it_and_publish_calls_the_handlers_again(
    memory_store: TenantStore,
) -> None:
    with EventBus(failing(memory_store, StoreDamaged("broken"))) as bus:
        seen = noting(bus)
        follower = bus.follow()
        bus.publish(Counted(1))
        with pytest.raises(StoreDamaged):
            follower.join(30)
        with pytest.raises(StoreDamaged):
            follower.wait_for(1, 30)
        assert not follower.is_running
        assert isinstance(follower.failure, StoreDamaged)
        bus.publish(Counted(2))
        assert seen == [(2, 2)]


def test_a_store_that_is_closed_ends_it(memory_store: TenantStore) -> None:
    bus = EventBus(memory_store)
    follower = bus.follow()
    memory_store.close()
    with pytest.raises(Exception, match="closed"):
        follower.join(30)
    bus.close()


def test_stop_does_not_wait_on_the_loop_that_it_needs(memory_store: TenantStore) -> None:
    async def program() -> None:
        async with EventBus(memory_store) as bus:
            follower = bus.follow()
            with pytest.raises(BusError, match="astop"):
                follower.stop()
            await follower.astop()
            follower.stop()

    asyncio.run(program())


def test_async_handlers_of_a_sync_program_are_followed_too(memory_store: TenantStore) -> None:
    seen = list[Placed]()
    with EventBus(memory_store) as bus:

        @bus.subscribe(Placed)
        async def handler(placed: Placed) -> None:
            await asyncio.sleep(0)
            seen.append(placed)

        with bus.follow() as follower:
            bus.publish(Placed("1"))
            assert follower.wait_for(1, 30)
    assert seen == [Placed("1")]


def test_the_pauses_double_up_to_half_a_minute() -> None:
    pauses: list[float] = [backoff_s(it) for it in (1, 2, 3, 9, 10, 10_000)]
    assert pauses == [0.1, 0.2, 0.4, 25.6, 30.0, 30.0]


def test_replay_reads_the_range_that_is_asked_for(store: TenantStore) -> None:
    with EventBus(store) as bus:
        for number in range(600):
            bus.publish(Counted(number))
        bus.publish(Placed("1"))
        seen, other = noting(bus), list[Counted]()
        to = bus.subscribe(Counted, other.append)
        assert bus.replay(599) == 3
        assert bus.replay(2, 2) == 1
        assert bus.replay(601, types=[Counted]) == 0
        assert [position for position, _ in seen] == [599, 600, 2]
        other.clear()
        counted: Callable[[], int] = lambda: bus.replay(to=to)  # noqa: E731
        assert counted() == 601
        assert [it.number for it in other] == list(range(600))
        assert len(seen) == 3


def test_it_ends_with_the_loop_on_which_its_handlers_run(memory_store: TenantStore) -> None:
    failures = list[Failure]()
    with EventBus(memory_store, on_error=failures.append) as bus:
        seen = noting(bus)

        async def program() -> Follower:
            return bus.follow()

        follower = asyncio.run(program())
        memory_store.append([NewEvent.of("counted", {"number": 1})])
        with pytest.raises(BusError, match="loop"):
            follower.join(30)
        bus.publish(Counted(2))
    assert seen == [(2, 2)]
    assert failures == []


def test_it_ends_when_the_loop_ends_under_a_handler(memory_store: TenantStore) -> None:
    """What the handler awaits never comes: the loop is closed without it."""
    loop = asyncio.new_event_loop()
    with EventBus(memory_store) as bus:
        started = threading.Event()

        async def program() -> Follower:
            return bus.follow()

        @bus.subscribe(Counted)
        async def handler(_: Counted) -> None:
            loop.call_soon(loop.stop)
            started.set()
            await asyncio.sleep(3600)

        follower = loop.run_until_complete(program())
        memory_store.append([NewEvent.of("counted", {"number": 1})])
        loop.run_forever()
        assert started.is_set()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        memory_store.append([NewEvent.of("counted", {"number": 2})])
        with pytest.raises(BusError, match="loop"):
            follower.join(30)
