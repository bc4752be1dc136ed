"""Which request a line of the log belongs to: its id, and the tenant that it speaks for.

An id is taken from `X-Request-Id` when it is sane, and made up otherwise. An answer that reports
an error says one that was made up, so that who reads the answer can be found in the log. What a
client has sent it knows, and no answer says it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self
from uuid import uuid4

import msgspec

from ebus.http.credentials import Headers

MAX_CHARS = 128

_SANE = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,%d}" % MAX_CHARS)
_KEYS = frozenset({b"x-api-key", b"authorization"})


class About(msgspec.Struct):
    """A request, as far as the log tells of it. The tenant is known once the door is passed."""

    id: str
    made_up: str
    """The id again, if it was made up here; or else nothing."""

    tenant: str | None = None

    @classmethod
    def of(cls, headers: Headers, tenant: str | None = None) -> Self:
        sent = _sent_id(headers)
        made_up = "" if sent else uuid4().hex
        return cls(sent or made_up, made_up, tenant)


_now: ContextVar[About | None] = ContextVar("ebus_request", default=None)


@contextmanager
def about(request: About) -> Iterator[None]:
    """Lines that are logged meanwhile belong to this request."""
    token = _now.set(request)
    try:
        yield
    finally:
        _now.reset(token)


def request_now() -> About | None:
    """The request that is being answered; None outside of any."""
    return _now.get()


def _sent_id(headers: Headers) -> str:
    """The id that a client or a proxy has sent, if it is sane. Never holds a key."""
    sent = [value for name, value in headers if name == b"x-request-id"]
    if len(sent) == 1 and _SANE.fullmatch(sent[0]):
        keys = [value.split()[-1:] for name, value in headers if name in _KEYS]
        if not any(key in sent[0] for [key] in filter(None, keys)):
            return sent[0].decode()
    return ""
