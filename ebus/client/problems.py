"""Problem documents as the errors that they were on the server."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ebus.client.errors import Forbidden, ProtocolError, RateLimited, Unauthorized
from ebus.core import errors
from ebus.core.errors import (
    Conflict,
    EbusError,
    IdConflict,
    InvalidBatch,
    InvalidCheckpoint,
    InvalidEvent,
    InvalidInput,
    StoreError,
    StoreOverloaded,
    StoreUnavailable,
)


class Answer(msgspec.Struct, frozen=True):
    """What a server has answered. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after_s(self) -> float | None:
        """How long the server asks to wait, in seconds; a date is taken for nothing."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() else None


class Problem(msgspec.Struct, frozen=True):
    """What an answer says of an error (RFC 9457); empty where it says nothing."""

    code: str = ""
    detail: str = ""
    current: int | None = None
    index: int | None = None
    field: str | None = None


_decode = msgspec.json.Decoder(Problem).decode
_PLACE = re.compile(r"\A\$(?:\.events)?(?:\[\d+\])?(?:\.\w+)?: ")

_BY_CODE: dict[str, type[EbusError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EbusError) and kind is not EbusError
} | {
    "invalid_subscription_id": InvalidCheckpoint,
    "body_too_large": InvalidBatch,
    "invalid_parameter": InvalidInput,
    "invalid_query": InvalidInput,
    "server_overloaded": StoreOverloaded,
    "too_many_connections": StoreOverloaded,
    "too_many_tails": StoreOverloaded,
    "internal_error": StoreError,
    "store_closed": StoreUnavailable,  # of a server that stops; the client's own store is open
}


def problem_of(answer: Answer) -> Problem:
    """The problem document of an answer; an empty one when there is none."""
    try:
        return _decode(answer.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem()


def error_of(answer: Answer) -> EbusError:
    """The error that an answer without success tells of."""
    problem = problem_of(answer)
    detail = problem.detail or f"the server answered with status {answer.status}"
    if answer.status == 401:
        return Unauthorized(detail)
    if answer.status == 403:
        return Forbidden(detail)
    if answer.status == 429:
        return RateLimited(detail, retry_after_s=answer.retry_after_s or 0.0)
    kind = _BY_CODE.get(problem.code)
    if kind is None:
        if answer.status in (502, 503, 504):
            return StoreUnavailable(detail)
        return ProtocolError(detail, status=answer.status, problem=problem.code)
    if issubclass(kind, InvalidEvent):
        return kind(_PLACE.sub("", detail), index=problem.index or 0, field=problem.field)
    if issubclass(kind, IdConflict):
        text = _PLACE.sub("", detail)
        return kind(text, current=problem.current, index=problem.index or 0)
    if issubclass(kind, Conflict):
        return kind(detail, current=problem.current)
    return kind(detail)
