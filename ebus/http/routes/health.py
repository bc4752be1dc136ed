"""Whether the server can do its work: for load balancers, without a key."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
from litestar import Request, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET, UnsetType

from ebus.core.errors import EbusError
from ebus.http.answers import Answer
from ebus.http.reload_state import ReloadState
from ebus.http.tenancy import Tenancy
from ebus.http.wire import Query
from ebus.http.worth import Worth

logger = logging.getLogger("ebus.http")


class ConfigHealth(msgspec.Struct, frozen=True):
    """Which config is served. What is wrong with one that is not is in the operator's log only."""

    generation: int
    """1 at the start, and one more with each reload; with several workers, what all serve."""

    loaded_at: str
    problem: str | UnsetType = UNSET
    """Only while the last reload has failed."""


class AcknowledgementHealth(msgspec.Struct, frozen=True):
    """What it is worth that an append was answered, as the engine has said last."""

    worth: str
    """A short sentence for people: what an event has come to by then, and what it survives."""

    durable: bool | None
    """Whether it survives a power cut; null where nobody can tell."""

    warnings: tuple[str, ...]
    """What is less than was asked for, a sentence each, by the name of the setting."""


class Health(msgspec.Struct, frozen=True):
    """`healthy` or `unhealthy`; why is in the operator's log only."""

    status: str
    config: ConfigHealth | UnsetType = UNSET
    """Only where details were asked for."""

    acknowledgement: AcknowledgementHealth | UnsetType = UNSET
    """Only where details were asked for, and the engine has said it."""


def health_routes(tenancy: Tenancy) -> list[HTTPRouteHandler]:
    @route("/health", http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def read_health(request: Request[Any, Any, Any]) -> ASGIApp:
        query = Query(request.scope["query_string"])
        has_details = query.word("details", ("true", "false")) == "true"
        config = _config_health(tenancy.reloads) if has_details else UNSET
        acknowledgement = _acknowledgement_health(tenancy.worth) if has_details else UNSET
        try:
            await tenancy.check_health()
        except EbusError as error:
            logger.warning("unhealthy: %s", error)
            unhealthy = Health("unhealthy", config, acknowledgement)
            return Answer(msgspec.json.encode(unhealthy), status=503)
        return Answer(msgspec.json.encode(Health("healthy", config, acknowledgement)))

    return [read_health]


def _config_health(reloads: ReloadState) -> ConfigHealth:
    problem: str | UnsetType = UNSET
    if reloads.is_failing and reloads.last_failed_s is not None:
        failed_at = _moment(reloads.last_failed_s)
        problem = f"config: the last reload failed at {failed_at}; see the log"
    return ConfigHealth(reloads.generation, _moment(reloads.last_ok_s), problem)


def _acknowledgement_health(worth: Worth) -> AcknowledgementHealth | UnsetType:
    known = worth.known()
    if known is None:
        return UNSET
    return AcknowledgementHealth(known.worth, known.is_durable, known.warnings)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
