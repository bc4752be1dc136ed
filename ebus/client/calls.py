"""Requests and what their answers mean, without any input or output: for both clients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
from msgspec import UNSET, UnsetType

from ebus.client.errors import (
    Answered,
    Forbidden,
    ProtocolError,
    RateLimited,
    Unauthorized,
)
from ebus.core import errors
from ebus.core.consumers import Lease, Parked, Subscription, Waiting
from ebus.core.errors import (
    Conflict,
    EbusError,
    IdConflict,
    InvalidCheckpoint,
    InvalidEvent,
    InvalidInput,
    StoreError,
)
from ebus.core.event import Event, NewEvent, check_events, decode_event
from ebus.core.filter import Filter
from ebus.core.limits import Limits
from ebus.core.store import (
    Appended,
    Expectation,
    Page,
    Placed,
    StreamInfo,
    check_checkpoint,
    check_expectation,
    check_range,
)

T = TypeVar("T")

LISTED_AT_ONCE = 1_000


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One request, and how to read its answer."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    """Of an answer below 400."""

    params: tuple[tuple[str, str], ...] = ()
    headers: dict[str, str] = {}
    content: bytes | None = None

    is_repeatable: bool = True
    """Whether it may be sent again when nobody knows what has become of it."""

    wait_s: float = 0.0
    """How long the server may take on purpose."""


class Leased(msgspec.Struct, frozen=True):
    """A lease and its events. There are fewer than positions where some were trimmed."""

    lease: Lease
    events: list[Event]


class Subscribed(msgspec.Struct, frozen=True):
    """A subscription in a list."""

    id: str
    position: int
    lag: int


class _Sent(msgspec.Struct, omit_defaults=True):
    type: str
    data: msgspec.Raw
    timestamp: str | UnsetType = UNSET
    id: str | None = None
    stream: str | None = None
    metadata: dict[str, str] | None = None


class _Placed(msgspec.Struct):
    position: int
    timestamp: str
    version: int | None = None
    duplicate: bool = False


class _Appended(msgspec.Struct):
    first_position: int
    last_position: int
    events: list[_Placed] = []


class _Position(msgspec.Struct):
    position: int


class _Metrics(msgspec.Struct):
    total_events: int
    tenant: str | None = None


class _Streams(msgspec.Struct):
    streams: list[StreamInfo]


class _Subscriptions(msgspec.Struct):
    subscriptions: list[Subscribed]


class _Lease(msgspec.Struct):
    lease: str
    first_position: int
    last_position: int
    attempt: int
    max_attempts: int
    expires_at: str
    events: list[Event] = []

    def plain(self) -> Lease:
        return Lease(
            id=self.lease,
            first_position=self.first_position,
            last_position=self.last_position,
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            expires_at_ms=round(datetime.fromisoformat(self.expires_at).timestamp() * 1_000),
        )


class _Subscription(msgspec.Struct):
    position: int
    frontier: int
    leases: list[_Lease]
    waiting: tuple[Waiting, ...]
    parked: tuple[Parked, ...]


class _Problem(msgspec.Struct):
    detail: str = ""
    code: str = ""
    current: int | None = None
    index: int | None = None
    field: str | None = None


class Calls:
    """Every request that there is. Raises the same errors of core for what cannot be sent."""

    def __init__(self, limits: Limits, *, assign_ids: bool) -> None:
        self.limits = limits
        self._assign_ids = assign_ids

    def append(
        self, events: Sequence[NewEvent], expect: Expectation | None = None
    ) -> Call[Appended]:
        check_events(events, self.limits)
        if expect is not None:
            check_expectation(expect, self.limits)
        sent = [self._with_id(event) for event in events]
        body: Any = list(map(_sent, sent))
        if expect is not None:
            body = {"events": body, **_expected(expect)}
        return Call(
            method="POST",
            path="/events/batch",
            content=msgspec.json.encode(body),
            is_repeatable=all(event.id is not None for event in sent),
            read=_read_appended,
        )

    def batches(self, events: Iterable[NewEvent]) -> Iterator[list[NewEvent]]:
        """The events in as many as fit into one request."""
        batch: list[NewEvent] = []
        size = 2
        for event in events:
            identified = self._with_id(event)
            event_bytes = len(msgspec.json.encode(_sent(identified))) + 1
            full = len(batch) >= self.limits.max_batch_events
            if batch and (full or size + event_bytes > self.limits.max_body_bytes):
                yield batch
                batch, size = [], 2
            batch.append(identified)
            size += event_bytes
        if batch:
            yield batch

    def _with_id(self, event: NewEvent) -> NewEvent:
        if event.id is not None or not self._assign_ids:
            return event
        return NewEvent(
            event.type, event.data, event.timestamp, uuid4().hex, event.stream, event.metadata
        )

    def read(
        self,
        start: int,
        stop: int | None,
        limit: int | None,
        max_bytes: int | None,
        filter: Filter | None,
        backwards: bool,
        *,
        wait_s: float = 0.0,
    ) -> Call[Page]:
        bounds = check_range(start, stop, limit, max_bytes, self.limits, filter)
        params = [("from", str(start)), ("limit", str(bounds.limit)), *filter_params(filter)]
        if stop is not None:
            params.append(("to", str(stop)))
        if backwards:
            params.append(("direction", "backward"))
        if wait_s:
            params.append(("wait", f"{round(wait_s * 1_000)}ms"))
        return Call(
            method="GET",
            path="/events",
            params=tuple(params),
            wait_s=wait_s,
            read=lambda response: _read_page(response, backwards, bounds.max_bytes),
        )

    def head(self) -> Call[int]:
        return Call(method="GET", path="/position", read=lambda it: _decode(it, _Position).position)

    def count(self) -> Call[int]:
        return Call(
            method="GET", path="/metrics", read=lambda it: _decode(it, _Metrics).total_events
        )

    def tenant(self) -> Call[str | None]:
        """The tenant's name; None where the server has only one."""
        return Call(method="GET", path="/metrics", read=lambda it: _decode(it, _Metrics).tenant)

    def streams(self, prefix: str, after: str, limit: int | None) -> Call[list[StreamInfo]]:
        check_range(0, None, limit, None, self.limits)
        return Call(
            method="GET",
            path="/streams",
            params=_listing(prefix, after, limit or self.limits.max_read_events),
            read=lambda it: _decode(it, _Streams).streams,
        )

    def stream_version(self, stream: str) -> Call[int]:
        def read(response: httpx.Response) -> int:
            found = _decode(response, _Streams).streams
            return found[0].version if found and found[0].stream == stream else 0

        params = _listing(stream, "", 1)
        return Call(method="GET", path="/streams", params=params, read=read)

    def subscriptions(self, prefix: str, after: str, limit: int) -> Call[list[Subscribed]]:
        return Call(
            method="GET",
            path="/subscriptions",
            params=_listing(prefix, after, limit),
            read=lambda it: _decode(it, _Subscriptions).subscriptions,
        )

    def subscription(self, name: str) -> Call[Subscription | None]:
        def read(response: httpx.Response) -> Subscription | None:
            if response.status_code == 404:
                return None
            found = _decode(response, _Subscription)
            return Subscription(
                position=found.position,
                frontier=found.frontier,
                leases=tuple(one.plain() for one in found.leases),
                waiting=found.waiting,
                parked=found.parked,
            )

        return Call(method="GET", path=_path(name), read=read)

    def save_checkpoint(self, name: str, position: int, expected: int | None) -> Call[None]:
        check_checkpoint(name, position, self.limits)
        if expected is not None:
            check_checkpoint(name, expected, self.limits)
        return Call(
            method="PUT",
            path=_path(name, "position"),
            headers={} if expected is None else {"If-Match": f'"{expected}"'},
            content=b'{"position":%d}' % position,
            is_repeatable=expected is None,
            read=_nothing,
        )

    def delete_checkpoint(self, name: str) -> Call[bool]:
        return Call(
            method="DELETE",
            path=_path(name),
            is_repeatable=False,  # the second time it would not be there
            read=lambda response: response.status_code != 404,
        )

    def lease(
        self, name: str, max_events: int, seconds: float, max_attempts: int, wait_s: float
    ) -> Call[Leased | None]:
        check_checkpoint(name, 0, self.limits)

        def read(response: httpx.Response) -> Leased | None:
            if response.status_code == 204:
                return None
            given = _decode(response, _Lease)
            return Leased(given.plain(), given.events)

        body = {"max_events": max_events, "seconds": seconds, "max_attempts": max_attempts}
        return Call(
            method="POST",
            path=_path(name, "lease"),
            params=(("wait", f"{round(wait_s * 1_000)}ms"),) if wait_s else (),
            content=msgspec.json.encode(body),
            is_repeatable=False,  # what nobody got would be held until its time is over
            wait_s=wait_s,
            read=read,
        )

    def acknowledge(self, name: str, lease_id: str, position: int | None) -> Call[None]:
        body = msgspec.json.encode({} if position is None else {"position": position})
        return self._of_lease(name, lease_id, "ack", body, _nothing)

    def extend_lease(self, name: str, lease_id: str, seconds: float) -> Call[Lease]:
        body = msgspec.json.encode({"seconds": seconds})
        return self._of_lease(
            name, lease_id, "extend", body, lambda it: _decode(it, _Lease).plain(), repeats=True
        )

    def release(
        self,
        name: str,
        lease_id: str,
        position: int | None,
        failed: bool,
        delay_s: float,
        reason: str,
    ) -> Call[None]:
        body: dict[str, object] = {"failed": failed, "delay": delay_s, "reason": reason}
        if position is not None:
            body["position"] = position
        return self._of_lease(name, lease_id, "release", msgspec.json.encode(body), _nothing)

    @staticmethod
    def _of_lease(
        name: str,
        lease_id: str,
        what: str,
        body: bytes,
        read: Callable[[httpx.Response], T],
        *,
        repeats: bool = False,
    ) -> Call[T]:
        return Call(
            method="POST",
            path=_path(name, "lease", lease_id, what),
            content=body,
            is_repeatable=repeats,
            read=read,
        )

    def redeliver_parked(self, name: str, first_position: int) -> Call[bool]:
        return Call(
            method="POST",
            path=_path(name, "parked", str(first_position), "redeliver"),
            is_repeatable=False,
            read=lambda response: response.status_code != 404,
        )

    def drop_parked(self, name: str, first_position: int) -> Call[bool]:
        return Call(
            method="DELETE",
            path=_path(name, "parked", str(first_position)),
            is_repeatable=False,
            read=lambda response: response.status_code != 404,
        )


def filter_params(wanted: Filter | None) -> list[tuple[str, str]]:
    """A filter as parameters of a query."""
    if wanted is None:
        return []
    params = [("type", one) for one in wanted.types]
    for name in ("stream", "stream_prefix", "from_version", "to_version", "since", "until"):
        value = getattr(wanted, name)
        if value is not None:
            params.append((name, str(value)))
    return params


def follow_params(
    start: int, stop: int | None, wanted: Filter | None, *, follow: bool
) -> httpx.QueryParams:
    """Those of a stream, with or without an end."""
    params = [("from", str(start)), *filter_params(wanted)]
    if stop is not None:
        params.append(("to", str(stop)))
    if follow:
        params.append(("follow", "true"))
    return httpx.QueryParams(tuple(params))


class Lines:
    """Cuts what comes into events, one a line. White space between them is passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def events(self, piece: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        try:
            return [decode_event(line) for line in lines if line]
        except msgspec.MsgspecError:
            raise ProtocolError("the server sent something other than events") from None


def check_status(call: Call[Any], response: httpx.Response) -> None:
    """Raise what the answer reports, unless it is one that the call reads."""
    status = response.status_code
    if status < 300 or (status == 404 and _is_missing(response)):
        return
    raise error_of(response)


_MISSING = frozenset({"unknown_subscription", "not_parked"})


def _is_missing(response: httpx.Response) -> bool:
    return _problem(response).code in _MISSING


def _problem(response: httpx.Response) -> _Problem:
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        return _Problem()


def error_of(response: httpx.Response) -> EbusError:
    """The error that an answer reports. Its cause is an `Answered`."""
    problem, status = _problem(response), response.status_code
    after = response.headers.get("retry-after", "")
    retry_after_s = float(after) if re.fullmatch(r"[0-9]{1,9}", after) else None
    error = _error_of(problem, status, retry_after_s)
    error.__cause__ = Answered(status, problem.code, retry_after_s)
    return error


def _error_of(problem: _Problem, status: int, retry_after_s: float | None) -> EbusError:
    detail = problem.detail or f"the server answered {status}"
    if status == 401:
        return Unauthorized(detail)
    if status == 403:
        return Forbidden(detail)
    if status == 429:
        return RateLimited(detail, retry_after_s=retry_after_s or 1.0)
    kind = _BY_CODE.get(problem.code)
    if kind is None:
        if not problem.code:
            return ProtocolError(detail)
        return InvalidInput(detail) if status < 500 else StoreError(detail)
    if issubclass(kind, InvalidEvent):
        said = detail.partition(": ")[2] or detail
        return kind(said, index=problem.index or 0, field=problem.field)
    if issubclass(kind, IdConflict):
        return kind(detail, current=problem.current, index=problem.index or 0)
    if issubclass(kind, Conflict):
        return kind(detail, current=problem.current)
    return kind(detail)


_BY_CODE: dict[str, type[EbusError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EbusError) and kind is not EbusError
}


def _decode(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.MsgspecError:
        raise ProtocolError("the server's answer cannot be read") from None


def _nothing(response: httpx.Response) -> None:
    return None


def _sent(event: NewEvent) -> _Sent:
    return _Sent(event.type, event.data, event.timestamp, event.id, event.stream, event.metadata)


def _expected(expect: Expectation) -> dict[str, object]:
    body: dict[str, object] = {}
    if expect.position is not None:
        body["expected_position"] = expect.position
    if expect.versions:
        body["expected_versions"] = expect.versions
    if expect.none_after is not None:
        match = [
            {"type": list(one.types), "stream": one.stream, "stream_prefix": one.stream_prefix}
            for one in expect.none_after.filters
        ]
        body["none_after"] = {"position": expect.none_after.position, "match": match}
    return body


def _read_appended(response: httpx.Response) -> Appended:
    found = _decode(response, _Appended)
    placed = (
        Placed(one.position, one.version, one.timestamp, one.duplicate) for one in found.events
    )
    return Appended(found.first_position, found.last_position, tuple(placed))


_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _read_page(response: httpx.Response, backwards: bool, max_bytes: int) -> Page:
    """A page, cut where a store would cut it."""
    try:
        raw = _split(response.content)
    except msgspec.MsgspecError:
        raise ProtocolError("the server's answer cannot be read") from None
    events: list[Event] = []
    size = 0
    for one in raw:
        event = decode_event(bytes(one))
        if size >= max_bytes:
            return Page(events, event.position)
        size += len(one)
        events.append(event)
    link = response.headers.get("link", "")
    moved = "to" if backwards else "from"
    match = re.search(rf"[?&]{moved}=([0-9]+)[^>]*>; rel=\"next\"", link)
    return Page(events, int(match[1]) if match else None)


def _listing(prefix: str, after: str, limit: int) -> tuple[tuple[str, str], ...]:
    return (("prefix", prefix), ("after", after), ("limit", str(limit)))


_NAME = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@]{1,255}")


def _path(name: str, *more: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in {".", ".."}:
        raise InvalidCheckpoint(
            "over HTTP a checkpoint's name is made of A-Z a-z 0-9 and - . _ ~ ! $ & ' ( ) * + , ; "
            "= : @"
        )
    return "/".join(["/subscriptions", quote(name, safe="!$&'()*+,;=:@~"), *more])
