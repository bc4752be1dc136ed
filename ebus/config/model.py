"""The configuration as the rest of ebus sees it: frozen, checked and complete."""

from __future__ import annotations

import msgspec

from ebus.core.engine import Durability
from ebus.core.limits import Limits
from ebus.core.tenant import TenantName


class TenantConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant that may come through the door."""

    name: TenantName

    key_digest: bytes
    """SHA-256 of the API key. The key itself is never kept."""

    durability: Durability | None = None
    """Overrides `Config.durability` for this tenant."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a user can set. Made by `load_config`, which has checked it all."""

    config_file: str | None
    """The config file's path as the user gave it; None means single-tenant mode."""

    engine: str
    """An address for `ebus.open_engine`, such as `sqlite:data` or `memory:`."""

    data_dir: str
    """The directory of the data, as written: a relative one is relative to the process."""

    durability: Durability = "full"

    tenants: tuple[TenantConfig, ...]
    """At least one, in the file's order. Names differ in more than case; so do the keys."""

    limits: Limits

    host: str = ""
    """The address to listen on; empty means all interfaces."""

    port: int = 8080
    """0 to 65535; 0 means any free port."""

    rate_limit: float | None = None
    """Requests per second of one tenant, more than 0; None means no limit."""

    rate_burst: int | None = None
    """Requests that a tenant may make at once; None exactly when there is no `rate_limit`.

    Not set, it is twice the rate limit, rounded up to a whole rate first: two seconds' worth,
    and at least 2, so that a client that has been quiet is not refused its second request.
    """

    enable_gzip: bool = False
    read_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    idle_timeout_s: float = 120.0
    shutdown_timeout_s: float = 30.0

    warnings: tuple[str, ...] = ()
    """What works but should be looked at, one sentence each. Never holds a key."""

    @property
    def single_tenant(self) -> bool:
        """Whether there is no config file: one tenant, set up by API_KEY and DB_PATH."""
        return self.config_file is None
