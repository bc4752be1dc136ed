"""Events by themselves, before any store has seen them."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, StrEnum

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from ebus import Event, NewEvent
from ebus.core.errors import EventTooLarge, InvalidEvent
from ebus.core.event import (
    _check_each,
    check_events,
    decode_event,
    encode_event,
    encode_events,
    instant_ns,
    is_timestamp,
    metadata_of,
    nests_deeper,
    parse_event,
    parse_events,
    plain_columns,
    utc_now,
)
from ebus.core.limits import Limits

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text(min_size=1, max_size=20), JSON)
def test_what_is_encoded_is_decoded_again(type: str, value: object) -> None:
    wire = encode_event(NewEvent.of(type, value, "2024-01-01T00:00:00Z"), 7, "")
    event = decode_event(wire)
    assert (event.position, event.type, event.value()) == (7, type, value)
    assert msgspec.json.decode(wire)["data"] == value


def test_an_event_takes_an_aware_datetime() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert NewEvent.of("T", 1, moment).timestamp == "2024-05-06T07:08:09.123456+02:00"
    check_events([NewEvent.of("T", 1, moment)], Limits())


def test_a_naive_datetime_is_refused_when_it_is_appended() -> None:
    event = NewEvent.of("T", 1, datetime(2024, 5, 6))  # noqa: DTZ001 - that is the point
    with pytest.raises(InvalidEvent, match="timestamp"):
        check_events([event], Limits())


def nested_in_itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [object(), float("nan"), {"a": [None, float("inf")]}, nested_in_itself(), "\ud800"],
    ids=["an object", "NaN", "infinity", "a list in itself", "a lone surrogate"],
)
def test_what_cannot_be_json_is_refused(value: object) -> None:
    with pytest.raises(InvalidEvent, match="cannot be written as JSON"):
        NewEvent.of("T", value)


def test_a_number_that_no_float_holds_is_read_as_infinite() -> None:
    assert Event(1, "T", msgspec.Raw(b'{"a":1e999}'), "").value() == {"a": float("inf")}


def test_the_clock_is_a_valid_time_in_utc() -> None:
    before = time.time()
    check_events([NewEvent.of("T", 1, utc_now())], Limits())
    moment = datetime.fromisoformat(utc_now()[:26] + "+00:00")
    assert before - 1 < moment.timestamp() < time.time() + 1
    assert moment.tzinfo == UTC


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - the offset follows
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_an_instant_is_what_the_calendar_says(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    microseconds = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert instant_ns(aware.isoformat()) == microseconds * 1_000


@pytest.mark.parametrize(
    ("timestamp", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.1Z", 100_000_000),
        ("1970-01-01T00:00:00.120000000-00:00", 120_000_000),
        ("1970-01-01T01:30:00.5+01:30", 500_000_000),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("9999-12-31T23:59:59.999999999-23:59", 253_402_387_139_999_999_999),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000_000),
        ("0000-12-31T00:00:00Z", -62_135_683_200_000_000_000),
        ("0000-02-29T00:00:00Z", -62_135_596_800_000_000_000 - 307 * 86_400_000_000_000),
    ],
)
def test_an_instant_has_every_decimal_and_any_year(timestamp: str, nanoseconds: int) -> None:
    assert is_timestamp(timestamp)
    assert instant_ns(timestamp) == nanoseconds


names = st.none() | st.sampled_from(["a", "größe", 'x","data":1'])


@given(
    st.lists(
        st.builds(
            NewEvent,
            st.text(min_size=1, max_size=5),
            st.sampled_from([b"1", b"[1,\n2]"]).map(Raw),
            st.sampled_from([UNSET, "2024-02-29T00:00:00Z"]),
            names,
            names,
            st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        ),
        max_size=6,
    ),
    st.integers(1, 2**62),
)
def test_every_member_is_encoded_and_decoded_again(events: list[NewEvent], first: int) -> None:
    versions = [None if event.stream is None else 7 + at for at, event in enumerate(events)]
    encoded = encode_events(events, first, "now", versions)
    for at, (event, version, wire) in enumerate(zip(events, versions, encoded, strict=True)):
        assert decode_event(wire) == Event(
            first + at,
            event.type,
            event.data,
            event.timestamp or "now",
            event.id,
            event.stream,
            version,
            metadata_of(event),
        )
        assert encode_event(decode_event(wire), first + at, "", version) == wire
        assert msgspec.json.decode(wire).keys() == {
            *("position", "type", "data", "timestamp"),
            *(["id"] if event.id is not None else []),
            *(["stream", "version"] if event.stream is not None else []),
            *(["metadata"] if event.metadata is not None else []),
        }


def test_what_is_stamped_keeps_its_members() -> None:
    event = NewEvent.of("T", 1, id="a", stream="s", metadata={"k": "v"})
    stamped = event.stamped("2024-01-01T00:00:00Z")
    assert stamped == msgspec.structs.replace(event, timestamp="2024-01-01T00:00:00Z")
    assert stamped.stamped("2025-01-01T00:00:00Z") is stamped


def test_an_event_that_is_not_plain_is_not_plainly_valid() -> None:
    plain = NewEvent.of("T", 1)
    for further in (
        NewEvent.of("T", 1, id="a"),
        NewEvent.of("T", 1, stream="s"),
        NewEvent.of("T", 1, metadata={}),
    ):
        assert not plain_columns([plain, further], Limits())
        assert check_events([plain] * 5, Limits()) is True
        assert check_events([*[plain] * 5, further], Limits()) is False


def test_an_event_shows_its_value() -> None:
    assert Event(1, "T", msgspec.Raw(b'{"a":[1,2]}'), "").value() == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("json", "deep"),
    [
        (b"[[[]]]", 3),
        (b'{"a":{"b":{}}}', 3),
        (b"[[],[],[],[],[]]", 2),
        (b'["[[[[[[[["]', 1),
        (b'["\\"[[[[", "]]"]', 1),
        (b'["\\\\", [[]]]', 3),
        (b'{"{{{{":"[[[["}', 1),
    ],
)
def test_depth_is_counted_outside_strings(json: bytes, deep: int) -> None:
    assert not nests_deeper(json, deep)
    assert nests_deeper(json, deep - 1)


@given(
    st.lists(
        st.builds(
            NewEvent,
            st.sampled_from(["A", "", "a\n", "é", "x" * 255, "x" * 256, "\ud800"]),
            st.sampled_from([b"1", b"", b"{", b'"\xff"', b'"\xc3\xa9"', b"[1,2]", b"[" * 600]).map(
                Raw
            ),
            st.sampled_from([UNSET, "2024-02-29T00:00:00Z", "2023-02-29T00:00:00Z", "now", ""])
            | st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
        ),
        min_size=1,
        max_size=3,
    ),
    st.builds(Limits, max_event_bytes=st.integers(1, 400), max_type_chars=st.integers(1, 300)),
)
def test_what_is_plainly_valid_is_valid(events: list[NewEvent], limits: Limits) -> None:
    if plain_columns(events, limits):
        _check_each(events, limits)


@given(
    st.lists(
        st.sampled_from([b'{"type":"A","data":1}', b'{"type":"","data":[1]}'])
        | st.builds(
            lambda name, time, size: msgspec.json.encode(
                {"type": name, "data": [0] * size, "timestamp": time}
            ),
            st.sampled_from(["A", "\x7f", "\u00e9", "x" * 256]),
            st.sampled_from(
                [
                    "2024-02-29T00:00:00Z",
                    "2023-02-29T00:00:00Z",
                    "2024-01-01T00:00:00Z\n2024-01-01T00:00:00Z",
                    "\n",
                    "",
                ]
            ),
            st.sampled_from([0, 1, 300]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.builds(Limits, max_event_bytes=st.integers(1, 900), max_type_chars=st.integers(1, 300)),
)
def test_what_was_parsed_and_is_plainly_valid_is_valid(bodies: list[bytes], limits: Limits) -> None:
    events = parse_events(b"[" + b",".join(bodies) + b"]")
    if plain_columns(events, limits):
        _check_each([NewEvent(it.type, it.data, it.timestamp) for it in events], limits)


def test_what_was_parsed_is_as_valid_as_what_was_made() -> None:
    parsed = parse_events(b'[{"type":"A","data":{"a": [1]},"timestamp":"2024-01-01T00:00:00Z"}]')
    assert plain_columns(parsed, Limits())
    with pytest.raises(UnicodeDecodeError):
        parse_events(b'[{"type":"A","data":"\xff"}]')


def test_metadata_is_not_looked_at_before_events_are_checked() -> None:
    """As a map it takes ten times as much memory as in the body."""
    [event] = parse_events(b'[{"type":"A","data":1,"metadata":{"a":"b","c":1}}]')
    assert isinstance(event.metadata, Raw)
    with pytest.raises(EventTooLarge):
        check_events([event], Limits(max_metadata_bytes=2))
    with pytest.raises(InvalidEvent, match="flat map of texts"):
        check_events([event], Limits())


def test_metadata_counts_as_what_it_says_however_it_is_escaped() -> None:
    """Many clients escape whatever is not ASCII."""
    escaped = json.dumps({"type": "A", "data": 1, "metadata": {"k": "\u65e5" * 30}}).encode()
    check_events([parse_event(escaped)], Limits(max_metadata_bytes=100))
    with pytest.raises(EventTooLarge, match="has 98 bytes"):
        check_events([parse_event(escaped)], Limits(max_metadata_bytes=97))
    with pytest.raises(EventTooLarge):
        check_events([parse_event(escaped)], Limits(max_metadata_bytes=20))


@given(
    st.lists(
        st.builds(
            NewEvent,
            st.text(),
            st.sampled_from([b"1", b'"a\\nb"', b"[1,\n2]", b'{\r\n"a":1}', b'"\xc3\xa9"']).map(Raw),
            st.sampled_from([UNSET, "2024-02-29T00:00:00Z"]),
        ),
        max_size=12,
    ),
    st.integers(1, 2**62),
)
def test_many_events_are_encoded_as_each_of_them(events: list[NewEvent], first: int) -> None:
    each = [encode_event(event, first + at, "now") for at, event in enumerate(events)]
    assert encode_events(events, first, "now") == each


def test_events_may_come_in_any_sequence() -> None:
    events = deque([NewEvent.of("T", 1, "2024-01-01T00:00:00Z")] * 600)
    each = [encode_event(event, 1 + at, "now") for at, event in enumerate(events)]
    assert encode_events(events, 1, "now") == each


class Kind(StrEnum):
    ORDER_PLACED = "OrderPlaced"


class OldKind(str, Enum):  # noqa: UP042 - it is what many programs still have
    ORDER_PLACED = "OrderPlaced"


@pytest.mark.parametrize("type", [Kind.ORDER_PLACED, OldKind.ORDER_PLACED])
def test_a_type_may_be_a_member_of_an_enumeration(type: str) -> None:
    events = [NewEvent.of(type, 1)] * 4
    check_events(events, Limits())
    assert encode_event(events[0], 1, "now").startswith(b'{"position":1,"type":"OrderPlaced",')


def test_two_times_on_two_lines_are_no_time_in_a_batch_of_parsed_events() -> None:
    event = b'{"type":"t","data":1,"timestamp":"2024-01-01T00:00:00Z\\n2024-01-01T00:00:00Z"}'
    with pytest.raises(InvalidEvent, match="RFC 3339"):
        check_events(parse_events(b"[" + b",".join([event] * 4) + b"]"), Limits())


def test_encoding_events_does_not_keep_what_they_were_parsed_from() -> None:
    body = b"[%b]" % b",".join([b'{"type":"t","data":1}'] * 1_000)
    before = sys.getrefcount(body)
    encode_events(parse_events(body), 1, "now")
    assert sys.getrefcount(body) == before
