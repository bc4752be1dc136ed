"""Checkpoints: where a subscription has got to; and leases of its competing consumers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from litestar import Request, delete, get, post, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET, UnsetType

from ebus.config import Config
from ebus.core import consumers
from ebus.core.consumers import Lease, Parked, Subscription, Waiting
from ebus.core.store import WirePage
from ebus.http.answers import Answer
from ebus.http.live import Live
from ebus.http.problems import Problem
from ebus.http.selection import Waiter, listed, listing_link
from ebus.http.tenant import Tenant, tenant_of
from ebus.http.wire import (
    Query,
    check_subscription_id,
    decode_body,
    decode_position,
    encode_position,
    expected_position,
    read_body,
)

T = TypeVar("T")

LIST = "/subscriptions"
ONE = "/subscriptions/{subscription_id:str}"
POSITION = f"{ONE}/position"
LEASE = f"{ONE}/lease"
HELD = f"{LEASE}/{{lease:str}}"
PARKED = f"{ONE}/parked/{{first_position:str}}"

_Any = Request[Any, Any, Any]


class Listed(msgspec.Struct, frozen=True):
    """A subscription, and how many positions it is behind the head."""

    id: str
    position: int
    lag: int


class Subscriptions(msgspec.Struct, frozen=True):
    """Subscriptions in the order of their ids."""

    subscriptions: list[Listed]
    head: int


class LeaseOut(msgspec.Struct, frozen=True):
    """Events that one consumer holds until `expires_at`."""

    lease: str
    first_position: int
    last_position: int
    attempt: int
    expires_at: str


class SubscriptionOut(msgspec.Struct, frozen=True):
    """A subscription: its checkpoint, and what its consumers hold or have failed at."""

    id: str
    position: int
    lag: int
    leases: list[LeaseOut]
    waiting: tuple[Waiting, ...]
    parked: tuple[Parked, ...]


class LeaseIn(msgspec.Struct, frozen=True):
    """What a consumer asks for."""

    max_events: int = 100
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


def subscription_routes(config: Config, live: Live) -> list[HTTPRouteHandler]:
    limits = config.limits

    def name_in(request: _Any) -> str:
        return check_subscription_id(
            request.path_params["subscription_id"], max_chars=limits.max_subscription_id_chars
        )

    async def body_of(request: _Any) -> bytes:
        return await read_body(
            request.scope,
            request.receive,
            max_body_bytes=limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )

    async def asked(request: _Any, kind: type[T]) -> T:
        return decode_body(await body_of(request) or b"{}", kind)

    async def change(request: _Any, wanted: consumers.Change) -> Any:
        return await tenant_of(request.scope).store.change_subscription(name_in(request), wanted)

    @get(LIST)
    async def list_subscriptions(request: _Any) -> ASGIApp:
        query = Query(request.scope["query_string"])
        prefix, after = query.text("prefix") or "", query.text("after") or ""
        limit = listed(query, limits)
        store = tenant_of(request.scope).store
        checkpoints = await store.checkpoints()
        head = await store.head()
        names = [name for name in checkpoints if name.startswith(prefix) and name > after]
        found = [
            Listed(name, checkpoints[name], max(0, head - checkpoints[name]))
            for name in names[:limit]
        ]
        headers = {}
        if len(names) > limit:
            headers["Link"] = listing_link(LIST, prefix, found[-1].id, limit)
        return Answer(msgspec.json.encode(Subscriptions(found, head)), headers=headers)

    @get(ONE)
    async def read_subscription(request: _Any) -> ASGIApp:
        name = name_in(request)
        store = tenant_of(request.scope).store
        found = await store.subscription(name)
        if found is None:
            raise _unknown()
        head = await store.head()
        out = SubscriptionOut(
            name,
            found.position,
            found.lag(head),
            [_lease_out(one) for one in found.leases],
            found.waiting,
            found.parked,
        )
        return Answer(msgspec.json.encode(out))

    @delete(ONE, status_code=200)
    async def delete_subscription(request: _Any) -> ASGIApp:
        if not await tenant_of(request.scope).store.delete_checkpoint(name_in(request)):
            raise _unknown()
        return Answer(status=204)

    @route(POSITION, http_method=[HttpMethod.POST, HttpMethod.PUT])
    async def save_checkpoint(request: _Any) -> ASGIApp:
        name = name_in(request)
        expected = expected_position(request.headers.get("if-match"))
        position = decode_position(await body_of(request))
        await tenant_of(request.scope).store.save_checkpoint(name, position, expected=expected)
        return Answer(status=204, headers={"ETag": f'"{position}"'})

    @get(POSITION)
    async def read_checkpoint(request: _Any) -> ASGIApp:
        position = await tenant_of(request.scope).store.checkpoint(name_in(request)) or 0
        return Answer(encode_position(position), headers={"ETag": f'"{position}"'})

    @post(LEASE, status_code=200)
    async def lease(request: _Any) -> ASGIApp:
        name = name_in(request)
        wait_s = Query(request.scope["query_string"]).seconds("wait", most=limits.max_wait_s)
        wanted = await asked(request, LeaseIn)
        tenant = tenant_of(request.scope)
        given = await _lease(live, tenant, name, wanted, wait_s or 0.0)
        if given is None:
            return Answer(status=204)
        store = tenant.store
        page = await store.read_wire(given.first_position, given.last_position)
        if page.next is not None:  # large events: the rest is for somebody else
            rest = consumers.cut(given.id, page.next - 1)
            given = await store.change_subscription(name, rest)
        return Answer(*_with_events(_lease_out(given), page))

    @post(f"{HELD}/ack", status_code=200)
    async def acknowledge(request: _Any) -> ASGIApp:
        wanted = await asked(request, AckIn)
        await change(request, consumers.acknowledge(request.path_params["lease"], wanted.position))
        return Answer(status=204)

    @post(f"{HELD}/extend", status_code=200)
    async def extend_lease(request: _Any) -> ASGIApp:
        wanted = await asked(request, ExtendIn)
        extension = consumers.extend(request.path_params["lease"], wanted.seconds)
        return Answer(msgspec.json.encode(_lease_out(await change(request, extension))))

    @post(f"{HELD}/release", status_code=200)
    async def release(request: _Any) -> ASGIApp:
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
    async def redeliver_parked(request: _Any) -> ASGIApp:
        if not await change(request, consumers.redeliver_parked(_parked_in(request))):
            raise _not_parked()
        return Answer(status=204)

    @delete(PARKED, status_code=200)
    async def drop_parked(request: _Any) -> ASGIApp:
        if not await change(request, consumers.drop_parked(_parked_in(request))):
            raise _not_parked()
        return Answer(status=204)

    return [
        list_subscriptions,
        read_subscription,
        delete_subscription,
        save_checkpoint,
        read_checkpoint,
        lease,
        acknowledge,
        extend_lease,
        release,
        redeliver_parked,
        drop_parked,
    ]


async def _lease(
    live: Live, tenant: Tenant, name: str, wanted: LeaseIn, wait_s: float
) -> Lease | None:
    """The next lease; None when there is nothing to do within this time."""
    store = tenant.store
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s

    async def ask() -> Lease | None:
        change = consumers.lease(
            max_events=wanted.max_events,
            seconds=wanted.seconds,
            max_attempts=wanted.max_attempts,
            limits=store.limits,
        )
        given: Lease | None = await store.change_subscription(name, change)
        return given

    given = await ask()
    if given is not None or not wait_s:
        return given
    waiter = Waiter(store)
    with live.waiting(tenant, waiter.end):
        while (left_s := until_s - loop.time()) > 0 and not waiter.ended:
            found = await store.subscription(name) or Subscription()
            due_ms = consumers.next_due_ms(found)
            due_s = left_s if due_ms is None else consumers.seconds_until(due_ms)
            await waiter.wait(max(found.position, found.frontier) + 1, min(left_s, due_s))
            given = await ask()
            if given is not None:
                return given
    return None


def _lease_out(lease: Lease) -> LeaseOut:
    expires_at = datetime.fromtimestamp(lease.expires_at_ms / 1_000, UTC)
    return LeaseOut(
        lease.id,
        lease.first_position,
        lease.last_position,
        lease.attempt,
        expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _with_events(out: LeaseOut, page: WirePage) -> tuple[bytes, ...]:
    return msgspec.json.encode(out)[:-1], b',"events":[', b",".join(page.chunks), b"]}"


def _parked_in(request: _Any) -> int:
    text = request.path_params["first_position"]
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise _not_parked()
    return int(text)


def _unknown() -> Problem:
    return Problem(404, "unknown_subscription", "There is no subscription of this id")


def _not_parked() -> Problem:
    return Problem(404, "not_parked", "Nothing is parked at this position")
