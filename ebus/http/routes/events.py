"""Appending events and reading them: the routes that carry the load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from msgspec import UNSET

from ebus.config import Config
from ebus.core.aio import AsyncTenantStore
from ebus.core.errors import InvalidEvent
from ebus.core.event import encode_event, utc_now
from ebus.core.store import WirePage
from ebus.http.answers import Answer, EventArray, event_array
from ebus.http.endpoint import Call, Route
from ebus.http.problems import without_index
from ebus.http.wire import Query, decode_batch, decode_event, encode_position

STREAM_BATCH_EVENTS = 1_000


def event_routes(config: Config) -> list[Route]:
    limits = config.limits

    async def append_event(call: Call) -> Answer:
        event = decode_event(call.body)
        if event.timestamp is UNSET:
            event = event.stamped(utc_now())  # here, since the answer says it
        if call.tenant.events is not None:
            call.tenant.events.charge(1)
        try:
            appended = await call.tenant.store.append([event], held_bytes=len(call.body))
        except InvalidEvent as error:
            raise without_index(error) from None
        return Answer(encode_event(event, appended.first_position, ""))

    async def append_batch(call: Call) -> Answer:
        events = decode_batch(call.body)
        # One with no events or too many is refused below, and does not count.
        if call.tenant.events is not None and 1 <= len(events) <= limits.max_batch_events:
            call.tenant.events.charge(len(events))
        appended = await call.tenant.store.append(events, held_bytes=len(call.body))
        return Answer(
            b'{"saved":%d,"first_position":%d,"last_position":%d}'
            % (len(events), appended.first_position, appended.last_position)
        )

    async def read_events(call: Call) -> Answer | EventArray:
        query = Query(call.query)
        start = query.required_number("from", least=0)
        stop = query.whole_number("to", least=0, default=None)
        page = await call.tenant.store.read_wire(start, stop, limit=limits.max_read_events)
        if page.next is None or page.count == limits.max_read_events:
            return event_array(page, headers=_next_link(page.next, stop))
        # The events are large: what is left of them is read while the first are on their way.
        # Positions bound the answer now, so that the link can be said before the end is seen.
        head = await call.tenant.store.head()
        last = min(head, page.first_position + limits.max_read_events - 1)
        last = max(last, page.next - 1)  # a page may reach over positions that hold nothing
        last = last if stop is None else min(last, stop)
        more = last < head and last != stop
        return EventArray(
            page,
            _further_pages(call.tenant.store, page.next, last, limits.max_read_events),
            headers=_next_link(last + 1 if more else None, stop),
        )

    async def stream_events(call: Call) -> EventArray:
        query = Query(call.query)
        start = query.required_number("from", least=0)
        batch = query.whole_number("batch_size", least=1, default=STREAM_BATCH_EVENTS)
        limit = min(batch or STREAM_BATCH_EVENTS, limits.max_read_events)
        # Up to where the log is now: a stream that chased its writers might never end.
        head = await call.tenant.store.head()
        page = await call.tenant.store.read_wire(start, head, limit=limit)
        return EventArray(page, _further_pages(call.tenant.store, page.next, head, limit))

    async def read_position(call: Call) -> Answer:
        return Answer(encode_position(await call.tenant.store.head()))

    return [
        Route("POST", "/events", append_event, takes_body=True),
        Route("POST", "/events/batch", append_batch, takes_body=True),
        Route("GET", "/events", read_events),
        Route("GET", "/events/stream", stream_events),
        Route("GET", "/position", read_position),
    ]


async def _further_pages(
    store: AsyncTenantStore, start: int | None, stop: int, limit: int
) -> AsyncIterator[WirePage]:
    """The pages from `start` up to `stop`, none without a start. No transaction spans two."""
    while start is not None and start <= stop:
        page = await store.read_wire(start, stop, limit=limit)
        yield page
        start = page.next
        await asyncio.sleep(0)  # small pages are read on the loop, which others wait for


def _next_link(next_position: int | None, stop: int | None) -> dict[str, str]:
    """Where to go on, when the limit cut the answer (RFC 8288)."""
    if next_position is None:
        return {}
    to = "" if stop is None else f"&to={stop}"
    return {"Link": f'</events?from={next_position}{to}>; rel="next"'}
