"""Who is let in, whether the tenant is open or has to be opened first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest

from ebus.config.api_key import digest_of
from ebus.http.answers import Answer
from ebus.http.bodies import FREE_BODY_BYTES
from ebus.http.credentials import digest_of_key
from ebus.http.endpoint import Call, Route
from ebus.http.exchange import Connection, Exchange
from ebus.http.figures import NOT_OK, OK
from ebus.http.operations import operation_number
from ebus.http.problems import Problem
from ebus.http.roster import Counters
from ebus.http.tenancy import Tenancy
from tests.http.test_reload_inside import ALICE, config_of
from tests.http.test_server_limits_inside import in_a_loop

KEY = "reads-only-key-1234567890123456789012345"


@in_a_loop
async def test_what_a_key_may_not_do_opens_nothing_and_keeps_nothing_open(tmp_path: Path) -> None:
    alice = {"name": "alice", "api_keys": [{"name": "reader", "api_key": KEY, "scope": "read"}]}
    config = config_of(tmp_path, alice)
    config = msgspec.structs.replace(
        config, limits=msgspec.structs.replace(config.limits, max_eager_tenants=0)
    )
    tenancy = Tenancy(config, Counters(config))
    await tenancy.start()
    engine = tenancy._open_engine()
    entry = tenancy.recognise(digest_of(KEY.encode()), (), None)

    def refused() -> None:
        with pytest.raises(Problem) as caught:
            tenancy.admit_at_once(entry, "POST", "/events")
        assert caught.value.code == "insufficient_scope"

    refused()
    assert tenancy.open_tenants == 0
    assert tenancy.admit_at_once(entry, "GET", "/events") is None
    for tenant in (await tenancy.admit(entry), tenancy.admit_at_once(entry, "GET", "/events")):
        assert tenant is not None
        assert (tenant.name, tenant.key) == (ALICE, entry.key)
        refused()
        tenancy.leave(tenant)
    refused()
    assert engine._places[ALICE].users == 0
    await tenancy.stop()


class Wire:
    """A connection whose client has what was written, and may leave."""

    flow = client = None

    def __init__(self) -> None:
        self.transport = self
        self.written = b""
        self.closed = False

    def key_digest(self, headers: Mapping[bytes, bytes]) -> bytes:
        return digest_of_key(headers.items())

    def default_fields(self) -> bytes:
        return b""

    def on_response_complete(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        self.written += data


def answers() -> Answer:
    return Answer(b"[]", events=1)


def fails() -> Answer:
    raise ZeroDivisionError


def is_refused() -> Answer:
    raise Problem(404, "not_found", "Nothing is there")


def is_cancelled() -> Answer:
    raise asyncio.CancelledError


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize(
    ("way", "status"), [(answers, 200), (fails, 500), (is_refused, 404), (is_cancelled, 503)]
)
@in_a_loop
async def test_however_a_request_ends_it_is_counted_once_and_keeps_nothing(
    tmp_path: Path, way: Callable[[], Answer], status: int, leaves: bool
) -> None:
    config = config_of(tmp_path, {"name": "alice", "api_key": KEY})
    tenancy = Tenancy(config, counters := Counters(config))
    await tenancy.start()
    place = tenancy._open_engine()._places[ALICE]
    wire = Wire()

    async def endpoint(_: Call) -> Answer:
        assert place.users == 1
        assert tenancy.bodies.held_bytes
        exchange.disconnected = leaves
        await asyncio.sleep(0)
        return way()

    route = Route("POST", "/events", endpoint, takes_body=True)
    headers = {b"x-api-key": KEY.encode()}
    exchange = Exchange(cast(Connection, wire), route, b"", headers)
    await exchange.run(tenancy, bytes(FREE_BODY_BYTES + 1))
    assert place.users == 0
    assert tenancy.bodies.held_bytes == 0
    assert wire.written.startswith(b"" if leaves else b"HTTP/1.1 %d " % status)
    assert exchange.response_complete
    tenancy.figures.publish()
    block = counters.figures.gather(0)[0, operation_number("POST", "/events")]
    counted = [sum(block[OK:NOT_OK]), sum(block[NOT_OK : 2 * NOT_OK])]
    assert counted == ([1, 0] if status == 200 else [0, 1])
    await tenancy.stop()
