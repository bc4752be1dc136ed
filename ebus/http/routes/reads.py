"""Reading events: ranges, what a filter selects, and streams that go on as events come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from ebus.config import Config
from ebus.core.aio import AsyncTenantStore
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import StreamInfo, WirePage
from ebus.http.answers import JSON, Answer, EventArray, event_array
from ebus.http.endpoint import Call, Route
from ebus.http.framing import FRAMINGS, events_of
from ebus.http.live import Live, Tail
from ebus.http.problems import Problem
from ebus.http.selection import (
    SELECTING,
    Waiter,
    filter_of,
    framing_of,
    last_event_id,
    listed,
    listing_link,
    selected_link,
)
from ebus.http.wire import Query

STREAM_BATCH_EVENTS = 1_000

_NOT_OF_A_STREAM = ("limit", "direction", "wait")
"""Parameters of other reads: to overlook one would answer with what was not asked for."""


def read_routes(config: Config, live: Live) -> list[Route]:
    limits = config.limits

    async def read_events(call: Call) -> Answer | EventArray:
        query = Query(call.query)
        if not query.names.isdisjoint(SELECTING):
            return await _read_selected(call, query, limits, live)
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

    async def stream_events(call: Call) -> EventArray | Tail:
        query = Query(call.query)
        for name in _NOT_OF_A_STREAM:
            if name in query:
                raise Problem(400, "invalid_parameter", f"'{name}' does not go with a stream")
        framing = framing_of(call.headers.get(b"accept"))
        follow = query.word("follow", ("true", "false")) == "true"
        wanted = filter_of(query, limits)
        batch = query.whole_number("batch_size", least=1, default=STREAM_BATCH_EVENTS)
        limit = min(batch or STREAM_BATCH_EVENTS, limits.max_read_events)
        stop = query.whole_number("to", least=0, default=None)
        store = call.tenant.store
        start = await _start_of_stream(
            call,
            query,
            limits,
            wanted,
            may_omit=follow or wanted is not None or framing is not FRAMINGS[JSON],
        )
        if follow or framing is not FRAMINGS[JSON]:
            if follow and "until" in query:
                raise Problem(400, "invalid_parameter", "'follow' does not go with 'until'")
            await store.head()  # once the answer has begun it cannot say why there is none
            return Tail(
                live,
                call.tenant,
                framing,
                start=start,
                stop=stop,
                follow=follow,
                filter=wanted,
                batch_events=limit,
            )
        # Up to where the log is now: a stream that chased its writers might never end.
        head = await store.head()
        end = head if stop is None else min(head, stop)
        page = await store.read_wire(start, end, limit=limit, filter=wanted)
        return EventArray(page, _further_pages(store, page.next, end, limit, wanted))

    async def list_streams(call: Call) -> Answer:
        query = Query(call.query)
        prefix, after = query.text("prefix") or "", query.text("after") or ""
        limit = listed(query, limits)
        found = await call.tenant.store.streams(prefix, after=after, limit=limit)
        headers = {}
        if len(found) == limit:
            headers["Link"] = listing_link("/streams", prefix, found[-1].stream, limit)
        return Answer(msgspec.json.encode(Streams(found)), headers=headers)

    return [
        Route("GET", "/events", read_events),
        Route("GET", "/events/stream", stream_events),
        Route("GET", "/streams", list_streams),
    ]


async def _read_selected(call: Call, query: Query, limits: Limits, live: Live) -> Answer:
    store = call.tenant.store
    wanted = filter_of(query, limits)
    backwards = query.word("direction", ("forward", "backward")) == "backward"
    last = query.whole_number("last", least=1, default=None)
    wait_s = query.seconds("wait", most=limits.max_wait_s)
    limit = query.whole_number("limit", least=1, default=last or limits.max_read_events)
    limit = min(limit or 1, limits.max_read_events)
    if last is None and wanted is None and "direction" not in query:
        start = query.required_number("from", least=0)
    else:
        start = query.whole_number("from", least=0, default=0) or 0
    stop = query.whole_number("to", least=0, default=None)
    if wait_s is None:
        if last is not None:
            limit = min(limit, last)
        page = await store.read_wire(
            start, stop, limit=limit, filter=wanted, backwards=backwards or last is not None
        )
        link = selected_link(
            query,
            page.next,
            backwards=backwards or last is not None,
            left=None if last is None else last - page.count,
        )
        if last is None or backwards:
            return event_array(page, headers=link)
        return event_array(_turned(page), headers=link)
    if backwards or last is not None or "until" in query:
        raise Problem(
            400, "invalid_parameter", "'wait' goes with neither backward, nor last, nor until"
        )
    page = await _wait_for(call, live, start, stop, limit, wanted, wait_s)
    return event_array(page, headers=selected_link(query, page.next, backwards=False))


async def _wait_for(
    call: Call,
    live: Live,
    start: int,
    stop: int | None,
    limit: int,
    wanted: Filter | None,
    wait_s: float,
) -> WirePage:
    """The first events there are, or an empty page once the time is over."""
    store = call.tenant.store
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    waiter = Waiter(store)
    if call.when_left is not None:
        call.when_left(waiter.end)
    with live.waiting(call.tenant, waiter.end):
        while True:
            head = await store.head()
            page = await store.read_wire(start, stop, limit=limit, filter=wanted)
            left_s = until_s - loop.time()
            if page.count or left_s <= 0 or waiter.has_ended() or live.is_closing:
                return page
            start = max(start, head + 1) if page.next is None else page.next
            if stop is not None and start > stop:
                return page
            if page.next is None:
                await waiter.wait(start, left_s)


class Streams(msgspec.Struct, frozen=True):
    """Streams in the order of their names."""

    streams: list[StreamInfo]


async def _start_of_stream(
    call: Call, query: Query, limits: Limits, wanted: Filter | None, *, may_omit: bool
) -> int:
    """The first position of a stream, by what says it best."""
    seen = last_event_id(call.headers.get(b"last-event-id"))
    last = query.whole_number("last", least=1, default=None)
    if seen is not None:
        return seen
    if last is not None:
        if last > limits.max_read_events:
            raise Problem(400, "invalid_parameter", f"'last' is at most {limits.max_read_events}")
        start = query.whole_number("from", least=0, default=1) or 1
        stop = query.whole_number("to", least=0, default=None)
        return await _start_of_last(call.tenant.store, last, start, stop, wanted)
    if may_omit:
        return query.whole_number("from", least=0, default=1) or 0
    return query.required_number("from", least=0)


async def _start_of_last(
    store: AsyncTenantStore, last: int, start: int, stop: int | None, wanted: Filter | None
) -> int:
    """The position of the first of the last events that match, from `start` on.

    Without any it is where what comes begins.
    """
    head = await store.head()
    first, left = max(start, head + 1), last
    until: int | None = head if stop is None else min(head, stop)
    while left:
        page = await store.read_wire(start, until, limit=left, filter=wanted, backwards=True)
        if page.count:
            first, left = events_of(page)[-1].position, left - page.count
        if page.next is None:
            break
        until = page.next
        await asyncio.sleep(0)
    return first


def _turned(page: WirePage) -> WirePage:
    """A page that was read backwards, forwards."""
    events = events_of(page)[::-1]
    first_position = events[0].position if events else 0
    return WirePage([event.json for event in events], len(events), first_position, page.next)


async def _further_pages(
    store: AsyncTenantStore,
    start: int | None,
    stop: int,
    limit: int,
    wanted: Filter | None = None,
) -> AsyncIterator[WirePage]:
    """The pages from `start` up to `stop`, none without a start. No transaction spans two."""
    while start is not None and start <= stop:
        page = await store.read_wire(start, stop, limit=limit, filter=wanted)
        yield page
        start = page.next
        await asyncio.sleep(0)  # small pages are read on the loop, which others wait for


def _next_link(next_position: int | None, stop: int | None) -> dict[str, str]:
    """Where to go on, when the limit cut the answer (RFC 8288)."""
    if next_position is None:
        return {}
    to = "" if stop is None else f"&to={stop}"
    return {"Link": f'</events?from={next_position}{to}>; rel="next"'}
