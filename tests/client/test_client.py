"""Both clients against a live server: splitting, errors, consumers, and that no key gets out."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from ebus.client import (
    AsyncClient,
    Client,
    Forbidden,
    HttpEngine,
    RateLimited,
    Retries,
    ServerUnreachable,
    Unauthorized,
    consuming,
)
from ebus.client.problems import Answer, error_of
from ebus.core.engine import open_engine
from ebus.core.errors import (
    CheckpointConflict,
    EbusError,
    EngineError,
    EventTooLarge,
    IdConflict,
    InvalidBatch,
    InvalidCheckpoint,
    InvalidEvent,
    InvalidFilter,
    InvalidInput,
    InvalidLease,
    InvalidRange,
    LeaseLost,
    MatchConflict,
    PositionConflict,
    QuotaExceeded,
    StoreClosed,
    StoreError,
    VersionConflict,
)
from ebus.core.event import Event, NewEvent, decode_event
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import Expectation, NoneAfter, StreamInfo, WirePage
from ebus.testing.events import new_event, numbered
from tests.client.conftest import Connect, FreshTenant, configured
from tests.client.proxy import Proxy, Way
from tests.live_server import LiveServer, serving

SECRET = "a-secret-that-nobody-sees-" + "z" * 20


def event(number: int = 1, **more: Any) -> NewEvent:
    return NewEvent.of("OrderPlaced", {"number": number}, **more)


# Appending


@pytest.mark.parametrize("limits", [Limits(), Limits(max_page_bytes=300)])
def test_a_page_comes_as_the_bytes_that_were_sent(
    connect: Connect, tenant: FreshTenant, limits: Limits
) -> None:
    client = connect(tenant.url, tenant.key, limits=limits)
    events = numbered(9)
    client.append([new_event(b'{\n"a" : 1e999}', metadata=Raw(b'{"a":"\\u0041"}')), *events])
    for backwards in (False, True):
        wire = client.read_wire(2, 8, limit=5, backwards=backwards)
        page = client.read(2, 8, limit=5, backwards=backwards)
        decoded = [decode_event(chunk) for chunk in wire.chunks]
        assert [bytes(it.data) for it in decoded] == [bytes(it.data) for it in page.events]
        assert [it.position for it in decoded] == [it.position for it in page.events]
        assert (wire.count, wire.next) == (len(page.events), page.next)
        assert wire.first_position == page.events[0].position
    [first] = client.read_wire(1, 1).chunks
    assert b'"data":{\n"a" : 1e999}' in first
    assert b'"metadata":{"a":"\\u0041"}' in first
    assert client.read_wire(11) == WirePage([], 0, 0, None)


def test_events_without_an_id_get_one(direct: Any) -> None:
    direct.append([event(1), event(2, id="mine")])
    first, second = [one.id for one in direct.read(1).events]
    assert len(first) == 32
    assert second == "mine"


def test_many_events_are_split_at_the_number_of_a_batch(
    connect: Connect, proxy: Proxy, tenant: FreshTenant
) -> None:
    client = connect(proxy.url, tenant.key, limits=Limits(max_batch_events=4))
    done = client.append_many(event(number) for number in range(10))
    assert (done.events, done.duplicates) == (10, 0)
    assert (done.first_position, done.last_position) == (1, 10)
    assert len(proxy.requests) == 3
    assert [one.value()["number"] for one in client.stream()] == list(range(10))
    again = client.append_many([event(number, id=str(number)) for number in range(4)] * 2)
    assert (again.events, again.duplicates) == (8, 4)
    assert client.append_many([]).events == 0


def test_many_events_are_split_at_the_bytes_of_a_request(
    connect: Connect, proxy: Proxy, tenant: FreshTenant
) -> None:
    client = connect(proxy.url, tenant.key)
    big = NewEvent.of("Big", "x" * 1_000_000)
    assert client.append_many([big] * 20).events == 20
    assert len(proxy.requests) == 2
    with pytest.raises(InvalidBatch, match="append_many"):
        client.append([big] * 20)


def test_many_events_are_never_held_all(
    connect: Connect, proxy: Proxy, tenant: FreshTenant
) -> None:
    client = connect(proxy.url, tenant.key, limits=Limits(max_batch_events=2))
    ahead: list[int] = []

    def counted() -> Iterator[NewEvent]:
        for number in range(20):
            ahead.append(number - 2 * len(proxy.requests))
            yield event(number)

    client.append_many(counted())
    assert max(ahead) <= 2


def test_an_event_that_is_none_is_named_by_its_place_among_all(
    connect: Connect, tenant: FreshTenant
) -> None:
    client = connect(tenant.url, tenant.key, limits=Limits(max_batch_events=2))
    with pytest.raises(InvalidEvent) as error:
        client.append_many([event(), event(), event(), NewEvent.of("", 1)])
    assert (error.value.index, error.value.field) == (3, "type")
    assert client.head() == 2
    # The server finds it, in the second request.
    lax = connect(tenant.url, tenant.key, limits=Limits(max_batch_events=2, max_type_chars=999))
    with pytest.raises(InvalidEvent, match="has 300 characters") as error:
        lax.append_many([event(), event(), event(), NewEvent.of("x" * 300, 1)])
    assert (error.value.index, error.value.field) == (3, "type")


def test_an_async_client_takes_events_as_they_come(tenant: FreshTenant) -> None:
    async def main() -> int:
        async def events() -> AsyncIterator[NewEvent]:
            for number in range(5):
                await asyncio.sleep(0)
                yield event(number)

        async with AsyncClient(tenant.url, tenant.key) as client:
            done = await client.append_many(events())
            await asyncio.gather(*(client.append(event()) for _ in range(20)))
            return done.events + await client.head()

    assert asyncio.run(main()) == 5 + 25


def test_an_async_tail_ends_with_its_client(tenant: FreshTenant) -> None:
    async def main() -> None:
        client = AsyncClient(tenant.url, tenant.key)
        await client.append(event())
        tail = client.tail(0)
        assert (await anext(tail)).position == 1
        asyncio.get_running_loop().call_later(
            0.05, lambda: closing.append(asyncio.ensure_future(client.close()))
        )
        with pytest.raises(StoreClosed):
            await anext(tail)
        await closing[0]

    closing: list[Any] = []
    asyncio.run(main())


# Reading


def test_every_read_says_what_is_there(direct: Any) -> None:
    direct.append([event(number, stream=f"order-{number % 2}") for number in range(1, 6)])
    page = direct.read(2, limit=2)
    assert ([one.position for one in page.events], page.next) == ([2, 3], 4)
    back = direct.read(1, backwards=True, limit=2)
    assert ([one.position for one in back.events], back.next) == ([5, 4], 3)
    assert (direct.head(), direct.count(), direct.wait(5, 1.0)) == (5, 5, 5)
    assert direct.streams() == [StreamInfo("order-0", 2), StreamInfo("order-1", 3)]
    assert direct.streams("order", after="order-0") == [StreamInfo("order-1", 3)]
    assert [direct.stream_version(name) for name in ("order-1", "order-", "no")] == [3, 0, 0]
    assert direct.metrics().total_events == 5
    direct.check_health()


def test_a_filter_may_hold_any_text(direct: Any) -> None:
    direct.append([event(stream="\ufffd"), event(stream="ö&+% \U0001f600")])
    for stream in ("\ufffd", "ö&+% \U0001f600"):
        assert [one.stream for one in direct.read(1, filter=Filter(stream=stream)).events] == [
            stream
        ]


def test_checkpoints_are_saved_and_forgotten(direct: Any) -> None:
    assert direct.checkpoint("mailer") is None
    direct.save_checkpoint("mailer", 0)
    assert direct.checkpoint("mailer") == 0
    direct.save_checkpoint("mailer", 7, expected=0)
    with pytest.raises(CheckpointConflict) as conflict:
        direct.save_checkpoint("mailer", 8, expected=0)
    assert conflict.value.current == 7
    assert direct.subscription("mailer").position == 7
    assert direct.checkpoints() == {"mailer": 7}
    with pytest.raises(CheckpointConflict) as conflict:
        direct.delete_checkpoint("mailer", expected=6)
    assert conflict.value.current == 7
    assert [direct.delete_checkpoint("mailer") for _ in range(2)] == [True, False]
    with pytest.raises(InvalidCheckpoint):
        direct.save_checkpoint("größe", 1)


# Errors


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (InvalidBatch, lambda it: it.append([])),
        (InvalidEvent, lambda it: it.append(NewEvent.of("", 1))),
        (EventTooLarge, lambda it: it.append(NewEvent.of("x", "x" * 2**20))),
        (IdConflict, lambda it: it.append([event(1), event(2, id="taken")])),
        (VersionConflict, lambda it: it.append(event(), expect=Expectation(versions={"s": 5}))),
        (PositionConflict, lambda it: it.append(event(), expect=Expectation(position=9))),
        (
            MatchConflict,
            lambda it: it.append(
                event(),
                expect=Expectation(none_after=NoneAfter(0, (Filter(types=("OrderPlaced",)),))),
            ),
        ),
        (InvalidRange, lambda it: it.read(-1)),
        (InvalidFilter, lambda it: it.read(1, filter=Filter(from_version=1))),
        (InvalidCheckpoint, lambda it: it.save_checkpoint("", 1)),
        (InvalidLease, lambda it: it.lease("mailer", max_events=0)),
        (LeaseLost, lambda it: it.acknowledge("mailer", "none")),
        (LeaseLost, lambda it: it.acknowledge("mailer", "../x")),
    ],
)
def test_errors_are_those_of_a_store(
    direct: Any, error: type[EbusError], call: Callable[[Any], object]
) -> None:
    direct.append(event(1, id="taken", stream="s"))
    with pytest.raises(error) as raised:
        call(direct)
    assert type(raised.value) is error
    if isinstance(raised.value, IdConflict):
        assert (raised.value.current, raised.value.index) == (1, 1)
    if isinstance(raised.value, (VersionConflict, PositionConflict, MatchConflict)):
        assert raised.value.current == 1


def test_a_message_is_without_the_place_that_its_error_has(direct: Any) -> None:
    direct.append(event(1, id="taken", stream="s"))
    messages = []
    for expect in (None, Expectation(position=1)):  # an array and an object
        with pytest.raises(IdConflict) as raised:
            direct.append([event(1), event(2, id="taken")], expect=expect)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "$" not in messages[0]


@pytest.mark.parametrize("place", ["$", "$[3]", "$.data", "$[3].data", "$.events[3].data"])
def test_only_the_place_is_taken_from_a_message(place: str) -> None:
    problem = {"code": "invalid_event", "detail": f"{place}: has $.x: 1", "index": 3}
    error = error_of(Answer(400, {}, msgspec.json.encode(problem)))
    assert isinstance(error, InvalidEvent)
    assert (error.problem, error.index) == ("has $.x: 1", 3)


def test_what_may_pass_is_the_store_that_cannot_now_and_the_way_to_it() -> None:
    def below(kind: type[EbusError]) -> set[type[EbusError]]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    of_ours = {kind for kind in below(EbusError) if kind.__module__.startswith("ebus.")}
    passing = {kind for kind in of_ours if kind.is_passing}
    of_the_way: set[type[EbusError]] = {ServerUnreachable, RateLimited}
    assert passing == (below(StoreError) - {StoreClosed}) | of_the_way


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose tenants may do little."""
    directory = configured(
        tmp_path_factory.mktemp("strict"),
        tenants=[
            {
                "name": "reports",
                "api_keys": [{"name": "r", "api_key": "r" * 40, "scope": "read"}],
            },
            {"name": "small", "api_key": "s" * 40, "limits": {"max_stored_events": 2}},
            *(
                {
                    "name": name,
                    "api_key": name * 8 + "x" * 16,
                    "limits": {"max_events_per_second": 1},
                }
                for name in ("sync", "async")
            ),
            *(
                {
                    "name": f"rare-{name}",
                    "api_key": f"rare-{name}-{'x' * 32}",
                    "limits": {"max_requests_per_second": 1},
                }
                for name in ("sync", "async")
            ),
        ],
    )
    with serving(["--config", "tenants.yaml"], cwd=directory) as server:
        yield server


def test_what_a_key_may_not_do_is_told(kind: str, connect: Connect, strict: LiveServer) -> None:
    with pytest.raises(Unauthorized):
        connect(strict.url, SECRET).head()
    reader = connect(strict.url, "r" * 40)
    assert reader.head() == 0
    with pytest.raises(Forbidden):
        reader.append(event())
    small = connect(strict.url, "s" * 40)
    with pytest.raises(QuotaExceeded):
        small.append([event()] * 3)
    slow = connect(strict.url, kind * 8 + "x" * 16, retries=Retries(attempts=1))
    slow.append([event()] * 10)  # a batch is let in whole
    with pytest.raises(RateLimited) as error:
        slow.append(event())
    assert error.value.retry_after_s >= 1


# Consumers


def test_a_lease_comes_with_its_events(direct: Any) -> None:
    direct.append([event(number) for number in range(3)])
    leased = direct.lease_events("mailer", max_events=2)
    assert [one.position for one in leased.events] == [1, 2]
    longer = direct.extend_lease("mailer", leased.lease.id, 60)
    assert longer.expires_at_ms > leased.lease.expires_at_ms
    direct.acknowledge("mailer", leased.lease.id, 1)
    direct.release("mailer", leased.lease.id, failed=False)
    assert direct.checkpoint("mailer") == 1
    assert direct.lease("mailer").first_position == 2
    assert direct.lease("other", wait_s=0.05) is not None
    assert direct.lease("other", wait_s=0.05) is None


def handler(kind: str, handle: Callable[[Event], None]) -> Callable[[Event], Any]:
    if kind == "sync":
        return handle

    async def handled(event: Event) -> None:
        await asyncio.sleep(0)
        handle(event)

    return handled


def test_what_a_handler_fails_at_is_parked_and_the_rest_is_done(
    kind: str, direct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    direct.append([event(number) for number in range(1, 6)])
    seen: list[int] = []

    def handle(event: Event) -> None:
        seen.append(event.position)
        if event.position == 3:
            raise ValueError("no 3")

    handled = direct.consume("mailer", handler(kind, handle), max_attempts=2, wait_s=0)
    assert handled == 4
    assert sorted(seen) == [1, 2, 3, 3, 4, 5]
    subscription = direct.subscription("mailer")
    assert subscription.position == 5
    [parked] = subscription.parked
    assert (parked.first_position, parked.attempts) == (3, 2)
    assert parked.reason == "ValueError: no 3"
    assert direct.redeliver_parked("mailer", 3)
    assert direct.consume("mailer", handler(kind, lambda event: None), wait_s=0) == 1
    assert not direct.drop_parked("mailer", 3)
    assert "failed at 3" in caplog.text


def test_a_consumer_that_is_stopped_gives_the_rest_back(kind: str, direct: Any) -> None:
    direct.append([event(number) for number in range(1, 6)])
    seen: list[int] = []
    handle = handler(kind, lambda event: seen.append(event.position))
    assert direct.consume("mailer", handle, stop=lambda: len(seen) == 2) == 2
    assert direct.consume("mailer", handle, wait_s=0) == 3
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("error", [ValueError("not now"), LeaseLost("somebody else's")])
def test_a_consumer_whose_stop_raises_gives_the_rest_back_uncharged(
    kind: str, direct: Any, error: Exception
) -> None:
    direct.append([event(number) for number in range(1, 4)])
    seen: list[int] = []

    def stop() -> bool:
        if len(seen) == 1:
            raise error
        return False

    handle = handler(kind, lambda event: seen.append(event.position))
    with pytest.raises(type(error)) as raised:
        direct.consume("mailer", handle, stop=stop)
    assert raised.value is error
    assert direct.checkpoint("mailer") == 1
    again = direct.lease("mailer")
    assert (again.first_position, again.attempt) == (2, 1)


def test_a_lease_that_a_handler_lost_elsewhere_is_the_handlers_failure(
    kind: str, direct: Any
) -> None:
    direct.append(event())

    def handle(event: Event) -> None:
        raise LeaseLost("of another subscription")

    assert direct.consume("mailer", handler(kind, handle), max_attempts=1, wait_s=0) == 0
    [parked] = direct.subscription("mailer").parked
    assert parked.reason == "LeaseLost: of another subscription"


def test_why_a_handler_failed_is_made_fit_to_be_sent(
    kind: str, direct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ebus.client")  # pytest cannot pass such a line on
    direct.append(event())

    def handle(event: Event) -> None:
        raise ValueError("bad file\n caf\udce9" + "x" * 999)

    direct.consume("mailer", handler(kind, handle), max_attempts=1, wait_s=0)
    [parked] = direct.subscription("mailer").parked
    assert parked.reason.startswith("ValueError: bad file caf?xxx")
    assert len(parked.reason) == 255


def test_a_handler_of_an_async_client_need_not_be_async(tenant: FreshTenant) -> None:
    seen: list[int] = []

    async def main() -> int:
        async with AsyncClient(tenant.url, tenant.key) as client:
            await client.append([event(1), event(2)])
            return await client.consume("mailer", lambda it: seen.append(it.position), wait_s=0)

    assert asyncio.run(main()) == 2
    assert seen == [1, 2]


def test_an_async_handler_is_refused_where_nothing_would_await_it(tenant: FreshTenant) -> None:
    async def handle(event: Event) -> None: ...

    with Client(tenant.url, tenant.key) as client:
        client.append(event())
        with pytest.raises(TypeError, match="AsyncClient"):
            client.consume("mailer", handle, wait_s=0)
        assert client.subscription("mailer") is None


@pytest.mark.parametrize("way", ["drop", "lose", "overloaded", "unavailable", "stopping"])
def test_a_consumer_goes_on_when_the_server_is_back(
    kind: str, connect: Connect, proxy: Proxy, tenant: FreshTenant, way: Way
) -> None:
    client = connect(proxy.url, tenant.key, retries=Retries(attempts=1, first_pause_s=0.01))
    client.append(event())
    seen: list[int] = []
    proxy.ways.extend([way, way])
    handle = handler(kind, lambda event: seen.append(event.position))
    # What was leased for an answer that got lost comes back when that time is over.
    consume: Callable[..., int] = partial(client.consume, "mailer", handle, seconds=0.2)
    assert consume(stop=lambda: bool(seen)) == 1
    proxy.ways.append(way)
    with pytest.raises(EbusError):
        consume(wait_s=0)


def test_a_consumer_with_nothing_to_wait_for_asks_again_after_a_lease_that_ran_out(
    kind: str, client: Any, proxy: Proxy
) -> None:
    client.append(event())
    proxy.ways.append("expired")
    assert client.consume("mailer", handler(kind, lambda event: None), wait_s=0) == 1


class Clock:
    """In the place of `time`: it goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(consuming, "time", clock)
    return clock


def test_what_is_handled_is_finished_when_its_lease_cannot_be_extended(
    kind: str, connect: Connect, proxy: Proxy, tenant: FreshTenant, clock: Clock
) -> None:
    client = connect(proxy.url, tenant.key, retries=Retries(attempts=1, first_pause_s=0.01))
    client.append([event(number) for number in range(1, 4)])
    seen: list[int] = []

    def handle(event: Event) -> None:
        seen.append(event.position)
        if event.position == 2:
            clock.now_s += 1
            proxy.ways.append("unavailable")

    handled = client.consume(
        "mailer", handler(kind, handle), seconds=1, stop=lambda: seen[-1:] == [3]
    )
    assert (handled, seen) == (3, [1, 2, 3])
    assert client.checkpoint("mailer") == 3
    assert sum("/extend" in it for it in proxy.requests) == 1


def test_a_lease_that_is_lost_between_two_events_is_left_alone(
    kind: str, client: Any, proxy: Proxy, tenant: FreshTenant, clock: Clock
) -> None:
    client.append([event(number) for number in range(1, 4)])

    def handle(event: Event) -> None:
        clock.now_s += 20
        with Client(tenant.url, tenant.key) as operator:
            operator.save_checkpoint("mailer", 3)

    assert client.consume("mailer", handler(kind, handle), wait_s=0) == 1
    assert not any("/release" in it for it in proxy.requests)


def test_a_consumer_over_its_rate_waits(kind: str, connect: Connect, strict: LiveServer) -> None:
    client = connect(strict.url, f"rare-{kind}-{'x' * 32}", retries=Retries(attempts=1))
    client.append(event())
    seen: list[int] = []
    handle = handler(kind, lambda event: seen.append(event.position))
    assert client.consume("mailer", handle, stop=lambda: bool(seen)) == 1


def test_a_consumer_that_is_interrupted_gives_the_rest_back(tenant: FreshTenant) -> None:
    def interrupt(event: Event) -> None:
        if event.position == 2:
            raise KeyboardInterrupt

    with Client(tenant.url, tenant.key) as client:
        client.append([event(number) for number in range(1, 4)])
        with pytest.raises(KeyboardInterrupt):
            client.consume("mailer", interrupt)
        assert client.checkpoint("mailer") == 1
        again = client.lease("mailer")
        assert again is not None
        assert (again.first_position, again.attempt) == (2, 1)


# The key, and the address


def test_the_key_is_in_no_text(
    connect: Connect, tenant: FreshTenant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    for url in (tenant.url, "http://127.0.0.1:1", tenant.url + "/elsewhere"):
        client = connect(url, SECRET, retries=Retries(attempts=2, first_pause_s=0.001))
        shown += [repr(client), str(vars(client))]
        for call in (client.head, lambda client=client: next(client.tail(0))):
            if url == "http://127.0.0.1:1" and call != client.head:
                continue  # a tail waits for its server
            with pytest.raises(EbusError) as error:
                call()
            shown += [*traceback.format_exception(error.value), repr(error.value)]
    for bad in (SECRET + "\n", SECRET + " x", SECRET + "ö"):
        with pytest.raises(InvalidInput) as refusal:
            Client(tenant.url, bad)
        shown.append(str(refusal.value))
    for address in (
        f"http:{SECRET}@host",
        f"http://{SECRET}",
        f"http://{SECRET}@",
        f"http://{SECRET}@host:{SECRET}",
        f"http://{SECRET}@[host",
        f"http://{SECRET}%0A@host",
    ):
        with pytest.raises(InvalidInput) as refusal:
            open_engine(address)
        shown += traceback.format_exception_only(refusal.value)
    with pytest.raises(InvalidInput) as refusal:
        Client(f"http://{SECRET}@host", SECRET)
    shown.append(str(refusal.value))
    with open_engine(f"http://{SECRET}@127.0.0.1:1") as engine:
        shown += [repr(engine)]
    assert SECRET not in "".join(shown)
    assert SECRET not in caplog.text
    assert "127.0.0.1" in caplog.text


def test_an_engine_opens_the_tenant_of_its_key_and_no_other(tenant: FreshTenant) -> None:
    address = tenant.url.replace("://", f"://{tenant.key.replace('k', '%6B', 1)}@")
    with open_engine(address) as engine:
        assert isinstance(engine, HttpEngine)
        assert engine.tenants() == [tenant.name]
        engine.check_health()
        store = engine.open(tenant.name)
        store.append([event()])
        assert [one.id for one in store.read(1).events] == [None]
        assert engine.open(tenant.name) is store
        with pytest.raises(EngineError, match=f"the key opens the tenant '{tenant.name}'"):
            engine.open("somebody-else")
        with pytest.raises(EngineError, match="dropped"):
            engine.drop(tenant.name)
    with pytest.raises(StoreClosed):
        engine.open(tenant.name)


def test_an_engine_of_a_single_tenant_opens_it_by_any_name(tmp_path: Path) -> None:
    environment = {"API_KEY": "k" * 40, "TENANTS_CONFIG": ""}
    with serving([], cwd=tmp_path, environment=environment) as server:
        with open_engine(server.url.replace("://", f"://{'k' * 40}@")) as engine:
            engine.open("any").append([event()])
            assert engine.open("other").head() == 1
            assert engine.tenants() == ["any", "other"]


@pytest.mark.parametrize(
    "url", ["", "host:8080", "ftp://host", "http://", "http://host:port", "http://host/?a=b"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        Client(url, "k" * 40)


def test_a_client_under_a_path_asks_there(connect: Connect, tenant: FreshTenant) -> None:
    with pytest.raises(EbusError):
        connect(f"{tenant.url}/path/", tenant.key).head()


def test_a_pool_that_is_used_up_is_told(tenant: FreshTenant) -> None:
    client = Client(tenant.url, tenant.key, max_connections=1, retries=Retries(attempts=1))
    patient = client._server
    with client:
        client.append(event())
        tail = client.tail(0)
        next(tail)
        client._server = msgspec.structs.replace(patient, timeout_s=0.05)  # it will not be free
        with pytest.raises(ServerUnreachable, match="max_connections"):
            client.head()
        client._server = patient  # what the server does takes as long as it takes
        tail.close()
        assert client.head() == 1
