"""Every request of the wire, and how its answer is read. Nothing here sends anything."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import msgspec
from msgspec.structs import replace

from ebus.client.problems import Answer
from ebus.core import consumers
from ebus.core.consumers import Lease, Parked, Subscription, Waiting
from ebus.core.errors import (
    CheckpointConflict,
    EbusError,
    InvalidBatch,
    InvalidCheckpoint,
    InvalidEvent,
    InvalidFilter,
    InvalidInput,
    InvalidLease,
    LeaseLost,
)
from ebus.core.event import Event, NewEvent, check_events, checked_utf8
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import (
    Appended,
    Expectation,
    Page,
    Placed,
    ReadBounds,
    StreamInfo,
    WirePage,
    check_checkpoint,
    check_expectation,
    check_list_limit,
    check_range,
    check_saved_position,
)

T = TypeVar("T")

WAIT_SLICE_S = 2.0
"""How long one request waits on the server; who waits for longer asks again.

A client that is closed lets such a request end."""


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A request, and what becomes of its answer."""

    method: str
    path: str
    """As it goes over the wire: escaped where it has to be."""

    params: Sequence[tuple[str, str | int]] = ()
    headers: Mapping[str, str] = {}
    content: bytes | None = None

    is_repeatable: bool
    """Whether to do it twice is the same as to do it once."""

    wait_s: float = 0.0
    """How long the server may take beyond the client's own time limit."""

    read: Callable[[Answer], T]
    """What a successful answer says."""

    otherwise: Mapping[str, T] = {}
    """What the call results in where the problem has one of these codes."""

    was_done: Callable[[EbusError], bool] | None = None
    """Whether this error of a repeated call says that it was done the first time: then None."""

    @property
    def target(self) -> str:
        """The path with its query."""
        return f"{self.path}?{urlencode(self.params)}" if self.params else self.path


Steps = Generator[Call[Any], Any, T]
"""Calls that are made one after the other, each sent what the one before has resulted in."""


class Leased(msgspec.Struct, frozen=True):
    """A lease with its events."""

    lease: Lease
    events: list[Event]


class _Head(msgspec.Struct):
    position: int


class _PlacedIn(msgspec.Struct):
    position: int
    timestamp: str
    version: int | None = None
    duplicate: bool = False


class _AppendedIn(msgspec.Struct):
    first_position: int
    last_position: int
    events: list[_PlacedIn] = []


class _LeaseIn(msgspec.Struct):
    lease: str
    first_position: int
    last_position: int
    attempt: int
    expires_at: str
    max_attempts: int = 0
    events: list[Event] = []

    def as_lease(self, max_attempts: int = 0) -> Lease:
        moment = datetime.fromisoformat(self.expires_at)
        return Lease(
            id=self.lease,
            first_position=self.first_position,
            last_position=self.last_position,
            attempt=self.attempt,
            max_attempts=self.max_attempts or max_attempts,
            expires_at_ms=round(moment.timestamp() * 1_000),
        )


class _SubscriptionIn(msgspec.Struct):
    position: int
    frontier: int = 0
    leases: list[_LeaseIn] = []
    waiting: tuple[Waiting, ...] = ()
    parked: tuple[Parked, ...] = ()

    def as_subscription(self) -> Subscription:
        return Subscription(
            position=self.position,
            frontier=self.frontier,
            leases=tuple(one.as_lease() for one in self.leases),
            waiting=self.waiting,
            parked=self.parked,
        )


class _ListedIn(msgspec.Struct):
    id: str
    position: int


class _SubscriptionsIn(msgspec.Struct):
    subscriptions: list[_ListedIn]


class _StreamsIn(msgspec.Struct):
    streams: list[StreamInfo]


class Metrics(msgspec.Struct, frozen=True):
    """What a server says of a tenant; one of a single tenant does not name it."""

    total_events: int
    tenant: str | None = None


_decode_objects = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_encode = msgspec.json.Encoder().encode
_NEXT = re.compile(r'<([^>]*)>;\s*rel="?next"?')


def next_in(answer: Answer, name: str) -> str | None:
    """A parameter of the request that goes on where this answer was cut; None at the end."""
    match = _NEXT.search(answer.headers.get("link", ""))
    if match is None:
        return None
    [value] = parse_qs(urlsplit(match[1]).query, keep_blank_values=True)[name]
    return value


def _reads(kind: type[T]) -> Callable[[Answer], T]:
    decode = msgspec.json.Decoder(kind).decode
    return lambda answer: decode(answer.content)


_read_head = _reads(_Head)
_read_appended = _reads(_AppendedIn)
_read_lease = _reads(_LeaseIn)
_read_subscription = _reads(_SubscriptionIn)
_read_subscriptions = _reads(_SubscriptionsIn)
_read_streams = _reads(_StreamsIn)
_read_metrics = _reads(Metrics)


def _nothing(answer: Answer) -> None:
    return None


def _yes(answer: Answer) -> bool:
    return True


def _appended(answer: Answer) -> Appended:
    it = _read_appended(answer)
    placed = (Placed(one.position, one.version, one.timestamp, one.duplicate) for one in it.events)
    return Appended(it.first_position, it.last_position, tuple(placed))


def filter_params(wanted: Filter | None) -> list[tuple[str, str | int]]:
    """A filter, which must have been checked, as parameters of a query."""
    if wanted is None:
        return []
    params: list[tuple[str, str | int]] = [("type", text) for text in wanted.types]
    for name in ("stream", "stream_prefix", "from_version", "to_version", "since", "until"):
        value: str | int | None = getattr(wanted, name)
        if value is not None:
            params.append((name, value))
    return params


# What a path holds without escaping (RFC 3986, 3.3).
_SUBSCRIPTION_ID = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@]+")
_LEASE_ID = re.compile(r"[A-Za-z0-9\-_]+")


class Calls:
    """Makes the calls of one client. What cannot be is refused before anything is sent."""

    def __init__(self, limits: Limits, *, assign_ids: bool) -> None:
        self.limits = limits
        self._assign_ids = assign_ids

    # Appending

    def identified(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """The events, checked; those without an id have a fresh one, if this client gives any."""
        if not events:  # None too
            raise InvalidBatch("a batch holds at least one event")
        events = list(events)
        check_events(events, self.limits)
        if not self._assign_ids:
            return events
        return [
            event if event.id is not None else replace(event, id=uuid.uuid4().hex)
            for event in events
        ]

    def append(
        self, events: NewEvent | Sequence[NewEvent], expect: Expectation | None
    ) -> Call[Appended]:
        identified = self.identified([events] if isinstance(events, NewEvent) else events)
        if expect is not None:
            check_expectation(expect, self.limits)
        return self.append_encoded(
            list(map(_encode, identified)),
            expect,
            is_repeatable=all(event.id is not None for event in identified),
        )

    def append_encoded(
        self, encoded: Sequence[bytes], expect: Expectation | None, *, is_repeatable: bool
    ) -> Call[Appended]:
        content = b"[%b]" % b",".join(encoded)
        expected = _expected(expect)
        if expected:
            content = b'{"events":%b,%b' % (content, _encode(expected)[1:])
        if len(content) > self.limits.max_body_bytes:
            raise InvalidBatch(
                f"the append has {len(content)} bytes, a request at most "
                f"{self.limits.max_body_bytes}: append_many splits"
            )
        return Call(
            method="POST",
            path="/events/batch",
            headers={"Content-Type": "application/json"},
            content=content,
            is_repeatable=is_repeatable,
            read=_appended,
        )

    # Reading

    def read(
        self,
        start: int,
        stop: int | None,
        *,
        limit: int | None,
        max_bytes: int | None,
        filter: Filter | None,
        backwards: bool,
    ) -> Call[Page]:
        bounds = check_range(start, stop, limit, max_bytes, self.limits, filter)
        onward = "to" if backwards else "from"

        def read(answer: Answer) -> Page:
            events = _decode_events(answer.content)
            following = next_in(answer, onward)
            cut = len(events)
            if len(answer.content) > bounds.max_bytes:
                cut = _cut(_decode_objects(answer.content), bounds.max_bytes)
            if cut < len(events):
                return Page(events[:cut], events[cut].position)
            return Page(events, None if following is None else int(following))

        return _reading(bounds, start, stop, filter, backwards, read)

    def read_wire(
        self,
        start: int,
        stop: int | None,
        *,
        limit: int | None,
        max_bytes: int | None,
        filter: Filter | None,
        backwards: bool,
    ) -> Call[WirePage]:
        bounds = check_range(start, stop, limit, max_bytes, self.limits, filter)
        onward = "to" if backwards else "from"

        def read(answer: Answer) -> WirePage:
            objects = _decode_objects(checked_utf8(answer.content))
            following = next_in(answer, onward)
            cut = len(objects)
            if len(answer.content) > bounds.max_bytes:
                cut = _cut(objects, bounds.max_bytes)
            after = None if following is None else int(following)
            if cut < len(objects):
                after = _read_position(objects[cut])
            first_position = _read_position(objects[0]) if objects else 0
            return WirePage(list(map(bytes, objects[:cut])), cut, first_position, after)

        return _reading(bounds, start, stop, filter, backwards, read)

    def stream(
        self, start: int, stop: int | None, filter: Filter | None, *, follow: bool
    ) -> Call[None]:
        """Events as lines. Its answer is read piece by piece, see `Following`."""
        check_range(start, stop, None, None, self.limits, filter)
        params: list[tuple[str, str | int]] = [("from", start)]
        if stop is not None:
            params.append(("to", stop))
        if follow:
            if filter is not None and filter.until is not None:
                raise InvalidFilter("what goes on without end has no `until`")
            params.append(("follow", "true"))
        return Call(
            method="GET",
            path="/events/stream",
            params=[*params, *filter_params(filter)],
            headers={"Accept": "application/x-ndjson"},
            is_repeatable=True,
            read=_nothing,
        )

    def head(self) -> Call[int]:
        return Call(
            method="GET",
            path="/position",
            is_repeatable=True,
            read=lambda answer: _read_head(answer).position,
        )

    def metrics(self) -> Call[Metrics]:
        return Call(method="GET", path="/metrics", is_repeatable=True, read=_read_metrics)

    def count(self) -> Call[int]:
        return Call(
            method="GET",
            path="/metrics",
            is_repeatable=True,
            read=lambda answer: _read_metrics(answer).total_events,
        )

    def health(self) -> Call[None]:
        return Call(method="GET", path="/health", is_repeatable=True, read=_nothing)

    def wait(self, position: int, timeout_s: float, clock: Callable[[], float]) -> Steps[int]:
        """The head, once it is at the position or the time is over."""
        until_s = clock() + timeout_s
        head: int = yield self.head()
        while head < position and (left_s := until_s - clock()) > 0:
            wait_s = min(left_s, WAIT_SLICE_S)
            yield Call(
                method="GET",
                path="/events",
                params=[("from", position), ("limit", 1), ("wait", _seconds(wait_s))],
                is_repeatable=True,
                wait_s=wait_s,
                read=_nothing,
            )
            head = yield self.head()
        return head

    def _streams(self, prefix: str, after: str, limit: int) -> Call[tuple[list[StreamInfo], bool]]:
        for text in (prefix, after):
            _check_listed(text)
        return Call(
            method="GET",
            path="/streams",
            params=[("prefix", prefix), ("after", after), ("limit", limit)],
            is_repeatable=True,
            read=lambda answer: (
                _read_streams(answer).streams,
                next_in(answer, "after") is not None,
            ),
        )

    def streams(self, prefix: str, after: str, limit: int | None) -> Steps[list[StreamInfo]]:
        most = check_range(0, None, limit, None, self.limits).limit
        found: list[StreamInfo] = []
        goes_on = True
        while goes_on and len(found) < most:
            more, goes_on = yield self._streams(prefix, after, most - len(found))
            found += more
            after = found[-1].stream if found else after
        return found

    def stream_version(self, stream: str) -> Steps[int]:
        # Of the names that begin with a name, it is the first itself.
        [*found], _ = yield self._streams(stream, "", 1)
        return next((info.version for info in found if info.stream == stream), 0)

    # Subscriptions

    def _subscription_path(self, name: str) -> str:
        check_checkpoint(name, 0, self.limits)
        if not _SUBSCRIPTION_ID.fullmatch(name) or name in (".", ".."):
            raise InvalidCheckpoint(
                "over HTTP a checkpoint's name is made of A-Z a-z 0-9 and "
                "- . _ ~ ! $ & ' ( ) * + , ; = : @"
            )
        return f"/subscriptions/{name}"

    def _may_exist(self, name: str) -> bool:
        """Whether a checkpoint can have this name at all, over HTTP or not."""
        try:
            check_checkpoint(name, 0, self.limits)
        except InvalidCheckpoint:
            return False
        return True

    def subscription(self, name: str) -> Steps[Subscription | None]:
        if not self._may_exist(name):
            return None
        call: Call[Subscription | None] = Call(
            method="GET",
            path=self._subscription_path(name),
            is_repeatable=True,
            read=lambda answer: _read_subscription(answer).as_subscription(),
            otherwise={"unknown_subscription": None},
        )
        found: Subscription | None = yield call
        return found

    def checkpoint(self, name: str) -> Steps[int | None]:
        # Not from …/position, which says 0 both for a checkpoint at 0 and for none.
        found: Subscription | None = yield from self.subscription(name)
        return None if found is None else found.position

    def save_checkpoint(self, name: str, position: int, expected: int | None) -> Call[None]:
        check_checkpoint(name, position, self.limits)
        headers = {"Content-Type": "application/json"}
        if expected is not None:
            check_checkpoint(name, expected, self.limits)
            headers["If-Match"] = f'"{expected}"'

        def was_saved(error: EbusError) -> bool:
            return isinstance(error, CheckpointConflict) and error.current == position

        return Call(
            method="PUT",
            path=f"{self._subscription_path(name)}/position",
            headers=headers,
            content=_encode({"position": position}),
            is_repeatable=True,
            read=_nothing,
            was_done=was_saved,
        )

    def delete_checkpoint(self, name: str, expected: int | None) -> Steps[bool]:
        if expected is not None:
            check_saved_position(expected)
        if not self._may_exist(name):
            return False
        call: Call[bool] = Call(
            method="DELETE",
            path=self._subscription_path(name),
            headers={} if expected is None else {"If-Match": f'"{expected}"'},
            is_repeatable=True,
            read=_yes,
            otherwise={"unknown_subscription": False},
        )
        was_there: bool = yield call
        return was_there

    def checkpoints(self, prefix: str, after: str, limit: int | None) -> Steps[dict[str, int]]:
        check_list_limit(limit)
        for text in (prefix, after):
            _check_listed(text)
        found: dict[str, int] = {}
        behind: str | None = after
        while behind is not None and (limit is None or len(found) < limit):
            most = self.limits.max_read_events
            if limit is not None:
                most = min(most, limit - len(found))
            call: Call[tuple[list[_ListedIn], str | None]] = Call(
                method="GET",
                path="/subscriptions",
                params=[("prefix", prefix), ("after", behind), ("limit", most)],
                is_repeatable=True,
                read=lambda answer: (
                    _read_subscriptions(answer).subscriptions,
                    next_in(answer, "after"),
                ),
            )
            listed, behind = yield call
            found |= {one.id: one.position for one in listed}
        return found

    # Leases

    def lease(
        self,
        name: str,
        *,
        max_events: int,
        seconds: float,
        max_attempts: int,
        wait_s: float,
        clock: Callable[[], float],
    ) -> Steps[Leased | None]:
        path = f"{self._subscription_path(name)}/lease"
        consumers.lease(
            max_events=max_events, seconds=seconds, max_attempts=max_attempts, limits=self.limits
        )
        wanted = {"max_events": max_events, "seconds": seconds, "max_attempts": max_attempts}
        until_s = clock() + wait_s

        def read(answer: Answer) -> Leased | None:
            if answer.status == 204:
                return None
            it = _read_lease(answer)
            return Leased(it.as_lease(max_attempts), it.events)

        left_s = wait_s
        while True:
            slice_s = min(max(left_s, 0.0), WAIT_SLICE_S)
            leased: Leased | None = yield Call(
                method="POST",
                path=path,
                params=[("wait", _seconds(slice_s))] if slice_s else [],
                headers={"Content-Type": "application/json"},
                content=_encode(wanted),
                is_repeatable=False,
                wait_s=slice_s,
                read=read,
            )
            left_s = until_s - clock()
            if leased is not None or left_s <= 0:
                return leased

    def _held(
        self, name: str, lease_id: str, what: str, wanted: Any, read: Callable[[Answer], T]
    ) -> Call[T]:
        path = self._subscription_path(name)
        if not _LEASE_ID.fullmatch(lease_id):
            raise LeaseLost("this lease has ended, or was never given")
        return Call(
            method="POST",
            path=f"{path}/lease/{lease_id}/{what}",
            headers={"Content-Type": "application/json"},
            content=_encode(wanted),
            is_repeatable=True,
            read=read,
        )

    def acknowledge(self, name: str, lease_id: str, position: int | None) -> Call[None]:
        def was_finished(error: EbusError) -> bool:
            # The lease begins behind the position by now. Were it beyond the end of the lease
            # nothing would be finished: then the events come again.
            return position is not None and isinstance(error, InvalidLease)

        call = self._held(name, lease_id, "ack", {"position": position}, _nothing)
        return replace(call, was_done=was_finished)

    def extend_lease(self, name: str, lease_id: str, seconds: float) -> Call[Lease]:
        consumers.extend(lease_id, seconds)
        wanted = {"seconds": seconds}
        return self._held(
            name, lease_id, "extend", wanted, lambda answer: _read_lease(answer).as_lease()
        )

    def release(
        self,
        name: str,
        lease_id: str,
        position: int | None,
        *,
        failed: bool,
        delay_s: float,
        reason: str,
    ) -> Call[None]:
        consumers.release(lease_id, position, failed=failed, delay_s=delay_s, reason=reason)
        wanted = {"position": position, "failed": failed, "delay": delay_s, "reason": reason}
        return self._held(name, lease_id, "release", wanted, _nothing)

    def redeliver_parked(self, name: str, first_position: int) -> Call[bool]:
        return self._parked("POST", name, first_position, "/redeliver")

    def drop_parked(self, name: str, first_position: int) -> Call[bool]:
        return self._parked("DELETE", name, first_position, "")

    def _parked(self, method: str, name: str, first_position: int, what: str) -> Call[bool]:
        return Call(
            method=method,
            path=f"{self._subscription_path(name)}/parked/{quote(str(first_position))}{what}",
            is_repeatable=True,
            read=_yes,
            otherwise={"not_parked": False},
        )


def _reading(
    bounds: ReadBounds,
    start: int,
    stop: int | None,
    filter: Filter | None,
    backwards: bool,
    read: Callable[[Answer], T],
) -> Call[T]:
    params: list[tuple[str, str | int]] = [("from", start), ("limit", bounds.limit)]
    if stop is not None:
        params.append(("to", stop))
    if backwards:
        params.append(("direction", "backward"))
    return Call(
        method="GET",
        path="/events",
        params=[*params, *filter_params(filter)],
        is_repeatable=True,
        read=read,
    )


def _read_position(wire: msgspec.Raw) -> int:
    return _decode_head(wire).position


def _expected(expect: Expectation | None) -> dict[str, Any]:
    """What is expected as members that stand beside the events."""
    if expect is None:
        return {}
    members: dict[str, Any] = {}
    if expect.position is not None:
        members["expected_position"] = expect.position
    if expect.versions:
        members["expected_versions"] = dict(expect.versions)
    if expect.none_after is not None:
        members["none_after"] = {
            "position": expect.none_after.position,
            "match": [
                {
                    "type": list(one.types),
                    "stream": one.stream,
                    "stream_prefix": one.stream_prefix,
                }
                for one in expect.none_after.filters
            ],
        }
    return members


def _cut(objects: Sequence[msgspec.Raw], max_bytes: int) -> int:
    """How many objects are of a page that ends with the one with which it passes the bytes."""
    size = 0
    for count, one in enumerate(objects, 1):
        size += len(one)
        if size > max_bytes:
            return count
    return len(objects)


def _check_listed(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a name holds no lone surrogates") from None


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}s"


class Splitter:
    """Gathers events into appends of as many as one request may hold."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._limits = calls.limits
        self._encoded: list[bytes] = []
        self._bytes = 2
        self._all_have_ids = True
        self.taken = 0

    def add(self, event: NewEvent) -> Call[Appended] | None:
        """Take one more event; gives the append of those before it, once it has no room there.

        Raises `InvalidEvent` with the event's place among all of them.
        """
        [event] = self._calls.identified([event])
        encoded = _encode(event)
        call = None
        if (
            len(self._encoded) == self._limits.max_batch_events
            or self._bytes + len(encoded) + 1 > self._limits.max_body_bytes
        ):
            call = self.rest()
        self._encoded.append(encoded)
        self._bytes += len(encoded) + 1
        self._all_have_ids = self._all_have_ids and event.id is not None
        self.taken += 1
        return call

    def rest(self) -> Call[Appended] | None:
        """The append of the events that were not given yet; None without any."""
        if not self._encoded:
            return None
        encoded, self._encoded, self._bytes = self._encoded, [], 2
        is_repeatable, self._all_have_ids = self._all_have_ids, True
        return self._calls.append_encoded(encoded, None, is_repeatable=is_repeatable)


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """The index of an event that is refused counts from the first event of all."""
    try:
        yield
    except InvalidEvent as error:
        place = first + error.index
        raise type(error)(error.problem, index=place, field=error.field) from None


class AppendedMany(msgspec.Struct, frozen=True):
    """What became of many events: others' may lie between them."""

    events: int
    """How many there were."""

    duplicates: int
    """How many of them were stored before."""

    first_position: int
    """The lowest position of all, 0 without events."""

    last_position: int
    """The highest position of all."""

    def and_then(self, appended: Appended, events: int) -> AppendedMany:
        """With one more append, of so many events."""
        first = appended.first_position
        return AppendedMany(
            self.events + events,
            self.duplicates + appended.duplicates,
            min(self.first_position, first) if self.events else first,
            max(self.last_position, appended.last_position),
        )


NOTHING_APPENDED = AppendedMany(0, 0, 0, 0)
