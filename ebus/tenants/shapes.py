"""What `/admin` answers, as JSON. Never a digest; a key only where it has just been made."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ebus.config import Scope, TenantConfig
from ebus.core.engine import Durability
from ebus.tenants.model import AuditEntry, Registered, State, Trashed, moment

ALL_OF_THEM = 1_000
"""So many are listed at a time, at most."""


class TenantFiguresOut(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a tenant now, and what it has done since the server's start."""

    head: int | None
    """Null where that is not known without opening a tenant that is closed."""

    size_bytes: int | None
    wal_bytes: int | None
    """Null where nothing is stored, or the engine has no files."""

    is_open: bool
    requests: int
    refusals: int
    events_in: int
    events_out: int
    bytes_in: int
    bytes_out: int


class KeyOut(msgspec.Struct, frozen=True):
    """What may be told of a key. One of the config file's has no name, maybe."""

    name: str
    scope: Scope
    expires_at: str | None


class TenantOut(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant of the registry or of the config file."""

    tenant: str
    source: Literal["registry", "file"]
    state: State
    created_at: str | None
    durability: Durability | None
    limits: dict[str, float]
    keys: list[KeyOut]
    figures: TenantFiguresOut | None = None
    """Only where they were asked for."""


class TenantsOut(msgspec.Struct, frozen=True):
    """Some tenants in the order of their names, and how many there are in all."""

    tenants: list[TenantOut]
    count: int
    next: str | None
    """What to go on `after`; null at the end."""


class TenantKeyOut(msgspec.Struct, frozen=True):
    """A tenant and a new key of it, which is shown this once."""

    tenant: TenantOut
    key: str
    key_name: str


class DeletedOut(msgspec.Struct, frozen=True):
    """Where in the trash a tenant's data is."""

    trash: str


class TrashedOut(msgspec.Struct, frozen=True):
    """A deleted tenant whose data is in the trash."""

    id: str
    tenant: str
    deleted_at: str
    size_bytes: int


class TrashOut(msgspec.Struct, frozen=True):
    """What can be purged, in the order of deletion."""

    trash: list[TrashedOut]


class AuditEntryOut(msgspec.Struct, frozen=True, kw_only=True):
    """One change."""

    id: int
    at: str
    who: str
    how: str
    action: str
    tenant: str
    what: dict[str, Any]


class AuditOut(msgspec.Struct, frozen=True):
    """Changes, the newest first."""

    audit: list[AuditEntryOut]
    next: int | None
    """What to go on `before`; null at the end."""


def registered_out(tenant: Registered) -> TenantOut:
    return TenantOut(
        tenant=str(tenant.name),
        source="registry",
        state=tenant.state,
        created_at=moment(tenant.created_at_s),
        durability=tenant.durability,
        limits=tenant.limits,
        keys=[KeyOut(key.name, key.scope, _end(key.expires_at_s)) for key in tenant.keys],
    )


def served_out(tenant: TenantConfig) -> TenantOut:
    """One of the config file."""
    return TenantOut(
        tenant=str(tenant.name),
        source="file",
        state="active",
        created_at=None,
        durability=tenant.durability,
        limits=_limits(tenant),
        keys=[KeyOut(key.name, key.scope, _end(key.expires_at_s)) for key in tenant.keys],
    )


def _limits(tenant: TenantConfig) -> dict[str, float]:
    requests, events, quota = tenant.limits.requests, tenant.limits.events, tenant.limits.quota
    found: dict[str, float | None] = {
        "max_requests_per_second": None if requests is None else requests.per_second,
        "max_request_burst": None if requests is None else requests.burst,
        "max_events_per_second": None if events is None else events.per_second,
        "max_stored_events": quota.max_events,
        "max_stored_bytes": quota.max_bytes,
    }
    return {name: value for name, value in found.items() if value is not None}


def trashed_out(trashed: Trashed) -> TrashedOut:
    deleted_at = moment(trashed.deleted_at_s)
    return TrashedOut(trashed.id, str(trashed.tenant), deleted_at, trashed.size_bytes)


def audit_out(entry: AuditEntry) -> AuditEntryOut:
    return AuditEntryOut(
        id=entry.id,
        at=moment(entry.at_s),
        who=entry.who,
        how=entry.how,
        action=entry.action,
        tenant=entry.tenant,
        what=entry.what,
    )


def _end(expires_at_s: float | None) -> str | None:
    return None if expires_at_s is None else moment(expires_at_s)
