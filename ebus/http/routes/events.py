"""Appending events and reading them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.core.aio import AsyncTenantStore
from ebus.core.errors import InvalidEvent
from ebus.core.event import encode_event, utc_now
from ebus.core.store import WirePage
from ebus.http.answers import Answer, EventArray
from ebus.http.problems import without_index
from ebus.http.tenancy import tenant_of
from ebus.http.wire import Query, decode_batch, decode_event, encode_position, read_body

STREAM_BATCH_EVENTS = 1_000


def event_routes(config: Config) -> list[HTTPRouteHandler]:
    limits = config.limits

    async def body_of(request: Request[Any, Any, Any]) -> bytes:
        return await read_body(
            request.scope,
            request.receive,
            max_body_bytes=limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )

    @post("/events")
    async def append_event(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await body_of(request)
        event = decode_event(body).stamped(now := utc_now())
        store = tenant_of(request.scope).store
        try:
            appended = await store.append([event], held_bytes=len(body))
        except InvalidEvent as error:
            raise without_index(error) from None
        return Answer(encode_event(event, appended.first_position, now))

    @post("/events/batch")
    async def append_batch(request: Request[Any, Any, Any]) -> ASGIApp:
        body = await body_of(request)
        events = decode_batch(body)
        appended = await tenant_of(request.scope).store.append(events, held_bytes=len(body))
        return Answer(
            b'{"saved":%d,"first_position":%d,"last_position":%d}'
            % (len(events), appended.first_position, appended.last_position)
        )

    @get("/events")
    async def read_events(request: Request[Any, Any, Any]) -> ASGIApp:
        query = Query(request.scope)
        start = query.required_number("from", least=0)
        stop = query.whole_number("to", least=0, default=None)
        store = tenant_of(request.scope).store
        page = await store.read_wire(start, stop, limit=limits.max_read_events)
        if page.next is None or page.count == limits.max_read_events:
            body = b"[" + b",".join(page.chunks) + b"]"
            return Answer(body, headers=_next_link(page.next, stop))
        # The events are large: what is left of them is read while the first are on their way.
        # Positions bound the answer now, so that the link can be said before the end is seen.
        head = await store.head()
        last = min(head, page.first_position + limits.max_read_events - 1)
        last = max(last, page.next - 1)  # a page may reach over positions that hold nothing
        last = last if stop is None else min(last, stop)
        more = last < head and last != stop
        return EventArray(
            page,
            _further_pages(store, page.next, last, limits.max_read_events),
            headers=_next_link(last + 1 if more else None, stop),
        )

    @get("/events/stream")
    async def stream_events(request: Request[Any, Any, Any]) -> ASGIApp:
        query = Query(request.scope)
        start = query.required_number("from", least=0)
        batch = query.whole_number("batch_size", least=1, default=STREAM_BATCH_EVENTS)
        limit = min(batch or STREAM_BATCH_EVENTS, limits.max_read_events)
        store = tenant_of(request.scope).store
        # Up to where the log is now: a stream that chased its writers might never end.
        head = await store.head()
        page = await store.read_wire(start, head, limit=limit)
        return EventArray(page, _further_pages(store, page.next, head, limit))

    @get("/position")
    async def read_position(request: Request[Any, Any, Any]) -> ASGIApp:
        return Answer(encode_position(await tenant_of(request.scope).store.head()))

    return [append_event, append_batch, read_events, stream_events, read_position]


async def _further_pages(
    store: AsyncTenantStore, start: int | None, stop: int, limit: int
) -> AsyncIterator[WirePage]:
    """The pages from `start` up to `stop`, none without a start. No transaction spans two."""
    while start is not None and start <= stop:
        page = await store.read_wire(start, stop, limit=limit)
        yield page
        start = page.next


def _next_link(next_position: int | None, stop: int | None) -> dict[str, str]:
    """Where to go on, when the limit cut the answer (RFC 8288)."""
    if next_position is None:
        return {}
    to = "" if stop is None else f"&to={stop}"
    return {"Link": f'</events?from={next_position}{to}>; rel="next"'}
