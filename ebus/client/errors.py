"""What goes wrong between a client and its server. What the server refuses is an error of core.

    EbusError
    └── ClientError
        ├── ServerUnreachable     no answer came; what was sent may have been done
        ├── Unauthorized          the key is none, or has expired
        ├── Forbidden             the key is not for this
        ├── RateLimited           too much was asked for; knows for how long to wait
        └── ProtocolError         the answer is none that an ebus server gives

An error that the server answered has an `Answered` as its cause.
"""

from __future__ import annotations

from ebus.core.errors import EbusError


class ClientError(EbusError):
    code = "client_error"


class ServerUnreachable(ClientError):
    code = "server_unreachable"


class Unauthorized(ClientError):
    code = "unauthorized"


class Forbidden(ClientError):
    code = "forbidden"


class RateLimited(ClientError):
    """`retry_after_s` is how long to wait, in seconds."""

    code = "rate_limited"

    def __init__(self, problem: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(problem)


class ProtocolError(ClientError):
    code = "protocol_error"


class Answered(Exception):
    """How the server refused: its status, its own word for it, and when to come again."""

    def __init__(self, status: int, code: str, retry_after_s: float | None) -> None:
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(f"the server answered {status} {code}".rstrip())
