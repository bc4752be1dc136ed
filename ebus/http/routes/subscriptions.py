"""Checkpoints: where a subscription has got to."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from litestar import Request, delete, get, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.core.consumers import Lease, Parked, Waiting
from ebus.http.answers import Answer
from ebus.http.problems import Problem
from ebus.http.selection import listed, listing_link
from ebus.http.tenant import tenant_of
from ebus.http.wire import (
    Query,
    check_subscription_id,
    decode_position,
    encode_position,
    expected_position,
    read_body,
)

LIST = "/subscriptions"
ONE = "/subscriptions/{subscription_id:str}"
POSITION = f"{ONE}/position"

AnyRequest = Request[Any, Any, Any]


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
    max_attempts: int
    expires_at: str


class SubscriptionOut(msgspec.Struct, frozen=True):
    """A subscription: its checkpoint, and what its consumers hold or have failed at."""

    id: str
    position: int
    lag: int
    frontier: int
    leases: list[LeaseOut]
    waiting: tuple[Waiting, ...]
    parked: tuple[Parked, ...]


def subscription_routes(config: Config) -> list[HTTPRouteHandler]:
    limits = config.limits

    def name_in(request: AnyRequest) -> str:
        return check_subscription_id(
            request.path_params["subscription_id"], max_chars=limits.max_subscription_id_chars
        )

    async def body_of(request: AnyRequest) -> bytes:
        return await read_body(
            request.scope,
            request.receive,
            max_body_bytes=limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )

    @get(LIST)
    async def list_subscriptions(request: AnyRequest) -> ASGIApp:
        query = Query(request.scope["query_string"])
        prefix, after = query.text("prefix") or "", query.text("after") or ""
        limit = listed(query, limits)
        store = tenant_of(request.scope).store
        # One more than is asked for tells whether there are more.
        checkpoints = await store.checkpoints(prefix, after=after, limit=limit + 1)
        head = await store.head()
        found = [
            Listed(name, position, max(0, head - position))
            for name, position in islice(checkpoints.items(), limit)
        ]
        headers = {}
        if len(checkpoints) > limit:
            headers["Link"] = listing_link(LIST, prefix, found[-1].id, limit)
        return Answer(msgspec.json.encode(Subscriptions(found, head)), headers=headers)

    @get(ONE)
    async def read_subscription(request: AnyRequest) -> ASGIApp:
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
            found.frontier,
            [lease_out(one) for one in found.leases],
            found.waiting,
            found.parked,
        )
        return Answer(msgspec.json.encode(out))

    @delete(ONE, status_code=200)
    async def delete_subscription(request: AnyRequest) -> ASGIApp:
        name = name_in(request)
        expected = _expected(request)
        if not await tenant_of(request.scope).store.delete_checkpoint(name, expected=expected):
            raise _unknown()
        return Answer(status=204)

    @route(POSITION, http_method=[HttpMethod.POST, HttpMethod.PUT])
    async def save_checkpoint(request: AnyRequest) -> ASGIApp:
        name = name_in(request)
        expected = _expected(request)
        position = decode_position(await body_of(request))
        await tenant_of(request.scope).store.save_checkpoint(name, position, expected=expected)
        return Answer(status=204, headers={"ETag": f'"{position}"'})

    @get(POSITION)
    async def read_checkpoint(request: AnyRequest) -> ASGIApp:
        position = await tenant_of(request.scope).store.checkpoint(name_in(request)) or 0
        return Answer(encode_position(position), headers={"ETag": f'"{position}"'})

    return [
        list_subscriptions,
        read_subscription,
        delete_subscription,
        save_checkpoint,
        read_checkpoint,
    ]


def lease_out(lease: Lease) -> LeaseOut:
    expires_at = datetime.fromtimestamp(lease.expires_at_ms / 1_000, UTC)
    return LeaseOut(
        lease.id,
        lease.first_position,
        lease.last_position,
        lease.attempt,
        lease.max_attempts,
        expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _expected(request: AnyRequest) -> int | None:
    """The position that the checkpoint is expected to have; None when nothing is expected."""
    if "if-none-match" in request.headers:
        raise Problem(
            400,
            "invalid_header",
            'Send If-Match instead of If-None-Match: "0" is a checkpoint that was never saved',
        )
    # Two lines mean the same as one list (RFC 9110, 5.3), which is refused.
    if_match = request.headers.getall("if-match", [])
    return expected_position(", ".join(if_match) if if_match else None)


def _unknown() -> Problem:
    return Problem(404, "unknown_subscription", "There is no subscription of this id")
