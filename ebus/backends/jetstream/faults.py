"""What NATS says is wrong → the errors of core. The only place that knows its codes."""

from __future__ import annotations

import msgspec

from ebus.core.errors import StoreError, StoreForeign, StoreFull, StoreRefused, StoreUnavailable


class ApiError(msgspec.Struct, frozen=True):
    """What JetStream answers when it cannot or will not."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Lost(Exception):
    """No answer came: whether the request was carried out nobody knows."""


class Denied(StoreUnavailable):
    """The servers do not allow the user to do this: another try would end like this one."""


class WrongSequence(Exception):
    """The log, or the key, is not at the sequence that was expected: nothing was stored."""


class NoStream(Exception):
    """There is no such stream."""


_WRONG_SEQUENCE = {10071, 10164}
_NO_STREAM = {10059}
NO_MESSAGE = 10037
INCOMPLETE_BATCH = 10176
NOT_ENABLED = {
    10039,  # JetStream not enabled for account
    10076,  # JetStream not enabled
}
_IN_THE_WAY = {
    10058,  # stream name already in use with a different configuration
    10065,  # subjects overlap with an existing stream
}
_TOO_SMALL = {
    10005,  # no suitable peers for placement
    10074,  # replicas > 1 not supported in non-clustered mode
}
_FULL = {
    10002,  # resource limits exceeded for account
    10023,  # insufficient resources
    10028,  # maximum storage exceeded for account (memory: 10028)
    10027,  # maximum number of streams reached
    10047,  # insufficient storage resources available
    10122,  # stream max bytes exceeds account limit
}
_FULL_WORDS = (
    "maximum bytes exceeded",
    "maximum messages exceeded",
    "resources exceeded",
    "no space left",
)
_PASSING = {
    503,
    10008,  # system temporarily unavailable
    10009,  # no suitable peers / cluster not available
    10010,  # no cluster leader
    10118,  # stream is offline
}


def is_passing(error: ApiError) -> bool:
    """Whether the cluster is merely busy with itself: an election, a restart."""
    return not is_full(error) and (error.err_code in _PASSING or error.code == 503)


def is_full(error: ApiError) -> bool:
    """Whether there is no room left, of which the code alone does not tell: it may be 503 too."""
    return error.err_code in _FULL or any(it in error.description for it in _FULL_WORDS)


def refusal(error: ApiError, what: str) -> WrongSequence | NoStream | StoreError | StoreRefused:
    """What an answer that is an error means, to be raised."""
    if error.err_code in _WRONG_SEQUENCE:
        return WrongSequence(error.description)
    if error.err_code in _NO_STREAM:
        return NoStream(what)
    if error.err_code in _IN_THE_WAY:
        return StoreForeign(
            f"{what}: {error.description} (JetStream {error.err_code}): there is a stream that is"
            " not of ebus; delete it, or set another prefix"
        )
    if error.err_code in _TOO_SMALL:
        return StoreUnavailable(
            f"{what}: {error.description} (JetStream {error.err_code}): replicas asks for more"
            " servers than are there"
        )
    message = f"{what}: {error.description or 'refused'} (JetStream {error.err_code})"
    return StoreFull(message) if is_full(error) else StoreUnavailable(message)
