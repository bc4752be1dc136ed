"""Checkpoints: where a subscription has got to."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from ebus.config import Config
from ebus.http.answers import Answer
from ebus.http.tenant import tenant_of
from ebus.http.wire import check_subscription_id, decode_position, encode_position, read_body

PATH = "/subscriptions/{subscription_id:str}/position"


def subscription_routes(config: Config) -> list[HTTPRouteHandler]:
    max_chars = config.limits.max_subscription_id_chars

    def name_in(request: Request[Any, Any, Any]) -> str:
        return check_subscription_id(request.path_params["subscription_id"], max_chars=max_chars)

    @route(PATH, http_method=[HttpMethod.POST, HttpMethod.PUT])
    async def save_checkpoint(request: Request[Any, Any, Any]) -> ASGIApp:
        name = name_in(request)
        body = await read_body(
            request.scope,
            request.receive,
            max_body_bytes=config.limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )
        await tenant_of(request.scope).store.save_checkpoint(name, decode_position(body))
        return Answer(status=204)

    @get(PATH)
    async def read_checkpoint(request: Request[Any, Any, Any]) -> ASGIApp:
        name = name_in(request)
        position = await tenant_of(request.scope).store.checkpoint(name)
        return Answer(encode_position(position or 0))

    return [save_checkpoint, read_checkpoint]
