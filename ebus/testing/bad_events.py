"""Events that every store refuses, each with the field that is to blame."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Raw

from ebus.core.event import NewEvent
from ebus.testing.events import TIMESTAMP


class BadEvent(NamedTuple):
    """An event with one thing wrong with it."""

    why: str
    field: str
    event: NewEvent


class DerivedText(str):
    """Text that an encoder may take for something else."""


_BAD_TYPES: dict[str, Any] = {
    "empty": "",
    "a class of its own": DerivedText("Tested"),
    "256 characters": "x" * 256,
    "a newline": "a\nb",
    "a newline at the end": "a\n",
    "a tab": "a\tb",
    "NUL": "a\x00",
    "escape": "\x1b[31m",
    "delete": "\x7f",
    "a C1 control character": "\x85",
    "a lone high surrogate": "\ud800",
    "a lone low surrogate": "a\udc00",
    "a pair of surrogates": "\ud83d\ude00",
    "None": None,
    "a number": 7,
    "bytes": b"x",
    "a list": ["x"],
}

_BAD_DATA: dict[str, Any] = {
    "empty": b"",
    "white space alone": b" \n",
    "two documents": b"1 2",
    "two lines of JSON": b'{"a":1}\n{"a":2}',
    "text after the end": b"{}}",
    "cut short": b'{"a":1',
    "an array cut short": b"[1,2",
    "text cut short": b'"abc',
    "text cut short in an escape": b'"abc\\',
    "a word": b"hello",
    "NaN": b"NaN",
    "NaN inside": b"[NaN]",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "None": b"None",
    "single quotes": b"'a'",
    "a key without quotes": b"{a:1}",
    "a number as a key": b"{1:2}",
    "a comma at the end of an array": b"[1,]",
    "a comma at the end of an object": b'{"a":1,}',
    "no colon": b'{"a" 1}',
    "no comma": b"[1 2]",
    "a comment": b"1 // one",
    "a leading zero": b"01",
    "a leading plus": b"+1",
    "no digit before the point": b".5",
    "no digit after the point": b"1.",
    "an empty exponent": b"1e",
    "a lone minus": b"-",
    "hexadecimal": b"0x10",
    "underscores": b"1_000",
    "a control character in text": b'"a\nb"',
    "NUL in text": b'"\x00"',
    "NUL after the end": b"1\x00",
    "a control character in a key": b'{"a\tb":1}',
    "an unknown escape": rb'"\q"',
    "an escape that is not hexadecimal": rb'"\u12G4"',
    "a byte order mark": b"\xef\xbb\xbf1",
    "a no-break space": b"\xc2\xa01",
    "Latin-1": b'"\xe9"',
    "UTF-16": '"a"'.encode("utf-16"),
    "an overlong encoding": b'"\xc0\xaf"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "UTF-8 cut short": b'"\xe4\xb8"',
    "an escaped lone high surrogate": rb'"\ud800"',
    "an escaped lone low surrogate": rb'"\udc00"',
    "an escaped high surrogate and a letter": rb'"\ud800\u0041"',
    "an escaped high surrogate and text": rb'"\ud800abcdef"',
    "escaped surrogates the wrong way round": rb'"\ude00\ud83d"',
    "a lone surrogate deep inside": rb'{"a":[{"b":"\ud800"}]}',
    "a lone surrogate in a key": rb'{"\udc00":1}',
    "our framing": b'1},{"position":7',
    "our framing and the rest": b'1,"data":2',
    "nests 513 deep": b"[" * 513 + b"]" * 513,
    "objects nest 513 deep": b'{"a":' * 513 + b"1" + b"}" * 513,
    "nests 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "opens 100,000 times": b"[" * 100_000,
    "objects nest 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "opens, and text without end": b"[" * 600 + b'"' + rb"\"" * 400_000,
}

_BAD_DATA_OBJECTS: dict[str, Any] = {
    "None for bytes": None,
    "text for bytes": "{}",
    "a dict for bytes": {"a": 1},
}

_BAD_TIMESTAMPS: dict[str, Any] = {
    "empty": "",
    "the 30th of February": "2024-02-30T00:00:00Z",
    "the 29th of February of a common year": "2023-02-29T00:00:00Z",
    "the 29th of February of a common century": "1900-02-29T00:00:00Z",
    "the 31st of April": "2024-04-31T00:00:00Z",
    "month 0": "2024-00-01T00:00:00Z",
    "month 13": "2024-13-01T00:00:00Z",
    "day 0": "2024-01-00T00:00:00Z",
    "day 32": "2024-01-32T00:00:00Z",
    "hour 24": "2024-01-01T24:00:00Z",
    "minute 60": "2024-01-01T00:60:00Z",
    "second 60": "2016-12-31T23:59:60Z",
    "a date only": "2024-01-01",
    "no seconds": "2024-01-01T00:00Z",
    "no offset": "2024-01-01T00:00:00",
    "an offset of 24 hours": "2024-01-01T00:00:00+24:00",
    "an offset of 60 minutes": "2024-01-01T00:00:00+00:60",
    "an offset without a colon": "2024-01-01T00:00:00+0000",
    "an offset without minutes": "2024-01-01T00:00:00+00",
    "a typographic minus": "2024-01-01T00:00:00\u221205:00",
    "a point without decimals": "2024-01-01T00:00:00.Z",
    "a comma": "2024-01-01T00:00:00,5Z",
    "ten decimals": "2024-01-01T00:00:00.1234567890Z",
    "a lower-case t": "2024-01-01t00:00:00Z",
    "a lower-case z": "2024-01-01T00:00:00z",
    "a space for the T": "2024-01-01 00:00:00Z",
    "no dashes": "20240101T000000Z",
    "a year of two digits": "24-01-01T00:00:00Z",
    "a year of five digits": "12024-01-01T00:00:00Z",
    "a negative year": "-2024-01-01T00:00:00Z",
    "a newline at the end": "2024-01-01T00:00:00Z\n",
    "two lines": "2024-01-01T00:00:00Z\n2024-01-01T00:00:00Z",
    "three lines": "2024-01-01T00:00:00Z\n" * 2 + "2024-01-01T00:00:00Z",
    "a class of its own": DerivedText("2024-01-01T00:00:00Z"),
    "a space at the end": "2024-01-01T00:00:00Z ",
    "a space before": " 2024-01-01T00:00:00Z",
    "Arabic digits": "٢٠٢٤-01-01T00:00:00Z",
    "fullwidth decimals": "2024-01-01T00:00:00.\uff11Z",
    "fullwidth offset": "2024-01-01T00:00:00+0\uff11:00",
    "a quote": '2024-01-01T00:00:00Z","x":"',
    "seconds since 1970": "1704067200",
    "None": None,
    "a number": 1704067200,
    "bytes": b"2024-01-01T00:00:00Z",
}

_BAD_NAMES: dict[str, Any] = {
    why: text
    for why, text in _BAD_TYPES.items()
    if why not in {"None", "a tab", "escape", "a pair of surrogates", "a list"}
}
"""No id and no stream: what none of them may be is looked at as a type is. None is fine."""

_BAD_METADATA: dict[str, Any] = {
    "text": "a",
    "a list": [],
    "a list of pairs": [["a", "b"]],
    "a number within": {"a": 1},
    "null within": {"a": None},
    "a map within": {"a": {"b": "c"}},
    "a number as a key": {1: "a"},
    "a class of its own": {"a": DerivedText("b")},
    "a class of its own as a key": {DerivedText("a"): "b"},
    "a lone surrogate": {"a": "\ud800"},
    "a lone surrogate in a key": {"\udc00": "a"},
    "JSON of text": Raw(b'"a"'),
    "JSON of a list": Raw(b"[]"),
    "JSON with a number within": Raw(b'{"a":1}'),
    "JSON with a map within": Raw(b'{"a":{"b":"c"}}'),
    "JSON of two documents": Raw(b"{} {}"),
    "JSON that goes on with another member": Raw(b'{},"x":1'),
    "JSON that ends within": Raw(b'{"a":"b"'),
    "no JSON": Raw(b""),
    "JSON with a lone surrogate": Raw(b'{"a":"\\ud800"}'),
    "JSON that is no UTF-8": Raw(b'{"a":"\xff"}'),
    "JSON that nests": Raw(b"[" * 10_000),
}

BAD_EVENTS: list[BadEvent] = [
    *(
        BadEvent(f"type: {why}", "type", NewEvent(text, Raw(b"1"), TIMESTAMP))
        for why, text in _BAD_TYPES.items()
    ),
    *(
        BadEvent(f"data: {why}", "data", NewEvent("Tested", Raw(json), TIMESTAMP))
        for why, json in _BAD_DATA.items()
    ),
    *(
        BadEvent(f"data: {why}", "data", NewEvent("Tested", thing, TIMESTAMP))
        for why, thing in _BAD_DATA_OBJECTS.items()
    ),
    *(
        BadEvent(f"timestamp: {why}", "timestamp", NewEvent("Tested", Raw(b"1"), text))
        for why, text in _BAD_TIMESTAMPS.items()
    ),
    *(
        BadEvent(f"id: {why}", "id", NewEvent("Tested", Raw(b"1"), TIMESTAMP, text))
        for why, text in _BAD_NAMES.items()
    ),
    *(
        BadEvent(f"stream: {why}", "stream", NewEvent("Tested", Raw(b"1"), TIMESTAMP, None, text))
        for why, text in _BAD_NAMES.items()
    ),
    *(
        BadEvent(
            f"metadata: {why}",
            "metadata",
            NewEvent("Tested", Raw(b"1"), TIMESTAMP, None, None, thing),
        )
        for why, thing in _BAD_METADATA.items()
    ),
]

NOT_EVENTS: dict[str, Any] = {
    "None": None,
    "a dict": {"type": "Tested", "data": 1},
    "text": "event",
    "a number": 1,
}
"""What is no event at all."""
