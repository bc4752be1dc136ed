"""What a read asks for beyond a range of positions: filters, direction, form, patience."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from ebus.core.aio import AsyncTenantStore
from ebus.core.filter import Filter, check_filter
from ebus.core.limits import MAX_POSITION, Limits
from ebus.http.answers import JSON
from ebus.http.framing import FRAMINGS, NDJSON, SSE, Framing
from ebus.http.problems import Problem
from ebus.http.weights import weighted
from ebus.http.wire import Query

LISTED_AT_ONCE = 1_000

SELECTING = frozenset(
    {
        "type",
        "stream",
        "stream_prefix",
        "from_version",
        "to_version",
        "since",
        "until",
        "direction",
        "last",
        "limit",
        "wait",
    }
)
"""Parameters of a read that make it more than a range."""


def filter_of(query: Query, limits: Limits) -> Filter | None:
    """The filter that a query names; None without one. Raises `InvalidFilter` and `Problem`."""
    wanted = Filter(
        types=query.texts("type"),
        stream=query.text("stream"),
        stream_prefix=query.text("stream_prefix"),
        from_version=query.whole_number("from_version", least=0, default=None),
        to_version=query.whole_number("to_version", least=0, default=None),
        since=query.moment("since"),
        until=query.moment("until"),
    )
    check_filter(wanted, limits)
    return None if wanted == _EVERYTHING else wanted


_EVERYTHING = Filter()


def framing_of(accept: bytes | None) -> Framing:
    """How a stream is to be written: as the client prefers, and as an array where it has no choice.

    Clients of the original server name what they like, and get an array.
    """
    ranges: dict[str, float] = {}
    for kind, weight in weighted(accept or b"*/*", with_parameters=True):
        ranges[kind] = max(weight, ranges.get(kind, 0.0))
    best, chosen = (0.0, 0), FRAMINGS[JSON]
    for place, offer in enumerate([JSON, NDJSON, SSE]):
        group = offer.partition("/")[0] + "/*"
        # What names it most closely counts (RFC 9110, 12.5.1). The order of the offers only
        # counts where the client has no preference.
        named_as = next((kind for kind in (offer, group, "*/*") if kind in ranges), None)
        if named_as is None or not ranges[named_as] > 0:
            continue
        closeness = 100 * (named_as == offer) + 10 * (named_as == group) - place
        if (ranges[named_as], closeness) > best:
            best, chosen = (ranges[named_as], closeness), FRAMINGS[offer]
    return chosen


def last_event_id(value: bytes | None) -> int | None:
    """The position behind the one that a client has seen last (HTML, 9.2.4)."""
    value = (value or b"").strip(b" \t")
    if not value:
        return None
    if not (value.isdigit() and len(value) <= 19 and int(value) < MAX_POSITION):
        raise Problem(400, "invalid_header", "Last-Event-ID is the position of an event")
    return int(value) + 1


class Waiter:
    """Waits for the log to grow; it can be told that nobody waits any more."""

    def __init__(self, store: AsyncTenantStore) -> None:
        self._store = store
        self._woken: asyncio.Future[None] | None = None
        self._ended = False

    def has_ended(self) -> bool:
        """Whether nobody waits any more."""
        return self._ended

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, position: int, seconds: float) -> None:
        """Return when the head is at the position, the time over, or the waiting ended."""
        is_over = False

        def be_over() -> None:
            nonlocal is_over
            is_over = True
            self._wake()

        end_watch = self._store.watch(self._wake)
        # Not by the clock: a timer may be early by what it rounds, and there is only one.
        timer = asyncio.get_running_loop().call_later(seconds, be_over)
        try:
            while not (self._ended or is_over):
                self._woken = asyncio.get_running_loop().create_future()
                if await self._store.head() >= position:
                    return
                await self._woken
        finally:
            timer.cancel()
            end_watch()


def selected_link(
    query: Query, next_position: int | None, *, backwards: bool, left: int | None = None
) -> dict[str, str]:
    """The same read from where this one was cut; of the last events, those that are `left`."""
    if next_position is None or left == 0:
        return {}
    moved = {"to" if backwards else "from": str(next_position)}
    if left is not None:
        moved["last"] = str(left)
    known = (SELECTING | {"from", "to"}) - {*moved, "wait"}
    kept = [(name, value) for name, value in query.pairs if name in known]
    return {"Link": f'</events?{urlencode([*kept, *moved.items()])}>; rel="next"'}


def listed(query: Query, limits: Limits) -> int:
    """How many entries of a list are asked for."""
    limit = query.whole_number("limit", least=1, default=LISTED_AT_ONCE) or LISTED_AT_ONCE
    return min(limit, limits.max_read_events)


def listing_link(path: str, prefix: str, after: str, limit: int) -> str:
    """Where a list goes on."""
    parameters = {"prefix": prefix, "after": after, "limit": limit}
    return f'<{path}?{urlencode(parameters)}>; rel="next"'
