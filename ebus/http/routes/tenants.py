"""Who is served."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.http.answers import Answer
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import tenant_of


class Tenants(msgspec.Struct, frozen=True):
    """The names of the tenants that the asking one may see, in the order of the config file,
    then those of the registry."""

    tenants: list[str]
    count: int


def tenant_routes(tenancy: Tenancy) -> list[HTTPRouteHandler]:
    """None for a single tenant, which has no name that a client knows."""
    if tenancy.config.single_tenant:
        return []
    everybody = _Everybody()

    @get("/tenants")
    async def list_tenants(request: Request[Any, Any, Any]) -> ASGIApp:
        if tenancy.config.tenants_visible == "all":
            return Answer(everybody.listed(tenancy.config))
        return Answer(_listed([str(tenant_of(request.scope).name)]))

    return [list_tenants]


class _Everybody:
    """The list of all tenants, made once for each config."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._body = b""

    def listed(self, config: Config) -> bytes:
        if config is not self._config:
            self._body = _listed([str(it.name) for it in config.tenants if not it.is_suspended])
            self._config = config
        return self._body


def _listed(names: list[str]) -> bytes:
    return msgspec.json.encode(Tenants(names, len(names)))
