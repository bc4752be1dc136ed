"""What a client does when the way to its server fails: what is safe is done once more."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ebus.client import (
    NO_RETRIES,
    Client,
    ProtocolError,
    Retries,
    ServerUnreachable,
    retries,
)
from ebus.core.errors import (
    CheckpointConflict,
    InvalidLease,
    StoreClosed,
    StoreOverloaded,
    StoreUnavailable,
    VersionConflict,
)
from ebus.core.event import NewEvent
from ebus.core.filter import Filter
from ebus.core.store import Expectation
from tests.client.conftest import Connect, FreshTenant, configured, free_port, key_of
from tests.client.proxy import Proxy, Way
from tests.live_server import serving


def event(number: int = 1, **more: Any) -> NewEvent:
    return NewEvent.of("OrderPlaced", {"number": number}, **more)


@pytest.mark.parametrize("way", ["lose", "half", "drop", "overloaded", "unavailable", "gateway"])
def test_an_append_that_fails_once_is_stored_once(
    client: Any, direct: Any, proxy: Proxy, way: Way
) -> None:
    proxy.ways.append(way)
    appended = client.append([event(1), event(2)])
    assert (appended.first_position, appended.last_position) == (1, 2)
    assert appended.duplicates == (2 if way in ("lose", "half") else 0)
    assert [one.value() for one in direct.read(1).events] == [{"number": 1}, {"number": 2}]
    assert len(proxy.requests) == 2


def test_an_append_that_expects_something_is_answered_like_the_first_time(
    client: Any, proxy: Proxy
) -> None:
    expect = Expectation(versions={"order-1": 0})
    proxy.ways.append("lose")
    assert client.append(event(stream="order-1"), expect=expect).last_position == 1
    with pytest.raises(VersionConflict) as conflict:
        client.append(event(stream="order-1"), expect=expect)
    assert conflict.value.current == 1


def test_an_append_without_ids_is_not_sent_again_once_it_may_have_arrived(
    connect: Connect, proxy: Proxy, tenant: FreshTenant
) -> None:
    client = connect(proxy.url, tenant.key, assign_ids=False)
    proxy.ways.append("lose")
    with pytest.raises(ServerUnreachable) as error:
        client.append(event())
    assert error.value.was_sent
    assert len(proxy.requests) == 1
    assert client.head() == 1
    proxy.ways.append("unavailable")  # who knows what became of it
    with pytest.raises(StoreUnavailable):
        client.append(event())
    proxy.ways.append("overloaded")  # the server has not begun
    assert client.append(event()).first_position == 2
    assert client.append(event(id="mine")).first_position == 3
    proxy.ways.append("lose")
    assert client.append(event(id="mine")).first_position == 3


def test_a_lease_is_not_asked_for_again_once_it_may_have_been_given(
    client: Any, proxy: Proxy
) -> None:
    client.append(event())
    proxy.requests.clear()
    proxy.ways.append("lose")
    with pytest.raises(ServerUnreachable):
        client.lease("mailer")
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("way", ["lose", "half", "drop", "overloaded", "unavailable", "gateway"])
def test_what_changes_nothing_or_the_same_twice_is_repeated(
    client: Any, proxy: Proxy, way: Way
) -> None:
    client.append([event(1), event(2)])
    for call in (
        lambda: client.head() == 2,
        lambda: len(client.read(1).events) == 2,
        lambda: client.count() == 2,
        lambda: client.save_checkpoint("mailer", 1, expected=0) is None,
        lambda: client.checkpoint("mailer") == 1,
        lambda: client.checkpoints() == {"mailer": 1},
        lambda: client.delete_checkpoint("mailer") in (True, False),
        lambda: client.wait(1, 0.0) == 2,
    ):
        proxy.ways.append(way)
        assert call()
        assert not proxy.ways


@pytest.mark.parametrize("way", ["lose", "late"])
def test_what_was_acknowledged_though_nobody_said_so_is_acknowledged(
    client: Any, proxy: Proxy, way: Way
) -> None:
    client.append([event(1), event(2)])
    lease = client.lease("mailer")
    proxy.ways.append(way)
    client.acknowledge("mailer", lease.id, 1)
    assert client.checkpoint("mailer") == 1
    with pytest.raises(InvalidLease):  # nothing is in doubt
        client.acknowledge("mailer", lease.id, 1)


@pytest.mark.parametrize("way", ["lose", "late"])
def test_a_checkpoint_that_was_saved_though_nobody_said_so_is_no_conflict(
    client: Any, proxy: Proxy, way: Way
) -> None:
    proxy.ways.append(way)
    client.save_checkpoint("mailer", 3, expected=0)
    assert len(proxy.requests) == 2
    with pytest.raises(CheckpointConflict):  # somebody else was quicker, and is as far
        client.save_checkpoint("mailer", 3, expected=0)


def test_a_server_that_stops_has_not_closed_the_client(
    connect: Connect, proxy: Proxy, tenant: FreshTenant
) -> None:
    client = connect(proxy.url, tenant.key, retries=NO_RETRIES)
    proxy.ways.append("stopping")
    with pytest.raises(StoreUnavailable, match="stops"):
        client.head()
    assert client.head() == 0


def test_by_default_a_call_goes_on_for_as_long_as_a_server_takes_to_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(1_000):
        monkeypatch.setattr(retries, "_random", random.Random(seed))
        pauses = [Retries().pause_s(failures, None) for failures in range(1, Retries().attempts)]
        assert sum(pauses) > 10
    assert Retries().total_s == 30


def test_retry_after_is_waited_for(client: Any, proxy: Proxy) -> None:
    proxy.retry_after = "1"
    proxy.ways.append("overloaded")
    begun_s = time.monotonic()
    assert client.head() == 0
    assert 1 <= time.monotonic() - begun_s < 10


def test_attempts_and_time_are_bounded(connect: Connect, proxy: Proxy, tenant: FreshTenant) -> None:
    few = connect(proxy.url, tenant.key, retries=Retries(attempts=3, first_pause_s=0.01))
    proxy.ways.extend(["overloaded"] * 4)
    with pytest.raises(StoreOverloaded, match="too many"):
        few.head()
    assert len(proxy.requests) == 3
    proxy.ways.clear()
    proxy.retry_after = "3600"
    proxy.ways.append("overloaded")
    begun_s = time.monotonic()
    with pytest.raises(StoreOverloaded):
        few.head()
    assert time.monotonic() - begun_s < 10
    proxy.ways.append("drop")
    with pytest.raises(ServerUnreachable):
        connect(proxy.url, tenant.key, retries=NO_RETRIES).head()


def test_a_server_that_is_not_there_is_unreachable(connect: Connect) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerUnreachable, match=url) as error:
        connect(url, "k" * 40).append(event())
    assert not error.value.was_sent


def test_a_server_that_does_not_answer_is_not_waited_for_without_end(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = connect(url, "k" * 40, timeout_s=0.1, retries=NO_RETRIES)
        begun_s = time.monotonic()
        with pytest.raises(ServerUnreachable) as error:
            client.head()
        assert error.value.was_sent
        assert time.monotonic() - begun_s < 5


def test_what_is_no_ebus_is_told_so(client: Any, proxy: Proxy) -> None:
    proxy.ways.append("junk")
    with pytest.raises(ProtocolError):
        client.head()
    assert len(proxy.requests) == 1


def test_a_stream_goes_on_where_it_broke_off(client: Any, proxy: Proxy) -> None:
    client.append_many(event(number) for number in range(1, 2_501))
    proxy.ways.extend(["cut", "cut", "lose", "drop", "overloaded"])
    events = list(client.stream())
    assert [one.position for one in events] == list(range(1, 2_501))
    assert [one.value()["number"] for one in events] == list(range(1, 2_501))


def test_a_stream_gives_up_after_as_many_failures_in_a_row_as_a_call(
    client: Any, proxy: Proxy
) -> None:
    client.append(event())
    proxy.ways.extend(["pass", "drop", "drop", "drop", "drop", "drop"])
    with pytest.raises(ServerUnreachable):
        list(client.stream())
    assert [one.position for one in client.stream()] == [1]


@pytest.mark.parametrize("wanted", [None, Filter(types=("OrderPlaced",))])
@pytest.mark.parametrize("stop", [None, 9, 99])
def test_a_stream_that_ends_early_is_not_taken_for_whole(
    client: Any, direct: Any, proxy: Proxy, wanted: Filter | None, stop: int | None
) -> None:
    direct.append([event(number) for number in range(1, 11)])
    proxy.ways.extend(["pass", "short", "pass", "short"])
    events = list(client.stream(filter=wanted, stop=stop))
    assert [one.position for one in events] == list(range(1, min(stop or 10, 10) + 1))
    ways: list[Way] = ["empty", "pass"]
    proxy.ways.extend(["pass", *ways * 5])
    with pytest.raises(ServerUnreachable, match="before its last event"):
        list(client.stream(filter=wanted, stop=stop))


@pytest.mark.parametrize("is_cut", [False, True])
def test_what_a_stream_looks_through_behind_a_match_is_not_streamed_again(
    client: Any, direct: Any, proxy: Proxy, is_cut: bool
) -> None:
    """A page ends after 16 MiB without a match."""
    filler = NewEvent.of("Filler", "x" * (2**20 - 100))
    direct.append_many([event(1), *[filler] * 40, event(2), *[filler] * 40])
    if is_cut:
        proxy.ways.extend(["pass", "short"])
    events = list(client.stream(filter=Filter(types=("OrderPlaced",))))
    assert [one.position for one in events] == [1, 42]
    streams = [it for it in proxy.requests if "/events/stream?" in it]
    assert [it.partition("?")[2].partition("&")[0] for it in streams] == (
        ["from=1", "from=42"] if is_cut else ["from=1"]
    )
    assert len([it for it in proxy.requests if "/events?" in it]) == (6 if is_cut else 3)


def test_a_stream_ends_where_the_log_ended_at_first(direct: Any) -> None:
    direct.append([event(1), event(2)])
    positions = []
    for one in direct.stream():
        direct.append(event())
        positions.append(one.position)
    assert positions == [1, 2]
    assert list(direct.stream(99)) == []
    assert list(direct.stream(stop=0)) == []


def test_a_stream_takes_a_range_and_a_filter(direct: Any) -> None:
    direct.append([event(number, stream=f"s-{number % 2}") for number in range(1, 11)])
    assert [one.position for one in direct.stream(3, stop=5)] == [3, 4, 5]
    odd = direct.stream(filter=Filter(stream="s-1"))
    assert [one.position for one in odd] == [1, 3, 5, 7, 9]


def test_a_tail_goes_on_where_it_broke_off(client: Any, direct: Any, proxy: Proxy) -> None:
    direct.append([event(number) for number in range(1, 11)])
    proxy.ways.extend(["cut", "cut", "overloaded", "drop"])
    tail = client.tail(0)
    assert [next(tail).position for _ in range(10)] == list(range(1, 11))
    direct.append(event())
    assert next(tail).position == 11
    tail.close()


def test_a_tail_has_neither_gap_nor_repeat_when_the_server_is_restarted(
    connect: Connect, tmp_path: Path
) -> None:
    port = free_port()
    configured(tmp_path, tenants=[{"name": "alice", "api_key": key_of(1)}])

    def server() -> Any:
        return serving(["--config", "tenants.yaml"], cwd=tmp_path, environment={"PORT": str(port)})

    client = connect(f"http://127.0.0.1:{port}", key_of(1))
    positions: list[int] = []
    tail = None
    for number in range(3):
        with server(), Client(f"http://127.0.0.1:{port}", key_of(1)) as writer:
            if tail is None:
                writer.append(event())
                tail = client.tail(1)
            # While the tail is not connected, and while it is.
            writer.append([event() for _ in range(3)])
            positions += [next(tail).position for _ in range(3)]
            timer = threading.Timer(0.1, writer.append, [event()])
            timer.start()
            positions.append(next(tail).position)
            timer.join()
            if number == 1:
                writer.append([event() for _ in range(2)])  # nobody takes them before the stop
    assert tail is not None
    tail.close()
    assert positions == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_a_tail_without_a_position_begins_now(client: Any, tenant: FreshTenant) -> None:
    client.append([event(), event()])
    tail = client.tail()
    with Client(tenant.url, tenant.key) as writer:
        timer = threading.Timer(0.3, writer.append, [event()])
        timer.start()
        assert next(tail).position == 3
        timer.join()
    tail.close()


@pytest.mark.parametrize("closes", ["client", "tail"])
def test_a_tail_can_be_ended(tenant: FreshTenant, closes: str) -> None:
    with Client(tenant.url, tenant.key) as client:
        client.append(event())
        tail = client.tail(0)
        assert next(tail).position == 1
        if closes == "tail":
            tail.close()
            assert list(tail) == []
            return
        timer = threading.Timer(0.1, client.close)
        timer.start()
        begun_s = time.monotonic()
        with pytest.raises(StoreClosed):
            next(tail)
        assert time.monotonic() - begun_s < 10
        timer.join()
