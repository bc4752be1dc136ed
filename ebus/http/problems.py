"""Errors on the wire: what each becomes, in one table, as problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus

import msgspec
from litestar.exceptions import HTTPException
from msgspec import UNSET, UnsetType

from ebus.core.errors import (
    CheckpointConflict,
    Conflict,
    EbusError,
    EngineError,
    EventTooLarge,
    IdConflict,
    InvalidEvent,
    InvalidInput,
    OutcomeUnknown,
    QuotaExceeded,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreOverloaded,
    StoreReadOnly,
    StoreRefused,
    StoreUnavailable,
    UnknownKey,
    UnknownTenant,
    UnknownTrash,
)
from ebus.http.answers import Answer
from ebus.http.repeats import Repeats

logger = logging.getLogger("ebus.http")

_refusals = Repeats(logger)

MEDIA_TYPE = "application/problem+json"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an answer that reports an error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str

    current: int | UnsetType = UNSET
    """Of a conflict: the position, version or number that is stored."""

    index: int | UnsetType = UNSET
    """Which event of a batch is meant, from 0."""

    field: str | UnsetType = UNSET
    """Which member of the event is meant."""


class Problem(Exception):
    """An answer that reports an error. `code` is stable; `detail` is for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: dict[str, str] | None = None,
        *,
        current: int | None = None,
        index: int | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.current = current
        self.index = index
        self.field = field
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}

    def body(self) -> bytes:
        document = Document(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            code=self.code,
            current=UNSET if self.current is None else self.current,
            index=UNSET if self.index is None else self.index,
            field=UNSET if self.field is None else self.field,
        )
        return msgspec.json.encode(document)

    def answer(self, request_id: str = "") -> Answer:
        headers = self.headers_to(request_id)
        return Answer(self.body(), status=self.status, media_type=MEDIA_TYPE, headers=headers)

    def headers_to(self, request_id: str) -> dict[str, str]:
        """Those of the answer to this request; an empty id is not said."""
        return {**self.headers, **({"X-Request-Id": request_id} if request_id else {})}


class _Meaning(msgspec.Struct, frozen=True):
    """What an error is to a client. Without a detail the error's own message is meant for it."""

    status: int
    detail: str | None = None
    retry_after_s: int | None = None
    is_logged: bool = True
    """Whether the operator should hear of it; never so without a detail."""


MEANINGS: dict[type[EbusError], _Meaning] = {
    EventTooLarge: _Meaning(413),
    InvalidInput: _Meaning(400),
    CheckpointConflict: _Meaning(412),
    Conflict: _Meaning(409),
    UnknownTenant: _Meaning(404),
    UnknownKey: _Meaning(404),
    UnknownTrash: _Meaning(404),
    StoreBusy: _Meaning(503, "The tenant's database is in use elsewhere; try again", 1),
    StoreClosed: _Meaning(503, "The server is shutting down; try again", 1),
    StoreOverloaded: _Meaning(503, "Too many requests of this tenant are waiting; try again", 1),
    QuotaExceeded: _Meaning(
        507, "This tenant has stored as much as it may; nothing was stored", is_logged=False
    ),
    StoreReadOnly: _Meaning(
        503, "This tenant is read-only for the time being; try again", 1, is_logged=False
    ),
    StoreFull: _Meaning(507, "The server has no space left; nothing was stored"),
    OutcomeUnknown: _Meaning(
        503, "No answer came: it may have been stored. Look, or send it again if it has an id", 5
    ),
    StoreUnavailable: _Meaning(503, "The tenant's storage cannot be used at the moment", 5),
    StoreRefused: _Meaning(503, "The tenant's stored data needs an operator's attention", 60),
    StoreError: _Meaning(503, "The tenant's storage cannot be used at the moment", 5),
    EngineError: _Meaning(503, "The storage engine cannot be used at the moment", 5),
}
"""Every error of core, itself or by the nearest of its ancestors that stands here."""


def problem_of(error: Exception) -> Problem:
    """The problem that tells a client of this error. What the client must not see is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _problem_of_routing(error)
    problem = _problem_of_error(error)
    _let_go(error)
    return problem


def _problem_of_error(error: Exception) -> Problem:
    meaning = next(
        (MEANINGS[kind] for kind in type(error).__mro__ if kind in MEANINGS),
        None,
    )
    if meaning is None or not isinstance(error, EbusError):
        logger.error("a request failed: %s", error, exc_info=error)
        return Problem(500, "internal_error", "The server failed; the operator's log says why")
    if meaning.detail is not None and meaning.is_logged:
        _refusals.warn(f"a request was refused: {error}")
    headers = {}
    if meaning.retry_after_s is not None:
        headers["Retry-After"] = str(meaning.retry_after_s)
    if isinstance(error, CheckpointConflict):
        headers["ETag"] = f'"{error.current}"'
    return Problem(
        meaning.status,
        error.code,
        meaning.detail or _place(error),
        headers,
        current=error.current if isinstance(error, Conflict) else None,
        index=error.index if isinstance(error, (InvalidEvent, IdConflict)) else None,
        field=_field_of(error),
    )


def _let_go(error: BaseException | None) -> None:
    """Free what was at hand where an error came from, such as a body.

    Those who wait for one commit share its error, and from where it was raised it leads to their
    answers and so to itself: only the garbage collector would free it, when it comes by.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _field_of(error: EbusError) -> str | None:
    if isinstance(error, InvalidEvent):
        return error.field
    return "id" if isinstance(error, IdConflict) else None


def _place(error: EbusError) -> str:
    """An error's message with its place as a JSON path."""
    if isinstance(error, InvalidEvent):
        field = f".{error.field}" if error.field else ""
        return f"$[{error.index}]{field}: {error.problem}"
    if isinstance(error, IdConflict):
        return f"$[{error.index}].id: {error}"
    return str(error)


def without_index(error: InvalidEvent | IdConflict) -> Problem:
    """The problem of an event that was sent by itself, not in a batch."""
    problem = problem_of(error)
    problem.detail = problem.detail.replace("$[0]", "$", 1)
    problem.index = None
    return problem


def within(root: str, error: InvalidEvent | IdConflict) -> Problem:
    """The problem of an event of a batch that stands at `root`."""
    problem = problem_of(error)
    problem.detail = problem.detail.replace("$", root, 1)
    return problem


_ROUTING_CODES = {404: "not_found", 405: "method_not_allowed"}
_ROUTING_DETAILS = {404: "There is nothing at this path", 405: "Method not allowed"}


def nothing_there() -> Problem:
    """The problem of a path that leads nowhere."""
    return Problem(404, _ROUTING_CODES[404], _ROUTING_DETAILS[404])


def not_for_tenants() -> Problem:
    """The problem of a tenant's key where only the admin key is let in."""
    return Problem(
        403,
        "insufficient_scope",
        "This is for the server's admin key; a tenant's key does not open it",
        {"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
    )


def _problem_of_routing(error: HTTPException) -> Problem:
    status = error.status_code
    code = _ROUTING_CODES.get(status, "bad_request")
    detail = _ROUTING_DETAILS.get(status, HTTPStatus(status).phrase)
    headers = {name.title(): value for name, value in (error.headers or {}).items()}
    return Problem(status, code, detail, headers)
