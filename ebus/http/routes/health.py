"""Whether the server can do its work: for load balancers, without a key."""

from __future__ import annotations

import logging

import msgspec
from litestar import route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.core.errors import EbusError
from ebus.http.answers import Answer
from ebus.http.tenancy import Tenancy

logger = logging.getLogger("ebus.http")


class Health(msgspec.Struct, frozen=True):
    """`healthy` or `unhealthy`; why is in the operator's log only."""

    status: str


def health_routes(tenancy: Tenancy) -> list[HTTPRouteHandler]:
    @route("/health", http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def read_health() -> ASGIApp:
        try:
            await tenancy.check_health()
        except EbusError as error:
            logger.warning("unhealthy: %s", error)
            return Answer(msgspec.json.encode(Health("unhealthy")), status=503)
        return Answer(msgspec.json.encode(Health("healthy")))

    return [read_health]
