"""Requests as bytes: the body, the query and the path's ids, read strictly.

What cannot be read is a `Problem` whose detail names the place and says what to send.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar
from urllib.parse import unquote_plus

import msgspec
from litestar.types import Receive, Scope

from ebus.core.event import NewEvent, checked_utf8, parse_event, parse_events
from ebus.core.limits import MAX_POSITION
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


def decode_event(body: bytes) -> NewEvent:
    return _decode(parse_event, body)


def decode_batch(body: bytes) -> Sequence[NewEvent]:
    return _decode(parse_events, body)


def decode_position(body: bytes) -> int:
    return _decode(lambda body: _position.decode(checked_utf8(body)), body).position


def encode_position(position: int) -> bytes:
    return b'{"position":%d}' % position


_AT_PLACE = re.compile(r"(.*) - at `(\$.*)`", re.DOTALL)


def _decode(parse: Callable[[bytes], T], body: bytes) -> T:
    try:
        return parse(body)
    except msgspec.ValidationError as error:
        problem, place = str(error), "$"
        if match := _AT_PLACE.fullmatch(problem):
            problem, place = match.groups()
        raise Problem(400, "invalid_body", f"{place}: {problem}") from None
    except UnicodeDecodeError as error:
        detail = f"The body must be valid UTF-8: byte {error.start} is not"
    except RecursionError:
        detail = "The body must be one JSON document: it nests too deeply"
    except msgspec.DecodeError as error:
        detail = f"The body must be one JSON document: {error}"
    raise Problem(400, "invalid_json", detail) from None


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


MAX_PARAMETERS = 100


class Query:
    """The query of a request: parameters by name, each at most once."""

    def __init__(self, query: bytes) -> None:
        pairs = query.decode("latin-1").split("&")
        if len(pairs) > MAX_PARAMETERS or not query.isascii():
            raise Problem(400, "invalid_query", "The query cannot be read")
        self._values: dict[str, str] = {}
        is_plain = b"%" not in query and b"+" not in query
        for pair in pairs:
            name, _, value = pair.partition("=")
            if not is_plain:
                name, value = unquote_plus(name), unquote_plus(value)
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

    def required_number(self, name: str, *, least: int) -> int:
        number = self.whole_number(name, least=least, default=None)
        if number is None:
            raise _invalid_parameter(name, least)
        return number


_DIGITS = re.compile(r"[0-9]{1,19}")


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
    elif not _SUBSCRIPTION_ID.fullmatch(id) or id in (".", ".."):
        detail = "A subscription id is made of A-Z a-z 0-9 and - . _ ~ ! $ & ' ( ) * + , ; = : @"
    else:
        return id
    raise Problem(400, "invalid_subscription_id", detail)
