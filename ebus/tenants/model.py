"""What the registry says: tenants, their keys, what was put away, and who changed what."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from ebus.config import Scope
from ebus.config.durations import parse_duration
from ebus.config.mistakes import Wrong
from ebus.config.moments import parse_moment
from ebus.core.engine import Durability
from ebus.core.errors import InvalidInput
from ebus.core.tenant import TenantName

State = Literal["active", "suspended"]

How = Literal["http", "command"]

Action = Literal[
    "create",
    "suspend",
    "resume",
    "add_key",
    "rotate_key",
    "revoke_key",
    "change",
    "delete",
    "purge",
]

_KEY_NAME = re.compile(r"(?!\.\.?$)[A-Za-z0-9._~-]{1,64}")


class By(msgspec.Struct, frozen=True):
    """Who changes something, and by which way."""

    who: str
    how: How


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One of a tenant's keys. The key itself is never kept."""

    name: str
    digest: bytes
    scope: Scope
    expires_at_s: float | None = None
    """Unix seconds of the wall clock."""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant of the registry."""

    name: TenantName
    state: State
    created_at_s: float
    durability: Durability | None
    limits: dict[str, float]
    """Its own, as they were set: names are those of the config file."""

    keys: tuple[Key, ...]


class Snapshot(msgspec.Struct, frozen=True):
    """The whole registry at one moment."""

    revision: int
    """It grows with each change; 0 when there was none."""

    tenants: tuple[Registered, ...]


EMPTY = Snapshot(0, ())


class Trashed(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that was deleted, and whose files are kept for a while."""

    id: str
    tenant: TenantName
    deleted_at_s: float
    size_bytes: int
    is_moved: bool
    """Whether its files are in the trash; until then nobody else may have the name."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change. Their order is that of the ids: clocks may jump."""

    id: int
    at_s: float
    who: str
    how: How
    action: Action
    tenant: str
    what: dict[str, Any]
    """Details. Never a key, nor a digest."""


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is to be added. Without a name it gets one."""

    digest: bytes
    name: str | None = None
    scope: Scope = "both"
    expires_at_s: float | None = None


def check_key_name(name: str) -> str:
    """Raises `InvalidInput` unless it may be a segment of a path."""
    if not _KEY_NAME.fullmatch(name):
        raise InvalidInput("the name of a key has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
    return name


def parse_end(text: str) -> float:
    """When a key is to end, in Unix seconds. Raises `InvalidInput`."""
    try:
        end_s = parse_moment(text)
    except Wrong as wrong:
        raise InvalidInput(f"expires_at {wrong.problem}, such as 2027-01-31T00:00:00Z") from None
    if not 0 <= end_s <= LAST_MOMENT_S:
        raise InvalidInput("expires_at is too far from now")
    return end_s


def parse_overlap(text: str) -> float:
    """For how long an old key goes on, in seconds. Raises `InvalidInput`."""
    if text in {"0", "0s"}:
        return 0.0
    try:
        overlap_s = parse_duration(text)
    except Wrong as wrong:
        raise InvalidInput(f"overlap {wrong.problem}; 0s is at once") from None
    if overlap_s > MAX_OVERLAP_S:
        raise InvalidInput("overlap is more than ten years")
    return overlap_s


LAST_MOMENT_S = 253_402_300_799
"""The end of the year 9999."""

MAX_OVERLAP_S = 10 * 366 * 86_400


def moment(seconds: float) -> str:
    """As RFC 3339 writes it, in UTC."""
    written = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return written.replace("+00:00", "Z")
