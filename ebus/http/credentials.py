"""What a request says of who sends it: its API key, and the address that it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

from ebus.config.api_key import digest_of
from ebus.http.problems import Problem

Headers = Iterable[tuple[bytes, bytes]]
"""Names are in lower case."""

Peer = tuple[str, int] | None
"""The other end of a connection; None where it has no address, as on a Unix socket."""

Address = IPv4Address | IPv6Address


def api_key(headers: Headers) -> bytes:
    """The key of `X-API-Key`, or else of `Authorization: Bearer`. Raises `Problem` 401.

    White space around it is not part of it (RFC 9110, 5.5). A header that comes twice says
    nothing certain, so it does not count as a key. Other schemes of Authorization do not
    either.
    """
    keys = [value for name, value in headers if name == b"x-api-key"]
    if len(keys) == 1 and (key := keys[0].strip()):
        return key
    if not keys:
        keys = [
            credentials
            for name, value in headers
            if name == b"authorization"
            for scheme, _, credentials in [value.strip().partition(b" ")]
            if scheme.lower() == b"bearer"
        ]
    if not keys or not any(key.strip() for key in keys):
        raise unauthorized("key_required", "API key required")
    if len(keys) > 1:
        raise unauthorized("key_invalid", "Invalid API key")
    return keys[0].strip()


def digest_of_key(headers: Headers) -> bytes:
    """What is kept of the key that they carry. Raises `Problem` 401."""
    return digest_of(api_key(headers))


def unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, {"WWW-Authenticate": "Bearer"})


def client_address(
    peer: Peer, headers: Headers, trusted: Sequence[IPv4Network | IPv6Network]
) -> Address | None:
    """Where a request comes from; None when its connection has no such address.

    That is the peer, and when that is a trusted proxy, whom it names last in `X-Forwarded-For`,
    and so on. What stands further to the left there is said by somebody who is not trusted.
    """
    address = _parse(peer[0]) if peer else None
    named = [value for name, value in headers if name == b"x-forwarded-for"]
    hops = b",".join(named).split(b",")
    while hops and address is not None and any(address in network for network in trusted):
        hop = _parse(hops.pop().strip().decode("latin-1"))
        if hop is None:
            break
        address = hop
    return address


_WITH_PORT = re.compile(r"\[(.+)\](?::\d+)?|([^:]+):\d+")


def _parse(text: str) -> Address | None:
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    with suppress(ValueError):
        address = ip_address(text)
        # What an IPv6 socket shows of a client that came by IPv4.
        return getattr(address, "ipv4_mapped", None) or address
    return None
