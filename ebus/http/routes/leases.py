"""Leases: events that competing consumers of a subscription hold for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from litestar import delete, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.core import consumers
from ebus.core.consumers import Lease
from ebus.core.errors import EbusError
from ebus.core.store import WirePage
from ebus.http.answers import Answer
from ebus.http.leaving import Leaving
from ebus.http.live import Live
from ebus.http.problems import Problem
from ebus.http.routes.subscriptions import ONE, AnyRequest, LeaseOut, lease_out
from ebus.http.subscription_watch import SubscriptionWatch
from ebus.http.tenant import Tenant, tenant_of
from ebus.http.wire import Query, check_subscription_id, decode_body, read_body

T = TypeVar("T")

LEASE = f"{ONE}/lease"
HELD = f"{LEASE}/{{lease:str}}"
PARKED = f"{ONE}/parked/{{first_position:str}}"

DEFAULT_LEASE_EVENTS = 100


class LeaseIn(msgspec.Struct, frozen=True):
    """What a consumer asks for."""

    max_events: int | None = None
    """By default 100, or the most there may be."""

    seconds: float = 30.0
    max_attempts: int = 5


class AckIn(msgspec.Struct, frozen=True):
    """Up to where a consumer has finished; without a position, all of its lease."""

    position: int | None = None


class ExtendIn(msgspec.Struct, frozen=True):
    """How long a lease is to last from now on."""

    seconds: float = 30.0


class ReleaseIn(msgspec.Struct, frozen=True):
    """Why a consumer lets go of its lease."""

    position: int | None = None
    failed: bool = True
    delay: float = 0.0
    reason: str = ""


def lease_routes(config: Config, live: Live) -> list[HTTPRouteHandler]:
    limits = config.limits

    def name_in(request: AnyRequest) -> str:
        return check_subscription_id(
            request.path_params["subscription_id"], max_chars=limits.max_subscription_id_chars
        )

    async def asked(request: AnyRequest, kind: type[T]) -> T:
        body = await read_body(
            request.scope,
            request.receive,
            max_body_bytes=limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )
        return decode_body(body or b"{}", kind)

    async def change(request: AnyRequest, wanted: consumers.Change) -> Any:
        return await tenant_of(request.scope).store.change_subscription(name_in(request), wanted)

    @post(LEASE, status_code=200)
    async def lease(request: AnyRequest) -> ASGIApp:
        name = name_in(request)
        wait_s = Query(request.scope["query_string"]).seconds("wait", most=limits.max_wait_s)
        wanted = await asked(request, LeaseIn)
        tenant = tenant_of(request.scope)
        leaving = Leaving(request.receive)
        try:
            given = await next_lease(
                live, tenant, name, wanted, wait_s or 0.0, when_left=leaving.when_left
            )
        finally:
            leaving.end()
        if given is None:
            return Answer(status=204)
        store = tenant.store
        try:
            page = await store.read_wire(given.first_position, given.last_position)
        except EbusError:  # nobody will work on them
            with suppress(EbusError):
                await store.change_subscription(name, consumers.release(given.id, failed=False))
            raise
        if page.next is not None:  # large events: the rest is for somebody else
            rest = consumers.cut(given.id, page.next - 1)
            given = await store.change_subscription(name, rest)
        request.scope["state"]["events"] = page.count
        return Answer(*_with_events(lease_out(given), page))

    @post(f"{HELD}/ack", status_code=200)
    async def acknowledge(request: AnyRequest) -> ASGIApp:
        wanted = await asked(request, AckIn)
        await change(request, consumers.acknowledge(request.path_params["lease"], wanted.position))
        return Answer(status=204)

    @post(f"{HELD}/extend", status_code=200)
    async def extend_lease(request: AnyRequest) -> ASGIApp:
        wanted = await asked(request, ExtendIn)
        extension = consumers.extend(request.path_params["lease"], wanted.seconds)
        return Answer(msgspec.json.encode(lease_out(await change(request, extension))))

    @post(f"{HELD}/release", status_code=200)
    async def release(request: AnyRequest) -> ASGIApp:
        wanted = await asked(request, ReleaseIn)
        end = consumers.release(
            request.path_params["lease"],
            wanted.position,
            failed=wanted.failed,
            delay_s=wanted.delay,
            reason=wanted.reason,
        )
        await change(request, end)
        return Answer(status=204)

    @post(f"{PARKED}/redeliver", status_code=200)
    async def redeliver_parked(request: AnyRequest) -> ASGIApp:
        if not await change(request, consumers.redeliver_parked(_parked_in(request))):
            raise _not_parked()
        return Answer(status=204)

    @delete(PARKED, status_code=200)
    async def drop_parked(request: AnyRequest) -> ASGIApp:
        if not await change(request, consumers.drop_parked(_parked_in(request))):
            raise _not_parked()
        return Answer(status=204)

    return [
        lease,
        acknowledge,
        extend_lease,
        release,
        redeliver_parked,
        drop_parked,
    ]


async def next_lease(
    live: Live,
    tenant: Tenant,
    name: str,
    wanted: LeaseIn,
    wait_s: float,
    *,
    when_left: Callable[[Callable[[], None]], None],
) -> Lease | None:
    """The next lease; None when there is nothing to do within this time, or its client left."""
    store = tenant.store
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    most = wanted.max_events
    if most is None:
        most = min(DEFAULT_LEASE_EVENTS, store.limits.max_read_events)

    def leasing() -> consumers.Change:
        return consumers.lease(
            max_events=most,
            seconds=wanted.seconds,
            max_attempts=wanted.max_attempts,
            limits=store.limits,
        )

    async def ask() -> Lease | None:
        given: Lease | None = await store.change_subscription(name, leasing())
        return given

    given = await ask()
    if given is not None or not wait_s:
        return given
    watch = SubscriptionWatch(store, name)
    when_left(watch.end)
    with live.waiting(tenant, watch.end), watch:
        while (left_s := until_s - loop.time()) > 0:
            looked_ms = consumers.now_ms()
            found = await watch.subscription()
            after, _ = leasing()(found, await store.head())
            if watch.has_ended:  # nobody would get it
                return None
            if after != found:
                given = await ask()
                if given is not None:
                    return given
                continue
            due_ms = consumers.next_due_ms(found, looked_ms)
            due_s = left_s if due_ms is None else consumers.seconds_until(due_ms)
            await watch.sleep(consumers.next_position(found, store.limits), min(left_s, due_s))
    return None


def _with_events(out: LeaseOut, page: WirePage) -> tuple[bytes, ...]:
    return msgspec.json.encode(out)[:-1], b',"events":[', b",".join(page.chunks), b"]}"


def _parked_in(request: AnyRequest) -> int:
    text = request.path_params["first_position"]
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise _not_parked()
    return int(text)


def _not_parked() -> Problem:
    return Problem(404, "not_parked", "Nothing is parked at this position")
