"""Who a request speaks for, once the door has let it in."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from litestar.types import Scope

from ebus.config import KeyConfig
from ebus.core.aio import AsyncTenantStore
from ebus.core.tenant import TenantName
from ebus.http.figures import TenantFigures
from ebus.http.problems import Problem


class Meter(msgspec.Struct, frozen=True):
    """A rate of one tenant, and what is done at that rate: `make 100 requests`."""

    take: Callable[[int], float]
    """Count so many and return 0; or count none and return the seconds until one would do."""

    allowed: str

    def charge(self, amount: int) -> None:
        """Raises `Problem` 429."""
        wait_s = self.take(amount)
        if wait_s:
            detail = f"This tenant may {self.allowed} a second; slow down"
            raise Problem(429, "rate_limited", detail, {"Retry-After": str(math.ceil(wait_s))})


class Tenant(msgspec.Struct, frozen=True):
    """Who a request speaks for, and the only store that it can reach."""

    name: TenantName
    store: AsyncTenantStore
    events: Meter | None = None
    """Of the events that the tenant appends; None when there is no limit."""

    number: int = 0
    """Its own, from 0, in what all workers count together."""

    key: KeyConfig | None = None
    """What let it in; None where there is no door."""

    figures: TenantFigures | None = None
    """Where is counted what it does; None where nobody counts."""


def tenant_of(scope: Scope) -> Tenant:
    """The tenant that the door let in."""
    tenant = scope["state"]["tenant"]
    assert isinstance(tenant, Tenant)
    return tenant


def is_admin(scope: Scope) -> bool:
    """Whether the door has let the admin key in, which speaks for no tenant."""
    return bool(scope["state"].get("admin"))


def admin_of(scope: Scope) -> str:
    """What the admin key is called that the door has let in."""
    return str(scope["state"]["admin"])
