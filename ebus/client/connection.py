"""What the two clients share: where the server is, how it is spoken to, and what can fail."""

from __future__ import annotations

import re
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

import ebus
from ebus.client.calls import Call
from ebus.client.errors import ServerUnreachable
from ebus.client.following import SILENCE_S
from ebus.client.problems import Answer
from ebus.core.errors import InvalidInput

TIMEOUT_S = 30.0
MAX_CONNECTIONS = 20

_KEY = re.compile(r"[!-~]+")


class Server(msgspec.Struct, frozen=True):
    """Where a server is, and how to speak to it. The key is not in here."""

    url: str
    """Without a slash at the end."""

    timeout_s: float

    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
        timeout = httpx.Timeout(self.timeout_s, read=self.timeout_s + call.wait_s)
        return self._request(http, call, timeout)

    def stream_request(
        self, http: httpx.Client | httpx.AsyncClient, call: Call[Any]
    ) -> httpx.Request:
        """With the time that may pass between two pieces of the answer."""
        return self._request(http, call, httpx.Timeout(self.timeout_s, read=SILENCE_S))

    def _request(
        self, http: httpx.Client | httpx.AsyncClient, call: Call[Any], timeout: httpx.Timeout
    ) -> httpx.Request:
        return http.build_request(
            call.method,
            self.url + call.target,
            content=call.content,
            headers=dict(call.headers),
            timeout=timeout,
        )

    def unreachable(self, error: httpx.HTTPError | httpx.StreamError) -> ServerUnreachable:
        """What it means that a request ended so. The message names the server, not the key."""
        if isinstance(error, httpx.PoolTimeout):
            problem = "every connection is in use: allow more with max_connections"
        else:
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
        unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
        return ServerUnreachable(f"{self.url}: {problem}", was_sent=not isinstance(error, unsent))

    def too_slow(self) -> ServerUnreachable:
        problem = f"{self.url}: the answer was not whole within {self.timeout_s:g} s"
        return ServerUnreachable(problem, was_sent=True)


def server_at(url: str, timeout_s: float) -> Server:
    """Raises `InvalidInput` for an address that is none, without repeating it."""
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_fine = False
    if not is_fine or parts.query or parts.fragment:
        raise InvalidInput("the address of a server is like http://host:8080")
    if "@" in parts.netloc:
        raise InvalidInput("the key does not go into the address of a server: give it by itself")
    if not timeout_s > 0:
        raise InvalidInput("a time limit is more than 0 seconds")
    return Server(url.rstrip("/"), timeout_s)


def http_settings(
    server: Server, key: str, max_connections: int, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    """Arguments for a client of httpx. Raises `InvalidInput` for a key that is none."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidInput("a key is made of visible ASCII characters")
    if max_connections < 1:
        raise InvalidInput("a client has at least 1 connection")
    return {
        # httpx hides this header, and no other, where it shows headers.
        "headers": {"Authorization": f"Bearer {key}", "User-Agent": f"ebus/{ebus.__version__}"},
        "limits": httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        ),
        # To load every authority takes 20 ms, and is for nothing where there is no TLS.
        "verify": tls or server.url.startswith("https:"),
        "follow_redirects": False,  # the key is for this server only
    }


def answer_of(response: httpx.Response, content: bytes) -> Answer:
    return Answer(response.status_code, response.headers, content)
