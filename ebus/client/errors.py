"""What can go wrong between a client and its server, beside the errors of `ebus.core.errors`."""

from __future__ import annotations

from ebus.core.errors import EbusError


class ClientError(EbusError):
    """The root of what only a client meets. No message holds the key."""

    code = "client_error"


class ServerUnreachable(ClientError):
    """There was no whole answer: no connection, a connection that broke, or no time left.

    `was_sent` says whether the server may have received the request, and done it.
    """

    code = "server_unreachable"
    is_passing = True

    def __init__(self, problem: str, *, was_sent: bool) -> None:
        self.was_sent = was_sent
        super().__init__(problem)


class Unauthorized(ClientError):
    """The key opens nothing, or has expired."""

    code = "unauthorized"


class Forbidden(ClientError):
    """The key is only for reading, or only for writing."""

    code = "forbidden"


class RateLimited(ClientError):
    """Over the tenant's rate. Nothing was done; after `retry_after_s` seconds there is room."""

    code = "rate_limited"
    is_passing = True

    def __init__(self, problem: str, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(problem)


class ProtocolError(ClientError):
    """The answer is none of ebus, or the server takes a request of this client for malformed.

    `status` is that of HTTP, `problem` the server's own code, "" where it names none.
    """

    code = "protocol_error"

    def __init__(self, detail: str, *, status: int, problem: str = "") -> None:
        self.status = status
        self.problem = problem
        super().__init__(detail)
