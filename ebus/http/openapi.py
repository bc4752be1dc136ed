"""The wire as an OpenAPI document, at `/openapi.json`.

It is written here and not derived from the handlers: they take bytes and give bytes. A test
holds it against the routes that exist and against the statuses that are answered.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

import ebus
from ebus.config import Config
from ebus.core.limits import MAX_POSITION
from ebus.http.answers import JSON, Answer
from ebus.http.problems import MEDIA_TYPE, Document
from ebus.http.routes.health import Health
from ebus.http.routes.metrics import Metrics
from ebus.http.routes.tenants import Tenants
from ebus.http.wire import Position

Json = dict[str, Any]

_ERRORS = {
    "400": "What was sent cannot be read, or is not what it must be",
    "401": "No API key, a wrong one, or one that has expired",
    "403": "The API key is only for reading, or only for writing",
    "408": "The body did not arrive in time",
    "413": "The body or an event is over its size limit",
    "415": "The body is said to be something other than JSON",
    "429": "Too many requests or events of this tenant, or wrong API keys of this address",
    "500": "The server failed",
    "503": "The tenant cannot be served at the moment",
    "507": "The server has no space left, or the tenant none of its own; nothing was stored",
}
_TIMESTAMP = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})$"
)
"""What `date-time` leaves open: capitals, an offset that is not left out, nine decimals."""

_ALWAYS = ("401", "403", "429", "500", "503")
_READING = ("400", *_ALWAYS)
_WRITING = ("400", "408", "413", "415", "507", *_ALWAYS)


def openapi_routes(config: Config) -> list[HTTPRouteHandler]:
    body = msgspec.json.encode(openapi_document(config))

    @get("/openapi.json")
    async def read_openapi() -> ASGIApp:
        return Answer(body)

    return [read_openapi]


def openapi_document(config: Config) -> Json:
    """The document for a server with this config: its limits stand in it."""
    paths = {**_event_paths(config), **_subscription_paths(config), **_operator_paths()}
    if not config.single_tenant:
        paths["/tenants"] = {
            "get": _operation(
                "listTenants",
                "The tenants that may be seen, in the order of the config file",
                _ref("Tenants"),
            )
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ebus",
            "version": ebus.__version__,
            "summary": "A multi-tenant event store",
            "description": "Every key opens one tenant: its events, its positions from 1, "
            "its checkpoints and its figures, and nothing of any other.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(config),
            "responses": {status: _problem(text) for status, text in _ERRORS.items()},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _event_paths(config: Config) -> Json:
    limits = config.limits
    return {
        "/events": {
            "post": _operation(
                "appendEvent",
                "Append one event",
                _ref("Event"),
                "The event with its position, once it is stored durably.",
                body=_ref("NewEvent"),
                errors=_WRITING,
            ),
            "get": _operation(
                "readEvents",
                "Read a range of events",
                _array("Event", limits.max_read_events),
                f"Events from `from` to `to`, both inclusive, at most {limits.max_read_events}. "
                "When that cuts the answer, the Link header says where to go on.",
                parameters=[
                    _number("from", "The first position; 0 means the same as 1", 0, True),
                    _number("to", "The last position; left out, all that there are", 0, False),
                ],
                headers={
                    "Link": {
                        "description": 'Where to go on, as rel="next"',
                        "schema": {"type": "string"},
                    }
                },
                errors=_READING,
            ),
        },
        "/events/batch": {
            "post": _operation(
                "appendBatch",
                "Append several events, all or none",
                _ref("Appended"),
                "They take contiguous positions, in the order in which they were sent.",
                body=_array("NewEvent", limits.max_batch_events) | {"minItems": 1},
                errors=_WRITING,
            )
        },
        "/events/stream": {
            "get": _operation(
                "streamEvents",
                "Read every event from a position on",
                _array("Event"),
                "Up to the last event there is when the request comes, sent in chunks. "
                "An answer that breaks off is an incomplete array.",
                parameters=[
                    _number("from", "The first position; 0 means the same as 1", 0, True),
                    _number("batch_size", "How many events are read at a time", 1, False),
                ],
                errors=_READING,
            )
        },
        "/position": {
            "get": _operation("readPosition", "The last position, 0 at first", _ref("Position"))
        },
    }


def _subscription_paths(config: Config) -> Json:
    subscription_id = {
        "name": "subscription_id",
        "in": "path",
        "required": True,
        "description": "A name of the client's choice",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": config.limits.max_subscription_id_chars,
            "pattern": r"^(?!\.\.?$)[A-Za-z0-9\-._~!$&'()*+,;=:@]+$",
        },
    }
    save: Json = {
        "summary": "Save where a subscription has got to",
        "body": _ref("Position"),
        "parameters": [subscription_id],
        "errors": _WRITING,
    }
    return {
        "/subscriptions/{subscription_id}/position": {
            "post": _operation("saveCheckpoint", answer=None, **save),
            "put": _operation("putCheckpoint", answer=None, **save),
            "get": _operation(
                "readCheckpoint",
                "Where a subscription has got to, 0 when that was never saved",
                _ref("Position"),
                parameters=[subscription_id],
                errors=_READING,
            ),
        }
    }


def _operator_paths() -> Json:
    health = _operation("readHealth", "Whether the server can do its work", _ref("Health"))
    health["security"] = []
    health["responses"] = {
        "200": health["responses"]["200"],
        "503": {"description": "It cannot", "content": {JSON: {"schema": _ref("Health")}}},
    }
    return {
        "/metrics": {"get": _operation("readMetrics", "The tenant's figures", _ref("Metrics"))},
        "/health": {"get": health, "head": {**health, "operationId": "headHealth"}},
        "/openapi.json": {
            "get": _operation("readOpenapi", "This document", {"type": "object"}),
        },
    }


def _operation(
    operation_id: str,
    summary: str,
    answer: Json | None,
    description: str | None = None,
    *,
    parameters: list[Json] | None = None,
    body: Json | None = None,
    headers: Json | None = None,
    errors: tuple[str, ...] = _ALWAYS,
) -> Json:
    operation: Json = {"operationId": operation_id, "summary": summary}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    success: Json = {"description": "Done"}
    if answer is not None:
        success["content"] = {JSON: {"schema": answer}}
    if headers:
        success["headers"] = headers
    operation["responses"] = {
        "204" if answer is None else "200": success,
        **{status: {"$ref": f"#/components/responses/{status}"} for status in sorted(errors)},
    }
    return operation


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(name: str, max_items: int | None = None) -> Json:
    return {"type": "array", "items": _ref(name)} | ({"maxItems": max_items} if max_items else {})


def _number(name: str, description: str, least: int, required: bool) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": {"type": "integer", "minimum": least, "maximum": MAX_POSITION},
    }


def _problem(description: str) -> Json:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": _ref("Problem")}},
    }


def _schemas(config: Config) -> Json:
    _, generated = msgspec.json.schema_components(
        [Position, Metrics, Health, Document, Tenants], ref_template="#/components/schemas/{name}"
    )
    generated["Problem"] = generated.pop("Document")
    position = {"type": "integer", "minimum": 1, "maximum": MAX_POSITION}
    event: Json = {
        "type": {
            "type": "string",
            "minLength": 1,
            "maxLength": config.limits.max_type_chars,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$",
            "description": "Without control characters",
        },
        "data": {"description": "Any JSON; it comes back byte for byte"},
        "timestamp": {
            "type": "string",
            "format": "date-time",
            "pattern": _TIMESTAMP,
            "description": "RFC 3339, any offset, at most nine decimals",
        },
    }
    return {
        **generated,
        "NewEvent": {
            "type": "object",
            "required": ["type", "data"],
            "properties": event,
            "description": "Without a time stamp it gets the server's. Other fields are ignored. "
            f"At most {config.limits.max_event_bytes} bytes.",
        },
        "Event": {
            "type": "object",
            "required": ["position", "type", "data", "timestamp"],
            "properties": {"position": position, **event},
        },
        "Appended": {
            "type": "object",
            "required": ["saved", "first_position", "last_position"],
            "properties": {
                "saved": {"type": "integer", "minimum": 1},
                "first_position": position,
                "last_position": position,
            },
        },
    }
