"""Who is served."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.http.answers import Answer


class Tenants(msgspec.Struct, frozen=True):
    """The names of all tenants, in the order of the config file."""

    tenants: list[str]
    count: int


def tenant_routes(config: Config) -> list[HTTPRouteHandler]:
    """None for a single tenant, which has no name that a client knows."""
    if config.single_tenant:
        return []
    names = [str(tenant.name) for tenant in config.tenants]
    body = msgspec.json.encode(Tenants(names, len(names)))

    @get("/tenants")
    async def list_tenants() -> ASGIApp:
        return Answer(body)

    return [list_tenants]
