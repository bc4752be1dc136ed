"""How much a tenant has stored."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET, UnsetType

from ebus.config import Config
from ebus.http.answers import Answer
from ebus.http.tenant import tenant_of


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's figures. `timestamp` is the time of the answer in Unix seconds.

    A server of a single tenant leaves its name out.
    """

    tenant: str | UnsetType = UNSET
    total_events: int
    timestamp: int


def metric_routes(config: Config) -> list[HTTPRouteHandler]:
    @get("/metrics")
    async def read_metrics(request: Request[Any, Any, Any]) -> ASGIApp:
        tenant = tenant_of(request.scope)
        metrics = Metrics(
            tenant=UNSET if config.single_tenant else str(tenant.name),
            total_events=await tenant.store.count(),
            timestamp=int(time.time()),
        )
        return Answer(msgspec.json.encode(metrics))

    return [read_metrics]
