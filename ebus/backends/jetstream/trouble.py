"""What keeps a client from the servers, in words for the operator: they name the setting."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import nats.errors

from ebus.backends.jetstream.address import Options

LEAST_VERSION = (2, 12)
"""Of the server: the first one with atomic batches."""

_NEEDED = "$JS.API.>, PREFIX.>, $KV.PREFIX-*.> and PREFIX-news.>"

_DENIED = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE
)
_VERSION = re.compile(r"v?(\d+)\.(\d+)")


class Unfit(nats.errors.Error):
    """This server is not to be used, whatever it may answer. Nothing was said to it."""


class Trouble(msgspec.Struct, frozen=True):
    """What was wrong with one try of one server."""

    text: str
    is_lasting: bool = False
    """Whether only a person can mend it: another try ends like this one."""


class Denial(msgspec.Struct, frozen=True):
    """That the servers do not let the user do something."""

    is_publish: bool
    subject: str
    """In lower case."""

    def told(self, options: Options, subject: str) -> str:
        what = "publish to" if self.is_publish else "subscribe to"
        needed = _NEEDED.replace("PREFIX", options.prefix)
        return (
            f"the servers do not allow the user to {what} {subject}: "
            f"the permissions have to allow {needed}, and _INBOX.> to be subscribed to"
        )


def denial_in(error: Exception) -> Denial | None:
    """What the servers have not allowed, if this says that; they say it on the side."""
    found = _DENIED.search(str(error))
    if found is None:
        return None
    return Denial(found[1].lower() == "publish", found[2].lower())


def refuse_unfit(info: Mapping[str, Any], options: Options) -> None:
    """Look at what a server says of itself, before anything is said to it. Raises `Unfit`."""
    if options.tls and not options.tls_first and not _offers_tls(info):
        # The client would go on without, and tell the password to anybody.
        raise Unfit("the server has no TLS: write nats:// in the place of tls://, or set it up")
    version = str(info.get("version", ""))
    found = _VERSION.match(version)
    if found is None or (int(found[1]), int(found[2])) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise Unfit(
            f"the server is of version {version[:20] or 'unknown'}, and ebus needs {least} or later"
        )


def _offers_tls(info: Mapping[str, Any]) -> bool:
    return bool(info.get("tls_required") or info.get("tls_available"))


def trouble_of(error: BaseException, options: Options) -> Trouble:
    """What an error of connecting means."""
    for kind, told in _TOLD:
        if isinstance(error, kind):
            return told(error, options)
    is_passing = isinstance(error, OSError | EOFError)
    return Trouble(_plain(error), is_lasting=not is_passing)


def _plain(error: BaseException) -> str:
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__


def _certificate(error: ssl.SSLCertVerificationError, options: Options) -> Trouble:
    if not options.tls:
        return Trouble("the server wants TLS: write tls:// in the place of nats://", True)
    said = error.verify_message.rstrip(".")
    if error.verify_code in _OTHER_NAME:
        return Trouble(f"its certificate is for another name: see servers ({said})", True)
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return Trouble(
            f"its certificate is of no authority that is believed: see tls_ca ({said})", True
        )
    return Trouble(f"its certificate is not valid: {said}", True)


_OTHER_NAME = {62, 64}
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}


def _tls(error: ssl.SSLError, options: Options) -> Trouble:
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if not options.tls:
        return Trouble(
            f"the server wants TLS: write tls:// in the place of nats:// ({reason})", True
        )
    if "alert" in reason:
        shown = "the one of tls_cert" if options.tls_cert else "none, for tls_cert is not set"
        return Trouble(f"it does not accept our certificate, which is {shown} ({reason})", True)
    return Trouble(f"it speaks no TLS, or not first as tls_first says ({reason})", True)


def _name(error: socket.gaierror, options: Options) -> Trouble:
    is_none = error.errno in {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)}
    return Trouble(f"its name is not found: see servers ({error.strerror})", is_none)


def _refused(error: ConnectionRefusedError, options: Options) -> Trouble:
    return Trouble("connection refused: nothing listens there")


def _silent(error: BaseException, options: Options) -> Trouble:
    return Trouble(f"it does not answer as a NATS server does in time; {_see_port(options)}")


def _nats(error: nats.errors.Error, options: Options) -> Trouble:
    said = _plain(error)
    if isinstance(error, Unfit):
        return Trouble(said, True)
    if "expecting INFO" in said or "json parse" in said:
        return Trouble(f"what listens there is no NATS server; {_see_port(options)}", True)
    if "authorization" in said.lower() or "authentication" in said.lower():
        return Trouble(f"{said}: the servers do not know {_who(options)}", True)
    return Trouble(said)


def _see_port(options: Options) -> str:
    first = "" if options.tls_first else ", or wants TLS first: see tls_first"
    return f"the port of servers may be another{first}"


def _who(options: Options) -> str:
    """Which settings say who asks. Not what they say."""
    if options.credentials:
        return "the user of credentials"
    if options.token or options.token_file:
        return "this token"
    return "this user and password" if options.user else "us: say user and password_file"


_TOLD: tuple[tuple[type[BaseException], Callable[[Any, Options], Trouble]], ...] = (
    (ssl.SSLCertVerificationError, _certificate),
    (ssl.SSLError, _tls),
    (socket.gaierror, _name),
    (ConnectionRefusedError, _refused),
    (nats.errors.TimeoutError, _silent),
    (asyncio.TimeoutError, _silent),
    (nats.errors.Error, _nats),
)
"""The first kind that an error is of. `TimeoutError` is an `OSError` too, and so is all of TLS."""
