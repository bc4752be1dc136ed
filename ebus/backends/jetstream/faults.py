"""What NATS says is wrong → the errors of core. The only place that knows its codes."""

from __future__ import annotations

import msgspec

from ebus.core.errors import StoreError, StoreFull, StoreUnavailable


class ApiError(msgspec.Struct, frozen=True):
    """What JetStream answers when it cannot or will not."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Lost(Exception):
    """No answer came: whether the request was carried out nobody knows."""


class WrongSequence(Exception):
    """The log, or the key, is not at the sequence that was expected: nothing was stored."""


class NoStream(Exception):
    """There is no such stream."""


_WRONG_SEQUENCE = {10071, 10164}
_NO_STREAM = {10059}
NO_MESSAGE = 10037
INCOMPLETE_BATCH = 10176
NAME_IN_USE = 10058
SUBJECTS_OVERLAP = 10065
_FULL = {
    10002,  # resource limits exceeded for account
    10023,  # insufficient resources
    10028,  # maximum storage exceeded for account (memory: 10028)
    10047,  # insufficient storage resources available
    10122,  # stream max bytes exceeds account limit
}
_FULL_WORDS = ("maximum bytes exceeded", "maximum messages exceeded", "resources exceeded")
_PASSING = {
    503,
    10008,  # system temporarily unavailable
    10009,  # no suitable peers / cluster not available
    10010,  # no cluster leader
    10118,  # stream is offline
}


def is_passing(error: ApiError) -> bool:
    """Whether the cluster is merely busy with itself: an election, a restart."""
    return error.err_code in _PASSING or error.code == 503


def refusal(error: ApiError, what: str) -> WrongSequence | NoStream | StoreError:
    """What an answer that is an error means, to be raised."""
    if error.err_code in _WRONG_SEQUENCE:
        return WrongSequence(error.description)
    if error.err_code in _NO_STREAM:
        return NoStream(what)
    message = f"{what}: {error.description or 'refused'} (JetStream {error.err_code})"
    is_full = error.err_code in _FULL or any(it in error.description for it in _FULL_WORDS)
    return StoreFull(message) if is_full else StoreUnavailable(message)
