"""Events to test with: plain ones, ones that are hard to keep as they are, and strategies."""

from __future__ import annotations

import json
from typing import NamedTuple

from hypothesis import strategies as st
from msgspec import Raw

from ebus.core.event import NewEvent

TIMESTAMP = "2024-01-01T00:00:00Z"


def new_event(
    data: bytes = b"null",
    *,
    type: str = "Tested",
    timestamp: str = TIMESTAMP,
    id: str | None = None,
    stream: str | None = None,
    metadata: dict[str, str] | Raw | None = None,
) -> NewEvent:
    """A valid event that is ordinary in all that is not given."""
    return NewEvent(type, Raw(data), timestamp, id, stream, metadata)


def numbered(count: int, first: int = 1) -> list[NewEvent]:
    """So many valid events, each with a number of its own, and of different sizes."""
    return [
        new_event(b'{"number":%d,"filling":"%b"}' % (number, b"x" * (number * 7 % 40)))
        for number in range(first, first + count)
    ]


def event_of_bytes(size: int) -> NewEvent:
    """A valid event of so many bytes: its type, data and time stamp together."""
    filling = size - len(new_event(b'""').type) - len('""') - len(TIMESTAMP)
    return new_event(b'"' + b"x" * filling + b'"')


class Sent(NamedTuple):
    """An event that prints as it is, for Hypothesis to show."""

    type: str
    data: bytes
    timestamp: str
    id: str | None = None
    stream: str | None = None
    metadata: dict[str, str] | Raw | None = None

    def new_event(self) -> NewEvent:
        return NewEvent(
            self.type, Raw(self.data), self.timestamp, self.id, self.stream, self.metadata
        )


HARD_DATA: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "empty text": b'""',
    "empty object": b"{}",
    "empty array": b"[]",
    "zero": b"0",
    "minus zero": b"-0",
    "minus zero with a decimal": b"-0.0",
    "one with a decimal": b"1.0",
    "trailing zero": b"0.10",
    "beyond a double": b"1e999",
    "below a double": b"-1E-999",
    "exponent with a plus": b"1.50e+07",
    "more digits than a double": b"0.1000000000000000055511151231257827",
    "beyond 53 bits": b"9007199254740993",
    "beyond 64 bits": b"18446744073709551617",
    "40 digits": b"1234567890123456789012345678901234567890",
    "5000 digits": b"9" * 5000,
    "keys out of order": b'{"b":1,"a":2,"":3,"B":4}',
    "duplicate keys": b'{"a":1,"b":2,"a":3}',
    "spaces inside": b'{ "a" : [ 1 , 2 ] }',
    "lines and tabs inside": b'{\r\n\t"a": 1,\n\t"b": [\n\t]\r\n}',
    "every short escape": rb'"\"\\\/\b\f\n\r\t"',
    "escapes that need none": rb'"\u0041\u00e9\u002f"',
    "escapes in lower and upper case": rb'"\u00eF\u00Ef"',
    "escaped NUL": rb'{"a\u0000b":"\u0000"}',
    "escaped surrogate pair": rb'"\ud83d\ude00"',
    "unescaped beyond ASCII": '"é中😀"'.encode(),
    "composed and decomposed": '["é","e\u0301"]'.encode(),
    "line separators": '"\u2028\u2029"'.encode(),
    "byte order mark": '"\ufeff"'.encode(),
    "noncharacters": '"\uffff\U0010ffff"'.encode(),
    "delete": b'"\x7f"',
    "what HTML escapes": b'"<script>&amp;</script>"',
    "our framing as text": rb'"},{\"position\":7,\"type\":\"x\",\"data\":1"',
    "our framing unescaped": b'{"position":7,"type":"x","data":{"position":8},"timestamp":"y"}',
    "brackets in text": b'"]}],[{["',
    "a backslash at the end of text": rb'["\\","\\\\"]',
    "quotes and semicolons": b'"\'; DROP TABLE events; --"',
    "placeholders": b'"%s %d {0} ? :a $1"',
    "nests 512 deep": b"[" * 512 + b"]" * 512,
    "objects nest 512 deep": b'{"a":' * 512 + b"1" + b"}" * 512,
    "brackets in text do not nest": b'["' + b"[{" * 1000 + b'"]',
    "many side by side": b"[" + b",".join([b"[{}]"] * 2000) + b"]",
    "100 KB": b'"' + b"x" * 100_000 + b'"',
}
"""JSON that less careful stores change, cut or refuse."""

HARD_TYPES: dict[str, str] = {
    "one character": "x",
    "255 characters": "x" * 255,
    "255 characters of four bytes": "😀" * 255,
    "spaces at the ends": " x ",
    "a space": " ",
    "quotes": "a\"b'c",
    "a backslash": "a\\b\\",
    "our framing": 'x","data":1},{"position":7,"type":"y',
    "a percent sign": "100%s%d%b",
    "a slash": "../../x",
    "beyond ASCII": "Größe中",
    "decomposed": "e\u0301",
    "line separators": "\u2028\u2029",
    "joined emoji": "👩\u200d💻",
    "no-break space": "a\u00a0b",
    "a noncharacter": "\uffff",
    "an escape as text": "\\u0000\\n",
}

HARD_TIMESTAMPS: dict[str, str] = {
    "no decimals": "2024-02-29T23:59:59Z",
    "one decimal": "2024-01-01T00:00:00.5Z",
    "nine decimals": "2024-01-01T00:00:00.123456789Z",
    "trailing zeros": "2024-01-01T00:00:00.120000000Z",
    "only zeros": "2024-01-01T00:00:00.000Z",
    "east": "2024-01-01T00:00:00.000000001+05:30",
    "west": "2024-01-01T00:00:00.9-09:30",
    "far east": "2024-01-01T00:00:00+14:00",
    "the largest offset": "2024-01-01T00:00:00+23:59",
    "zero as an offset": "2024-01-01T00:00:00+00:00",
    "unknown offset": "2024-01-01T00:00:00-00:00",
    "the first year": "0001-01-01T00:00:00Z",
    "the last moment": "9999-12-31T23:59:59.999999999-23:59",
    "a leap day of a century": "2000-02-29T12:00:00Z",
    "before 1970": "1969-12-31T23:59:59Z",
}

_WHITE_SPACE = st.text(" \t\r\n", max_size=2)
_NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
)
_STRINGS = st.builds(
    lambda text, escaped: json.dumps(text, ensure_ascii=escaped),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.booleans(),
)


def _spaced(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}{}".format, _WHITE_SPACE, texts, _WHITE_SPACE)


def _containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.builds("{}:{}".format, _spaced(_STRINGS), _spaced(values))
    return st.one_of(
        st.lists(_spaced(values), max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.lists(members, max_size=3).map(lambda items: f"{{{','.join(items)}}}"),
    )


def json_documents() -> st.SearchStrategy[bytes]:
    """JSON in all its spellings: numbers, escapes, white space inside, keys twice."""
    leaves = st.sampled_from(["null", "true", "false"]) | _NUMBERS | _STRINGS
    return st.recursive(leaves, _containers, max_leaves=6).map(str.encode)


def event_types() -> st.SearchStrategy[str]:
    characters = st.characters(codec="utf-8", exclude_categories=["Cc"])
    return st.text(characters, min_size=1, max_size=12)


def timestamps() -> st.SearchStrategy[str]:
    """Times with every number of decimals and any offset."""
    moments = st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds"))
    decimals = st.just("") | st.from_regex(r"\.[0-9]{1,9}", fullmatch=True)
    offsets = st.just("Z") | st.from_regex(r"[+-]([01][0-9]|2[0-3]):[0-5][0-9]", fullmatch=True)
    return st.builds("{}{}{}".format, moments, decimals, offsets)


def sent_events() -> st.SearchStrategy[Sent]:
    """Valid events of less than 1,000 bytes, without ids: two of them may be equal."""
    data = json_documents().filter(lambda data: len(data) < 800)
    metadata = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
    return st.builds(
        Sent,
        event_types(),
        data,
        timestamps(),
        st.none(),
        st.none() | event_types(),
        st.none() | metadata,
    )
