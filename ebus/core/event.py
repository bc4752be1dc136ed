"""What an event is, before and after it has a position, and what makes one valid."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import accumulate, chain, count, repeat
from typing import Any, Self

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ebus.core.errors import EventTooLarge, InvalidBatch, InvalidEvent
from ebus.core.limits import Limits


def utc_now() -> str:
    """The clock of this machine as an RFC 3339 time stamp in UTC with nine decimals."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_utc_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


class NewEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An event that is to be appended.

    `type` is 1 to 255 characters without control characters. `data` is one JSON document in
    UTF-8, kept byte for byte. `timestamp` is RFC 3339 with an offset and at most nine
    decimals, kept as it is written; left out, it is the clock's at the time of the append.

    `id` is the client's own name for the event, 1 to 255 characters, and unique within the
    tenant: to append it once more changes nothing. `stream` names the entity that the event is
    about, 1 to 255 characters; within it the event gets the next version. `metadata` is a flat
    map of texts, or one that is JSON already: at most 16 KiB as JSON. None of them holds control
    characters but metadata.

    Making one checks nothing: a store checks what it is given when it is appended.
    """

    type: str
    data: Raw
    timestamp: str | UnsetType = UNSET
    id: str | None = None
    stream: str | None = None
    metadata: dict[str, str] | Raw | None = None

    @classmethod
    def of(
        cls,
        type: str,
        value: Any,
        timestamp: str | datetime | None = None,
        *,
        id: str | None = None,
        stream: str | None = None,
        metadata: dict[str, str] | Raw | None = None,
    ) -> Self:
        """An event whose data is `value` as JSON: anything that msgspec can encode.

        `type` may be a member of an enumeration of texts, `timestamp` text or an aware datetime.
        Raises `InvalidEvent` for a value that cannot be JSON.
        """
        try:
            data = Raw(msgspec.json.encode(value))
            if b"null" in bytes(data):  # what msgspec makes of NaN as well
                json.dumps(msgspec.to_builtins(value, str_keys=True), allow_nan=False)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise InvalidEvent(f"cannot be written as JSON: {error}", field="data") from None
        if isinstance(timestamp, datetime):
            timestamp = timestamp.isoformat()
        text = str.__str__(type) if isinstance(type, str) else type
        return cls(text, data, UNSET if timestamp is None else timestamp, id, stream, metadata)

    def stamped(self, now: str) -> NewEvent:
        """The event with `now` as its time stamp, unless it has one already."""
        if self.timestamp is not UNSET:
            return self
        return type(self)(self.type, self.data, now, self.id, self.stream, self.metadata)


class _ParsedEvent(NewEvent, frozen=True, gc=False):
    """An event that was read from JSON: its data is a JSON document for certain.

    So nobody may take one and put other data into it. Its metadata has not been looked at: as a map
    it takes ten times as much memory, and whoever parses holds up others.
    """

    metadata: Raw = None  # type: ignore[assignment] # of a union with None msgspec makes no Raw


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An event that is stored: `position` counts from 1 within its tenant.

    `version` counts from 1 within its stream; it has one exactly when it has a stream.
    """

    position: int
    type: str
    data: Raw
    timestamp: str
    id: str | None = None
    stream: str | None = None
    version: int | None = None
    metadata: dict[str, str] | None = None

    def value(self) -> Any:
        """The data as Python objects. Numbers become int or float; `data` has every digit."""
        try:
            return msgspec.json.decode(self.data)
        except msgspec.ValidationError:  # a number that no float holds, such as 1e999
            return json.loads(bytes(self.data))


_encode_json = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(Event).decode


class _Plain(msgspec.Struct, frozen=True, gc=False):
    """An event as it goes over the wire, without what few have."""

    position: int
    type: str
    data: Raw
    timestamp: str


class Columns(msgspec.Struct, frozen=True):
    """Plain events, one property of all of them after the other."""

    types: list[str]
    datas: list[Raw]
    times: list[str | UnsetType]

    @classmethod
    def of(cls, events: Iterable[NewEvent]) -> Self:
        return cls(
            [event.type for event in events],
            [event.data for event in events],
            [event.timestamp for event in events],
        )


def encode_event(
    event: NewEvent | Event, position: int, now: str, version: int | None = None
) -> bytes:
    """The event as the JSON object that goes over the wire. It must have been checked.

    `now` is the time stamp of an event that has none, `version` its version within its stream.
    """
    timestamp = now if event.timestamp is UNSET else event.timestamp
    wire = _encode_json(_Plain(position, event.type, event.data, timestamp))
    if event.id is None and event.stream is None and event.metadata is None:
        return wire
    return wire[:-1] + b"".join(_further_members(event, version)) + b"}"


def _further_members(event: NewEvent | Event, version: int | None) -> Iterator[bytes]:
    if event.id is not None:
        yield b',"id":' + _encode_json(event.id)
    if event.stream is not None:
        yield b',"stream":%b,"version":%d' % (_encode_json(event.stream), version or 0)
    if isinstance(event.metadata, Raw):
        if bytes(event.metadata).strip(b" \t\r\n") != b"null":
            yield b',"metadata":%b' % event.metadata
    elif event.metadata is not None:
        yield b',"metadata":' + _encode_json(event.metadata)


_decode_metadata = msgspec.json.Decoder(dict[str, str] | None).decode


def metadata_of(event: NewEvent | Event) -> dict[str, str] | None:
    """The metadata as a map. It must have been checked."""
    metadata = event.metadata
    return _decode_metadata(metadata) if isinstance(metadata, Raw) else metadata


def decode_event(wire: bytes) -> Event:
    """The reverse of `encode_event`."""
    return _decode_event(wire)


def encode_events(
    events: Sequence[NewEvent],
    first_position: int,
    now: str,
    versions: Sequence[int | None] | None = None,
    *,
    columns: Columns | None = None,
) -> list[bytes]:
    """Each event as `encode_event` gives it, at positions from the first on.

    Without `versions`, one for each event, all of them must be plain. `columns` are the same
    events, where they are known already.
    """
    if versions is not None:
        return list(map(encode_event, events, count(first_position), repeat(now), versions))
    if len(events) < FEW:
        return list(map(encode_event, events, count(first_position), repeat(now)))
    columns = columns or Columns.of(events)
    encoded: list[bytes] = []
    for at in range(0, len(events), _MANY):
        # From lists: of what an iterator hands it, msgspec 0.22 lets nothing go again.
        types, datas = columns.types[at : at + _MANY], columns.datas[at : at + _MANY]
        times = [now if it is UNSET else it for it in columns.times[at : at + _MANY]]
        positioned = list(map(_Plain, count(first_position + at), types, datas, times))
        # All by one call. But data may hold line breaks of its own.
        lines = _encode_lines(positioned).split(b"\n")
        if len(lines) != len(types) + 1:
            few = events[at : at + _MANY]
            lines = [*map(encode_event, few, count(first_position + at), repeat(now)), b""]
        del lines[-1]
        encoded += lines
    return encoded


FEW = 4
"""From so many events on it is worth to look at columns."""

_MANY = 256
"""Other threads wait for the end of one call into C."""

_encode_lines = msgspec.json.Encoder().encode_lines

_parse_event = msgspec.json.Decoder(_ParsedEvent).decode
_parse_events = msgspec.json.Decoder(list[_ParsedEvent]).decode


def parse_event(body: bytes) -> NewEvent:
    """An event from the JSON of a client. Raises `msgspec.DecodeError` and what it inherits."""
    return _parse_event(checked_utf8(body))


def parse_events(body: bytes) -> Sequence[NewEvent]:
    """Like `parse_event`, from an array of events."""
    return _parse_events(checked_utf8(body))


def checked_utf8(body: bytes) -> bytes:
    """The same bytes, or `UnicodeDecodeError`. The parser does not look at what it skips."""
    if not body.isascii():
        body.decode()
    return body


def event_bytes(event: NewEvent) -> int:
    """The size that `Limits.max_event_bytes` bounds: bytes of the data, and characters else.

    What has bounds of its own does not count: metadata, id and stream.
    """
    return len(event.data) + len(event.type) + len(event.timestamp or "")


def check_events(events: Sequence[NewEvent], limits: Limits) -> bool:
    """Raise for the first reason why these events cannot be one append.

    Says whether all of them are plain.

    Raises `InvalidBatch` for no events or too many, `InvalidEvent` for one that is none,
    `EventTooLarge` for one that is too large.
    """
    if not events:
        raise InvalidBatch("a batch holds at least one event")
    if len(events) > limits.max_batch_events:
        raise InvalidBatch(f"Batch size limited to {limits.max_batch_events} events")
    return _check_each(events, limits)


def plain_columns(events: Sequence[NewEvent], limits: Limits) -> Columns | None:
    """The columns of events of which it can be told at once that they are plain, and valid.

    None says nothing. It looks at one property of all events after the other, so that the loops
    are C's: a fraction of what looking at each event costs.
    """
    classes = set(map(type, events))
    if not classes <= {NewEvent, _ParsedEvent}:
        return None
    if [
        0
        for event in events
        if event.id is not None or event.stream is not None or event.metadata is not None
    ]:
        return None
    columns = Columns.of(events)
    times = [it for it in columns.times if it is not UNSET]
    if NewEvent in classes and not _are_plain_documents(columns.types, times, columns.datas):
        return None
    types = list(set(columns.types))
    longest = max(map(len, columns.datas), default=0)
    lines = "\n".join([*times, ""])
    are_valid = (
        longest <= min(limits.max_json_depth, limits.max_event_bytes - _MAX_PLAIN_CHARS)
        and all(len(it) <= min(limits.max_type_chars, _MAX_PLAIN_TYPE) for it in types)
        and all(map(_PLAIN_TYPE.fullmatch, types))
        and lines.count("\n") == len(times)  # so that none of them is two lines
        and _PLAIN_TIMESTAMPS.fullmatch(lines) is not None
    )
    return columns if are_valid else None


def _are_plain_documents(types: list[Any], times: list[Any], datas: list[Any]) -> bool:
    """Whether these are what they should be, and the data is JSON: true of what was parsed."""
    if set(map(type, (*types, *times))) != {str} or set(map(type, datas)) != {Raw}:
        return False
    texts = list(map(bytes, datas))
    if not all(map(bytes.isascii, texts)):
        return False
    try:
        deque(map(_parse_json, texts), maxlen=0)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


_MAX_PLAIN_TYPE = 255
_MAX_PLAIN_CHARS = _MAX_PLAIN_TYPE + len("2024-01-01T00:00:00.000000000+00:00")
_PLAIN_TYPE = re.compile(r"[ -~]+")
_PLAIN_TIMESTAMPS = re.compile(  # one a line
    r"(?:\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"  # days that every month has
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)\n)*+",
    re.ASCII,
)


def _check_each(events: Sequence[NewEvent], limits: Limits) -> bool:
    are_plain = True
    max_bytes, max_depth = limits.max_event_bytes, limits.max_json_depth
    good_types: set[str] = set()
    for index, event in enumerate(events):
        if not isinstance(event, NewEvent):
            raise InvalidEvent("is not a NewEvent", index=index)
        event_type, timestamp = event.type, event.timestamp
        if type(event_type) is not str or event_type not in good_types:
            check_text(event_type, limits.max_type_chars, index=index, field="type")
            good_types.add(event_type)
        if timestamp is not UNSET and not (type(timestamp) is str and is_timestamp(timestamp)):
            raise InvalidEvent(
                "must be an RFC 3339 time that exists, with an offset and at most nine "
                "decimals, such as 2024-01-01T00:00:00Z",
                index=index,
                field="timestamp",
            )
        if not isinstance(event.data, Raw):
            raise InvalidEvent("must be msgspec.Raw", index=index, field="data")
        size = len(event.data) + len(event_type) + len(timestamp or "")
        if size > max_bytes:
            problem = f"has {size} bytes, at most {max_bytes} are allowed"
            raise EventTooLarge(problem, index=index)
        # Only data with more than so many bytes can nest too deeply; the parser would recurse.
        if len(event.data) > max_depth and nests_deeper(bytes(event.data), max_depth):
            problem = f"nests deeper than {max_depth} levels"
            raise InvalidEvent(problem, index=index, field="data")
        if event.id is not None or event.stream is not None or event.metadata is not None:
            are_plain = False
            _check_further_members(event, limits, index)
        if type(event) is _ParsedEvent:
            continue
        data = bytes(event.data)
        try:
            if not data.isascii():
                data.decode()
            _parse_json(data)
        except UnicodeDecodeError:
            raise InvalidEvent("must be valid UTF-8", index=index, field="data") from None
        except (msgspec.DecodeError, RecursionError) as error:
            problem = f"must be one JSON document: {error}"
            raise InvalidEvent(problem, index=index, field="data") from None
    return are_plain


_parse_json = msgspec.json.Decoder(Raw).decode

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_text(text: Any, max_chars: int, *, index: int = 0, field: str) -> None:
    """Raise `InvalidEvent` unless this is text as a type, an id or a stream may be."""
    if type(text) is not str:  # of a class derived from it the encoder knows nothing
        raise InvalidEvent("must be text, a str", index=index, field=field)
    if not text:
        raise InvalidEvent("must not be empty", index=index, field=field)
    if len(text) > max_chars:
        problem = f"has {len(text)} characters, at most {max_chars} are allowed"
        raise InvalidEvent(problem, index=index, field=field)
    if CONTROL_CHARACTER.search(text):
        raise InvalidEvent("must not hold control characters", index=index, field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEvent("must not hold lone surrogates", index=index, field=field) from None


def _check_further_members(event: NewEvent, limits: Limits, index: int) -> None:
    if event.id is not None:
        check_text(event.id, limits.max_event_id_chars, index=index, field="id")
    if event.stream is not None:
        check_text(event.stream, limits.max_stream_chars, index=index, field="stream")
    if event.metadata is not None:
        _check_metadata(event.metadata, limits.max_metadata_bytes, index)


def _check_metadata(metadata: Any, max_bytes: int, index: int) -> None:
    not_flat = "must be a flat map of texts"
    size = 0
    if isinstance(metadata, Raw):
        size = len(metadata)
        if size <= _MAX_ESCAPED * max_bytes:  # small enough to be looked at
            try:
                metadata = _decode_metadata(metadata)
            except (UnicodeDecodeError, msgspec.MsgspecError) as error:
                problem = f"{not_flat}: {str(error).partition(' - at ')[0]}"
                raise InvalidEvent(problem, index=index, field="metadata") from None
            if size > max_bytes:  # as it was sent: with escapes, or white space
                size = len(_encode_json(metadata))
    elif type(metadata) is not dict or set(map(type, chain(*metadata.items()))) - {str}:
        raise InvalidEvent(not_flat, index=index, field="metadata")
    else:
        try:
            size = len(_encode_json(metadata))
        except UnicodeEncodeError:
            problem = "must not hold lone surrogates"
            raise InvalidEvent(problem, index=index, field="metadata") from None
    if size > max_bytes:
        problem = f"has {size} bytes, at most {max_bytes} are allowed"
        raise EventTooLarge(problem, index=index, field="metadata")


_MAX_ESCAPED = 6
"""A byte of JSON becomes at most so many when all of it is escaped: an `a` as `\\u0061`."""


_TIMESTAMP = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_matches_timestamp = _TIMESTAMP.fullmatch


def is_timestamp(text: str) -> bool:
    """Whether this is an RFC 3339 time that exists, as events carry it."""
    if not _matches_timestamp(text):
        return False
    day = text[8:10]
    return day <= "28" or int(day) <= _days_in(int(text[:4]), int(text[5:7]))


def instant_ns(timestamp: str) -> int:
    """A time stamp, for which `is_timestamp` holds, as nanoseconds since 1970 in UTC."""
    year = int(timestamp[:4])
    # Python knows no year 0; the calendar is the same again after 400 years.
    day = date(year or 400, int(timestamp[5:7]), int(timestamp[8:10])).toordinal()
    seconds = (day - _EPOCH - (0 if year else _DAYS_OF_400_YEARS)) * 86_400
    seconds += int(timestamp[11:13]) * 3_600 + int(timestamp[14:16]) * 60 + int(timestamp[17:19])
    rest = timestamp[19:]
    offset = "" if rest.endswith("Z") else rest[-6:]
    decimals = rest.removesuffix("Z").removesuffix(offset).removeprefix(".")
    if offset:
        away = int(offset[1:3]) * 3_600 + int(offset[4:6]) * 60
        seconds -= away if offset[0] == "+" else -away
    return seconds * 1_000_000_000 + int(decimals.ljust(9, "0"))


_EPOCH = date(1970, 1, 1).toordinal()
_DAYS_OF_400_YEARS = 146_097

_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _days_in(year: int, month: int) -> int:
    return 29 if month == 2 and calendar.isleap(year) else _DAYS[month - 1]


# Possessive, and a string that never ends is taken whole: linear whatever the text is.
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPEN_AND_CLOSE = bytes.maketrans(b"{}", b"[]")
_OPEN = ord("[")


def nests_deeper(text: bytes, depth: int) -> bool:
    """Whether arrays and objects nest deeper than `depth`, without recursion."""
    if text.count(b"[") + text.count(b"{") <= depth:
        return False
    brackets = _JSON_STRING.sub(b"", text).translate(_OPEN_AND_CLOSE, _NO_BRACKETS)
    return any(level > depth for level in accumulate(1 if it == _OPEN else -1 for it in brackets))
