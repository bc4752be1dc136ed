"""Requests as bytes: the body, the query and the path's ids, read strictly.

What cannot be read is a `Problem` whose detail names the place and says what to send.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence, Set
from typing import Annotated, TypeVar
from urllib.parse import unquote_plus

import msgspec
from litestar.types import Receive, Scope

from ebus.core.event import NewEvent, checked_utf8, parse_event, parse_events
from ebus.core.filter import Filter
from ebus.core.limits import MAX_POSITION
from ebus.core.store import Expectation, NoneAfter
from ebus.http.bodies import Body
from ebus.http.problems import Problem

T = TypeVar("T")


class Position(msgspec.Struct, frozen=True):
    """A position by itself: a head, or a checkpoint."""

    position: Annotated[
        int,
        msgspec.Meta(ge=0, le=MAX_POSITION, description="Digits only: neither 1.0 nor 1e3"),
    ]


_position = msgspec.json.Decoder(Position)


class _Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str | list[str] = []
    stream: str | None = None
    stream_prefix: str | None = None

    def filter(self) -> Filter:
        types = (self.type,) if isinstance(self.type, str) else tuple(self.type)
        return Filter(types=types, stream=self.stream, stream_prefix=self.stream_prefix)


class _NoneAfter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    position: int
    match: list[_Match]


class _Expected(msgspec.Struct, frozen=True):
    """What may be expected beside an event, or beside the events of a batch."""

    expected_position: int | None = None
    expected_version: int | None = None
    expected_versions: dict[str, int] | None = None
    none_after: _NoneAfter | None = None

    @property
    def is_nothing(self) -> bool:
        return self is _NOTHING or self == _NOTHING

    def expectation(self, events: Sequence[NewEvent]) -> Expectation | None:
        """Raises `Problem` 400 for a version that is of no stream or of several, or said twice."""
        if self.is_nothing:
            return None
        versions = dict(self.expected_versions or {})
        if self.expected_version is not None:
            streams = {event.stream for event in events}
            if len(streams) != 1 or None in streams:
                raise Problem(
                    400,
                    "invalid_expectation",
                    "expected_version is for events of one stream: name it in each of them, or "
                    "send expected_versions",
                )
            if versions.setdefault(str(*streams), self.expected_version) != self.expected_version:
                raise _said_twice("expected_version and expected_versions")
        none_after = None
        if self.none_after is not None:
            filters = tuple(one.filter() for one in self.none_after.match)
            none_after = NoneAfter(self.none_after.position, filters)
        return Expectation(
            position=self.expected_position, versions=versions, none_after=none_after
        )


_NOTHING = _Expected()


class _Batch(_Expected, frozen=True, kw_only=True, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_expected = msgspec.json.Decoder(_Expected)
_each_expected = msgspec.json.Decoder(list[_Expected])
_batch = msgspec.json.Decoder(_Batch)


def _may_expect(body: bytes) -> bool:
    """Whether a member that says what is expected may be in there: most bodies have none."""
    # One character is looked for a hundred times as quickly as a word, and by its number more so.
    return (_UNDERSCORE in body and (b'"expected_' in body or b'"none_after"' in body)) or (
        _BACKSLASH in body and b"\\u" in body
    )


_UNDERSCORE, _BACKSLASH = b"_\\"


def decode_event(body: bytes, query: bytes = b"") -> tuple[NewEvent, Expectation | None]:
    """An event, and what is expected of the log."""
    event = _decode(parse_event, body)
    if not (query or _UNDERSCORE in body or _BACKSLASH in body):  # the common case, at less cost
        return event, None
    expected = _decode(_expected.decode, body) if _may_expect(body) else _NOTHING
    if query:
        expected = _with_query(expected, query)
    return event, expected.expectation([event])


def decode_batch(body: bytes, query: bytes = b"") -> tuple[Sequence[NewEvent], Expectation | None]:
    """The events of a batch, and what is expected of the log."""
    expected: _Expected = _NOTHING
    root = "$"
    if is_batch_object(body):
        batch = _decode(_decode_batch, body)
        expected, root = batch, EVENTS
        body = b"[" + b",".join(map(bytes, batch.events)) + b"]"
    events = _decode(parse_events, body, root)
    if _may_expect(body):
        for index, one in enumerate(_decode(_each_expected.decode, body, root)):
            if not one.is_nothing:
                raise Problem(
                    400,
                    "invalid_body",
                    f"{root}[{index}]: what is expected stands in the query, or beside the events",
                    index=index,
                )
    if query:
        expected = _with_query(expected, query)
    return events, expected.expectation(events)


EVENTS = "$.events"
"""Where the events of a batch are that is an object."""


def is_batch_object(body: bytes) -> bool:
    """Whether a batch is an object, with events and what is expected, and not an array."""
    return body[:1] != b"[" and _BEGINS_OBJECT.match(body) is not None


_BEGINS_OBJECT = re.compile(rb"[ \t\r\n]*+\{")


def _decode_batch(body: bytes) -> _Batch:
    return _batch.decode(checked_utf8(body))


_EXPECTED_IN_QUERY = frozenset({"expected_position", "expected_version"})
_EXPECTED_IN_BODY = frozenset({"expected_versions", "none_after"})


def _with_query(expected: _Expected, query: bytes) -> _Expected:
    """Raises `Problem` 400 also for what looks like an expectation and is none that is known."""
    said = Query(query)
    changes = {}
    for name in said.names:
        if name in _EXPECTED_IN_QUERY:
            number = changes[name] = said.whole_number(name, least=0, default=None)
            if getattr(expected, name) not in {None, number}:
                raise _said_twice(f"{name} in the query and in the body")
        elif name in _EXPECTED_IN_BODY:
            raise Problem(400, "invalid_parameter", f"Send '{name}' in the body, not in the query")
        elif name.startswith("expected"):
            detail = f"There is no '{name}': send {' or '.join(sorted(_EXPECTED_IN_QUERY))}"
            raise Problem(400, "invalid_parameter", detail)
    return msgspec.structs.replace(expected, **changes) if changes else expected


def _said_twice(what: str) -> Problem:
    return Problem(400, "invalid_expectation", f"{what} say different things: send one of them")


def decode_position(body: bytes) -> int:
    return _decode(lambda body: _position.decode(checked_utf8(body)), body).position


def decode_body(body: bytes, kind: type[T]) -> T:
    """A JSON object of this kind."""
    return _decode(lambda body: msgspec.json.decode(checked_utf8(body), type=kind), body)


_ETAG = re.compile(r'"([0-9]{1,19})"')


def expected_position(if_match: str | None) -> int | None:
    """The position that If-Match names; None without the header."""
    if if_match is None:
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None or int(match[1]) > MAX_POSITION:
        raise Problem(400, "invalid_header", 'If-Match is one ETag of a checkpoint, such as "42"')
    return int(match[1])


def encode_position(position: int) -> bytes:
    return b'{"position":%d}' % position


def _decode(parse: Callable[[bytes], T], body: bytes, root: str = "$") -> T:
    """What this makes of the body, of which the outermost value stands at `root`."""
    try:
        return parse(body)
    except msgspec.ValidationError as error:
        raise _invalid_body(str(error), root) from None
    except UnicodeDecodeError as error:
        detail = f"The body must be valid UTF-8: byte {error.start} is not"
    except RecursionError:
        detail = "The body must be one JSON document: it nests too deeply"
    except msgspec.DecodeError as error:
        detail = f"The body must be one JSON document: {error}"
    raise Problem(400, "invalid_json", detail) from None


_AT_PLACE = re.compile(r"(.*) - at `(\$.*)`", re.DOTALL)
_PLACE = re.compile(r"\$(?:\[([0-9]+)\])?(?:\.([^.\[]+))?.*", re.DOTALL)
_ABOUT_MEMBER = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)
_VALUES = "[...]"
"""What msgspec calls the values of an object that may have any members."""


def _invalid_body(problem: str, root: str) -> Problem:
    """A problem in msgspec's words, with its place, the event's index and the member."""
    place = "$"
    if match := _AT_PLACE.fullmatch(problem):
        problem, place = match.groups()
    if place.endswith(_VALUES):
        problem, place = f"{problem} as one of its values", place.removesuffix(_VALUES)
    located = _PLACE.fullmatch(place)
    assert located is not None
    index, field = located.groups()
    if field is None and (match := _ABOUT_MEMBER.fullmatch(problem)):
        field = match[1][:MAX_SAID_CHARS]
    return Problem(
        400,
        "invalid_body",
        f"{root}{place.removeprefix('$')}: {problem[:MAX_SAID_CHARS]}",
        index=None if index is None else int(index),
        field=field,
    )


MAX_SAID_CHARS = 200
"""Of a name that a client has sent, when it is told of it."""


# `curl -d` names this type unless it is told otherwise; it says nothing about the body.
_UNSAID = frozenset({b"", b"application/x-www-form-urlencoded"})


async def read_body(
    scope: Scope, receive: Receive, *, max_body_bytes: int, read_timeout_s: float
) -> bytes:
    """The whole body. Raises `Problem` 408, 413, 415 or 503, and 400 when the client leaves.

    The time is that for all of it, however steadily it comes: a trickle cannot draw it out.
    """
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if not (media_type in _UNSAID or media_type == b"application/json"):
        raise Problem(415, "unsupported_media_type", "Send JSON: Content-Type: application/json")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > max_body_bytes:
        raise _too_large(max_body_bytes)
    held: Body = scope["state"]["body"]
    body = bytearray()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(read_timeout_s) as deadline:

            def break_off() -> None:
                if not deadline.expired():
                    deadline.reschedule(loop.time())

            held.begin(break_off, loop.time())
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Problem(400, "incomplete_body", "The body ended too soon")
                body += message["body"]
                if len(body) > max_body_bytes:
                    raise _too_large(max_body_bytes)
                held.grow(len(body))
                if not message["more_body"]:
                    scope["state"]["body_bytes"] = len(body)
                    return bytes(body)
    except TimeoutError:
        if held.refused_with is not None:
            raise held.refused_with from None
        raise Problem(
            408,
            "request_timeout",
            f"The body did not arrive within {read_timeout_s:g} s",
            {"Connection": "close"},
        ) from None
    finally:
        held.end()
        body.clear()  # and does not wait for whoever still looks at what was raised


def _too_large(max_body_bytes: int) -> Problem:
    return Problem(413, "body_too_large", f"The body may have at most {max_body_bytes} bytes")


MAX_PARAMETERS = 200


class Query:
    """The query of a request: parameters by name, each at most once."""

    def __init__(self, query: bytes) -> None:
        pairs = query.decode("latin-1").split("&")
        if len(pairs) > MAX_PARAMETERS or not query.isascii():
            raise Problem(400, "invalid_query", "The query cannot be read")
        self._values: dict[str, str] = {}
        self._pairs: list[tuple[str, str]] = []
        is_plain = b"%" not in query and b"+" not in query
        for pair in pairs:
            name, _, value = pair.partition("=")
            if not is_plain:
                name = unquote_plus(name)
                value = unquote_plus(value, errors="surrogateescape")
            self._pairs.append((name, value))
            # Two values are as bad as one that is no number.
            self._values[name] = "" if name in self._values else value

    def whole_number(self, name: str, *, least: int, default: int | None) -> int | None:
        """The parameter as a number from `least` to the largest position."""
        value = self._values.get(name)
        if value is None:
            return default
        if _DIGITS.fullmatch(value):
            number = int(value)
            if least <= number <= MAX_POSITION:
                return number
        raise _invalid_parameter(name, least)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def names(self) -> Set[str]:
        """Those of all parameters."""
        return self._values.keys()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names and values, in the order in which they came."""
        return self._pairs

    def texts(self, name: str) -> tuple[str, ...]:
        """Every value of a parameter that may be given several times."""
        return tuple(_text(name, value) for key, value in self._pairs if key == name)

    def text(self, name: str) -> str | None:
        """The value of a parameter that may be given once, and may be empty."""
        values = self.texts(name)
        if len(values) > 1:
            raise Problem(400, "invalid_parameter", f"Send '{name}' only once")
        return values[0] if values else None

    def word(self, name: str, words: Sequence[str]) -> str | None:
        """One of these words."""
        value = self.text(name)
        if value is not None and value not in words:
            raise Problem(
                400, "invalid_parameter", f"Invalid '{name}' parameter: send {' or '.join(words)}"
            )
        return value

    def moment(self, name: str) -> str | None:
        """A time; the plus of its offset may stand there as it is, though it means a space."""
        value = self.text(name)
        return value and value.replace(" ", "+")

    def seconds(self, name: str, *, most: int) -> float | None:
        """A duration such as 20s, 500ms or 1m; a bare number is of seconds."""
        value = self.text(name)
        if value is None:
            return None
        match = _SECONDS.fullmatch(value)
        seconds = float(match[1]) * _UNITS_S[match[2]] if match else -1.0
        if not 0 <= seconds <= most:
            raise Problem(
                400,
                "invalid_parameter",
                f"Invalid '{name}' parameter: send a duration of at most {most}s, such as 20s",
            )
        return seconds

    def required_number(self, name: str, *, least: int) -> int:
        number = self.whole_number(name, least=least, default=None)
        if number is None:
            raise _invalid_parameter(name, least)
        return number


_DIGITS = re.compile(r"[0-9]{1,19}")
_SECONDS = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


def _text(name: str, value: str) -> str:
    """A value of the query as text: its bytes are UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Problem(400, "invalid_parameter", f"Invalid '{name}' parameter: send UTF-8") from None
    return value


def _invalid_parameter(name: str, least: int) -> Problem:
    return Problem(
        400,
        "invalid_parameter",
        f"Invalid '{name}' parameter: send one whole number from {least} to {MAX_POSITION}",
    )


# What a path segment holds without escaping (RFC 3986, 3.3): the id looks the same everywhere.
_SUBSCRIPTION_ID = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@]+")


def check_subscription_id(id: str, *, max_chars: int) -> str:
    """The id of a subscription as it stands in a path. Raises `Problem` 400."""
    if len(id) > max_chars:
        detail = f"The subscription id has {len(id)} characters, at most {max_chars} are allowed"
    elif id in (".", ".."):
        detail = "A subscription id may hold dots, but not be . or .., which are steps in a path"
    elif not _SUBSCRIPTION_ID.fullmatch(id):
        detail = "A subscription id is made of A-Z a-z 0-9 and - . _ ~ ! $ & ' ( ) * + , ; = : @"
    else:
        return id
    raise Problem(400, "invalid_subscription_id", detail)
