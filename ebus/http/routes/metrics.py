"""Figures: of a tenant with its key, of the whole server with the admin key."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET, UnsetType

from ebus.config import Config
from ebus.http.answers import JSON, Answer
from ebus.http.scraping import Seen, see_server, see_tenant
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import is_admin, tenant_of
from ebus.http.weights import weighted

OPENMETRICS = "application/openmetrics-text"
TEXT = "text/plain"
FORMS = (JSON, OPENMETRICS, TEXT)
"""In the order in which they are taken when a client likes several alike."""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's figures. `timestamp` is the time of the answer in Unix seconds.

    A server of a single tenant leaves its name out.
    """

    tenant: str | UnsetType = UNSET
    total_events: int
    timestamp: int


class ServerMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """A few figures of the whole server; the text has all of them."""

    tenants: int
    open_tenants: int
    """In the process that answers."""
    timestamp: int


def metric_routes(config: Config, tenancy: Tenancy) -> list[HTTPRouteHandler]:
    @get("/metrics")
    async def read_metrics(request: Request[Any, Any, Any]) -> ASGIApp:
        form = form_of(", ".join(request.headers.getall("accept", [])).encode("latin-1"))
        if is_admin(request.scope):
            if form == JSON:
                return Answer(msgspec.json.encode(_server_metrics(tenancy)))
            return await _text(await see_server(tenancy), form)
        tenant = tenant_of(request.scope)
        if form == JSON:
            metrics = Metrics(
                tenant=UNSET if config.single_tenant else str(tenant.name),
                total_events=await tenant.store.count(),
                timestamp=int(time.time()),
            )
            return Answer(msgspec.json.encode(metrics))
        return await _text(await see_tenant(tenancy, tenant), form)

    return [read_metrics]


def form_of(accept: bytes) -> str:
    """What to answer in: JSON, unless the client likes one of the others better (RFC 9110, 12.5.1).

    A client that takes none of them gets JSON, as it always did.
    """
    weights: dict[str, float] = {}
    for name, weight in weighted(accept, with_parameters=True):
        weights[name] = max(weight, weights.get(name, 0.0))
    return max(FORMS, key=lambda form: _liking(form, weights))


def _liking(form: str, weights: dict[str, float]) -> float:
    """How much a client likes it, by the most specific of the ranges that it is in."""
    ranges = (form, f"{form.partition('/')[0]}/*", "*/*")
    return next((weights[one] for one in ranges if one in weights), 0.0)


def _server_metrics(tenancy: Tenancy) -> ServerMetrics:
    return ServerMetrics(
        tenants=len(tenancy.names),
        open_tenants=tenancy.open_tenants,
        timestamp=int(time.time()),
    )


async def _text(seen: Seen, form: str) -> Answer:
    return await asyncio.to_thread(_written, seen, form)


def _written(seen: Seen, form: str) -> Answer:
    """In a thread: ten thousand tenants make megabytes."""
    # Imported by the first one who asks, in this thread: the library takes a tenth of a second
    # to load, for which no start should wait that nobody scrapes.
    from ebus.http import exposition  # noqa: PLC0415

    text, media_type = exposition.text_of(seen, openmetrics=form == OPENMETRICS)
    return Answer(text, media_type=media_type)
