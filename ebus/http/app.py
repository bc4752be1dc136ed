"""Where the parts of the server are put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar import route as http_route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.plugins import PluginProtocol
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.http.compression import compress
from ebus.http.door import Door, call, note_refusal
from ebus.http.endpoint import Route
from ebus.http.openapi import openapi_document, openapi_routes
from ebus.http.problems import MEDIA_TYPE, problem_of
from ebus.http.routes import event_routes
from ebus.http.routes.admin import admin_routes
from ebus.http.routes.health import health_routes
from ebus.http.routes.leases import lease_routes
from ebus.http.routes.metrics import metric_routes
from ebus.http.routes.subscriptions import subscription_routes
from ebus.http.routes.tenants import tenant_routes
from ebus.http.routes.ui import ui_routes
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import tenant_of


def create_app(config: Config, tenancy: Tenancy | None = None) -> ASGIApp:
    """The server as an ASGI application.

    Its lifespan opens the engine and closes every store; the requests of a server that has
    not started are answered 503. The application never logs a key.
    """
    tenancy = tenancy or Tenancy(config)
    routes = event_routes(config, tenancy.live)
    served: ASGIApp = Door(create_routes(config, tenancy, routes), tenancy, config, routes)
    return compress(served) if config.enable_gzip else served


class _Litestar(Litestar):
    """Without what Litestar adds for pydantic and attrs where they are installed.

    No handler here has a type of theirs, and to import them takes a third of a server's start.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return plugins


def create_routes(config: Config, tenancy: Tenancy, routes: Iterable[Route]) -> Litestar:
    """What lies behind the door. `routes` are known here for their other methods' sake."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await tenancy.start()
        try:
            yield
        finally:
            await tenancy.stop()

    document = openapi_document(config)
    return _Litestar(
        [
            *(_handler(route, config) for route in routes),
            *subscription_routes(config),
            *lease_routes(config, tenancy.live),
            *metric_routes(config, tenancy),
            *tenant_routes(tenancy),
            *admin_routes(config, tenancy),
            *health_routes(tenancy),
            *openapi_routes(document),
            *ui_routes(config, document),
        ],
        lifespan=[lifespan],
        exception_handlers={Exception: _answer_error},
        openapi_config=None,  # the document is written by hand, see `openapi`
        logging_config=None,
    )


def _handler(route: Route, config: Config) -> HTTPRouteHandler:
    @http_route(route.path, http_method=[HttpMethod(route.method)])
    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        return await call(route, tenant_of(request.scope), request.scope, request.receive, config)

    return handle


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    problem = problem_of(error)
    request_id = note_refusal(request.scope, problem)
    return Response(
        problem.body(),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers_to(request_id),
    )
