"""The configuration as the rest of ebus sees it: frozen, checked and complete."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Literal

import msgspec

from ebus.core.address import Address
from ebus.core.engine import Durability
from ebus.core.limits import Limits
from ebus.core.store import Quota
from ebus.core.tenant import TenantName

Scope = Literal["both", "read", "write"]
"""What a key may do: `write` is to append and to save checkpoints."""

Visible = Literal["all", "own"]


class KeyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One of a tenant's API keys."""

    digest: bytes
    """SHA-256 of the key. The key itself is never kept."""

    name: str = ""
    """What people call it; empty for the key that stands with the tenant itself."""

    scope: Scope = "both"

    expires_at_s: float | None = None
    """Unix seconds from which on it opens nothing; None means never."""


class Rate(msgspec.Struct, frozen=True):
    """So many a second, more than 0, and so many at once, at least 1."""

    per_second: float
    burst: int


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant may do to the server; None means no limit."""

    requests: Rate | None = None
    events: Rate | None = None
    """Events that are appended. An append is charged whole, and may overdraw what is left."""

    quota: Quota = Quota()


class TenantConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant that may come through the door."""

    name: TenantName

    keys: tuple[KeyConfig, ...]
    """At least one, of those of the config file."""

    durability: Durability | None = None
    """Overrides `Config.durability` for this tenant."""

    limits: TenantLimits = TenantLimits()

    is_registered: bool = False
    """Whether it stands in the registry and not in the config file, see `ebus.tenants`."""

    is_suspended: bool = False
    """Its keys are known, and open nothing."""


class AdminKey(msgspec.Struct, frozen=True):
    """One more key to what belongs to no tenant."""

    name: str
    """Whose changes these are, in the audit log."""

    digest: bytes


ADMIN = "admin"
"""What the admin key is called that has no name."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a user can set. Made by `load_config`, which has checked it all."""

    config_file: str | None
    """The config file's path as the user gave it; None means single-tenant mode."""

    engine: Address
    """For `ebus.open_engine`, such as `sqlite:data` or `memory:`. It does not show its secrets."""

    data_dir: str
    """The directory of the data, as written: a relative one is relative to the process."""

    durability: Durability = "full"

    tenants: tuple[TenantConfig, ...]
    """In the file's order, then those of the registry. At least one, unless there is an admin key.
    Names differ in more than case; so do the keys."""

    registry_revision: int = 0
    """Which state of the registry the tenants are of; 0 when there is none, or none in it."""

    tenant_limits: TenantLimits = TenantLimits()
    """Where a tenant's own limits say nothing."""

    limits: Limits

    host: str = ""
    """The address to listen on; empty means all interfaces."""

    port: int = 8080
    """0 to 65535; 0 means any free port."""

    request_rate: Rate | None = None
    """For tenants that have none of their own."""

    read_only: tuple[TenantName, ...] | bool = False
    """Who may only read for the time being: these tenants, or all of them."""

    tenants_visible: Visible = "all"
    """Whose names a tenant is told."""

    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Whose `X-Forwarded-For` says where a request comes from."""

    admin_key_digest: bytes | None = None
    """SHA-256 of the key to what belongs to no tenant; None means that nobody has it."""

    admin_keys: tuple[AdminKey, ...] = ()
    """Further ones, each with a name."""

    traces: bool = False
    """Whether requests are traced, see `ebus.http.traces`."""

    watch_config: bool = True
    """Whether the config file is read again when it changes, and not only on SIGHUP."""

    enable_ui: bool = True
    """Whether the page at /ui and the documentation at /docs are served."""

    enable_gzip: bool = False
    read_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    idle_timeout_s: float = 120.0
    shutdown_timeout_s: float = 30.0

    warnings: tuple[str, ...] = ()
    """What works but should be looked at, one sentence each. Never holds a key."""

    @property
    def admins(self) -> dict[bytes, str]:
        """What each admin key is called, by its digest."""
        own = {} if self.admin_key_digest is None else {self.admin_key_digest: ADMIN}
        return {**own, **{key.digest: key.name for key in self.admin_keys}}

    def is_read_only(self, name: TenantName) -> bool:
        return self.read_only if isinstance(self.read_only, bool) else name in self.read_only

    @property
    def single_tenant(self) -> bool:
        """Whether there is no config file: one tenant, set up by API_KEY and DB_PATH."""
        return self.config_file is None
