"""Which request a line of the log belongs to: its id, and the tenant that it speaks for.

An id is taken from `X-Request-Id` when it is sane, and made up otherwise. An answer that reports
an error says it, so that who reads the answer can be found in the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

import msgspec

from ebus.http.credentials import Headers

MAX_CHARS = 128

_SANE = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,%d}" % MAX_CHARS)
_KEYS = frozenset({b"x-api-key", b"authorization"})


class About(msgspec.Struct):
    """A request, as far as the log tells of it. The tenant is known once the door is passed."""

    id: str
    tenant: str | None = None


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


def request_id_of(headers: Headers) -> str:
    """The id that a client or a proxy has sent, or else a new one. Never holds a key."""
    sent = [value for name, value in headers if name == b"x-request-id"]
    if len(sent) == 1 and _SANE.fullmatch(sent[0]):
        keys = [value.split()[-1:] for name, value in headers if name in _KEYS]
        if not any(key in sent[0] for [key] in filter(None, keys)):
            return sent[0].decode()
    return uuid4().hex
