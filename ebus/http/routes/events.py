"""Appending events: the routes that carry the load."""

from __future__ import annotations

from msgspec import UNSET

from ebus.config import Config
from ebus.core.errors import IdConflict, InvalidEvent
from ebus.core.event import encode_event, utc_now
from ebus.core.plan import encoded_event
from ebus.core.store import Appended, Placed
from ebus.http.answers import Answer
from ebus.http.endpoint import Call, Route
from ebus.http.problems import within, without_index
from ebus.http.wire import (
    EVENTS,
    decode_batch,
    decode_event,
    encode_position,
    is_batch_object,
)


def append_routes(config: Config) -> list[Route]:
    limits = config.limits

    async def append_event(call: Call) -> Answer:
        event, expect = decode_event(call.body, call.query)
        if event.timestamp is UNSET and event.id is None and event.stream is None:
            event = event.stamped(utc_now())  # here, since the answer says it
        if call.tenant.events is not None:
            call.tenant.events.charge(1)
        try:
            appended = await call.tenant.store.append(
                [event], expect=expect, held_bytes=len(call.body)
            )
        except (InvalidEvent, IdConflict) as error:
            raise without_index(error) from None
        if not appended.events:
            return Answer(encode_event(event, appended.first_position, ""), events=1)
        [placed] = appended.events
        return Answer(
            encoded_event(event, placed),
            headers=_duplicate(appended),
            events=1 - appended.duplicates,
        )

    async def append_batch(call: Call) -> Answer:
        events, expect = decode_batch(call.body, call.query)
        # One with no events or too many is refused below, and does not count.
        if call.tenant.events is not None and 1 <= len(events) <= limits.max_batch_events:
            call.tenant.events.charge(len(events))
        try:
            appended = await call.tenant.store.append(
                events, expect=expect, held_bytes=len(call.body)
            )
        except (InvalidEvent, IdConflict) as error:
            if is_batch_object(call.body):
                raise within(EVENTS, error) from None
            raise
        saved = len(events) - appended.duplicates
        head = b'{"saved":%d,"first_position":%d,"last_position":%d' % (
            saved,
            appended.first_position,
            appended.last_position,
        )
        if not appended.events:
            return Answer(head + b"}", events=saved)
        placed = b",".join(map(_encode_placed, appended.events))
        return Answer(
            b'%b,"events":[%b]}' % (head, placed), headers=_duplicate(appended), events=saved
        )

    async def read_position(call: Call) -> Answer:
        return Answer(encode_position(await call.tenant.store.head()))

    return [
        Route("POST", "/events", append_event, takes_body=True),
        Route("POST", "/events/batch", append_batch, takes_body=True),
        Route("GET", "/position", read_position),
    ]


def _encode_placed(placed: Placed) -> bytes:
    return b'{"position":%d%b%b,"timestamp":"%b"}' % (
        placed.position,
        b"" if placed.version is None else b',"version":%d' % placed.version,
        b',"duplicate":true' if placed.is_duplicate else b"",
        placed.timestamp.encode("ascii"),
    )


def _duplicate(appended: Appended) -> dict[str, str]:
    return {"Ebus-Duplicate": "true"} if appended.duplicates else {}
