"""What a NATS server says of itself over its monitoring port, and how tests wait for it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

TIMEOUT_S = 60.0
"""For what takes a second or two, or an election: those take up to nine."""

ASK_TIMEOUT_S = 2.0
PAUSE_S = 0.02

T = TypeVar("T")


def ask(host: str, port: int, path: str) -> Mapping[str, Any] | None:
    """The answer, whatever its status; None of a server that does not answer."""
    connection = http.client.HTTPConnection(host, port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):  # it is down, or goes down meanwhile
        return None
    finally:
        connection.close()
    assert isinstance(answer, dict)
    return answer


def wait_for(look: Callable[[], T | None], what: str, *, timeout_s: float = TIMEOUT_S) -> T:
    """What `look` finds, once it is not None (or False)."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(PAUSE_S)
