"""What the OpenAPI document is made of: schemas, parameters, operations, errors."""

from __future__ import annotations

from typing import Any

import msgspec

from ebus.config import Config
from ebus.core.consumers import MAX_ATTEMPTS, MAX_LEASE_S, MAX_REASON_CHARS
from ebus.core.limits import MAX_CONDITION_FILTERS, MAX_POSITION
from ebus.http.answers import JSON
from ebus.http.problems import MEDIA_TYPE, Document
from ebus.http.routes.health import Health
from ebus.http.routes.leases import AckIn, ExtendIn, LeaseIn, ReleaseIn
from ebus.http.routes.metrics import Metrics, ServerMetrics
from ebus.http.routes.reads import Streams
from ebus.http.routes.subscriptions import SubscriptionOut, Subscriptions
from ebus.http.routes.tenants import Tenants
from ebus.http.wire import Position

Json = dict[str, Any]

ERRORS = {
    "400": "What was sent cannot be read, or is not what it must be",
    "401": "No API key, a wrong one, or one that has expired",
    "403": "The API key is not for this, or the tenant is suspended",
    "408": "The body did not arrive in time",
    "404": "There is no such thing",
    "409": "What is stored says otherwise; nothing was changed",
    "412": "The checkpoint is not what If-Match says; nothing was changed",
    "413": "The body or an event is over its size limit",
    "415": "The body is said to be something other than JSON",
    "429": "Too many requests or events of this tenant, or wrong API keys of this address",
    "500": "The server failed",
    "503": "The tenant cannot be served at the moment",
    "507": "The server has no space left, or the tenant none of its own; nothing was stored",
}
TIMESTAMP = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})$"
)
"""What `date-time` leaves open: capitals, an offset that is not left out, nine decimals."""

ALWAYS = ("401", "403", "429", "500", "503")
READING = ("400", *ALWAYS)
WRITING = ("400", "408", "413", "415", "507", *ALWAYS)


def operation(
    operation_id: str,
    summary: str,
    answer: Json | None,
    description: str | None = None,
    *,
    parameters: list[Json] | None = None,
    body: Json | None = None,
    headers: Json | None = None,
    errors: tuple[str, ...] = ALWAYS,
    body_required: bool = True,
    forms: tuple[str, ...] = (),
) -> Json:
    """One operation; an `answer` of None is a 204 without a body."""
    operation: Json = {"operationId": operation_id, "summary": summary}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {
            "required": body_required,
            "content": {JSON: {"schema": body}},
        }
    success: Json = {"description": "Done"}
    if answer is not None:
        success["content"] = {
            JSON: {"schema": answer},
            **{form: {"schema": {"type": "string"}} for form in forms},
        }
    if headers:
        success["headers"] = headers
    operation["responses"] = {
        "204" if answer is None else "200": success,
        **{status: {"$ref": f"#/components/responses/{status}"} for status in sorted(errors)},
    }
    return operation


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def array(name: str, max_items: int | None = None) -> Json:
    return {"type": "array", "items": ref(name)} | ({"maxItems": max_items} if max_items else {})


def number(name: str, description: str, least: int, required: bool) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": {"type": "integer", "minimum": least, "maximum": MAX_POSITION},
    }


def text(name: str, description: str, **schema: Any) -> Json:
    """A parameter that may be left out."""
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def header(name: str, description: str, **schema: Any) -> Json:
    """A header that may be left out."""
    return {**text(name, description, **schema), "in": "header"}


def in_path(name: str, description: str, **schema: Any) -> Json:
    return {**text(name, description, **schema), "in": "path", "required": True}


def problem(description: str) -> Json:
    return {
        "description": description,
        "headers": {
            "X-Request-Id": {
                "description": "Unless one was sent: an id, which the log says too",
                "schema": {"type": "string"},
            }
        },
        "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
    }


def _bound_leases(generated: Json, config: Config) -> None:
    """Say what the bounds of a lease are."""
    seconds = {"exclusiveMinimum": 0, "maximum": MAX_LEASE_S}
    asked = generated["LeaseIn"]["properties"]
    asked["max_events"] = {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": config.limits.max_read_events,
    }
    asked["seconds"].update(seconds)
    asked["max_attempts"].update(minimum=1, maximum=MAX_ATTEMPTS)
    generated["ExtendIn"]["properties"]["seconds"].update(seconds)
    released = generated["ReleaseIn"]["properties"]
    released["delay"].update(minimum=0, maximum=MAX_LEASE_S)
    released["reason"].update(maxLength=MAX_REASON_CHARS)


def schemas(config: Config) -> Json:
    _, generated = msgspec.json.schema_components(
        [
            Position,
            Metrics,
            ServerMetrics,
            Health,
            Document,
            Tenants,
            Streams,
            Subscriptions,
            SubscriptionOut,
            LeaseIn,
            AckIn,
            ExtendIn,
            ReleaseIn,
        ],
        ref_template="#/components/schemas/{name}",
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
            "pattern": TIMESTAMP,
            "description": "RFC 3339, any offset, at most nine decimals",
        },
    }
    name: Json = {"type": "string", "minLength": 1, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"}
    further: Json = {
        "id": {
            **name,
            "maxLength": config.limits.max_event_id_chars,
            "description": "The client's own: to append it once more stores nothing",
        },
        "stream": {
            **name,
            "maxLength": config.limits.max_stream_chars,
            "description": "The entity that the event is about",
        },
        "metadata": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": f"At most {config.limits.max_metadata_bytes} bytes of JSON",
        },
    }
    whole: Json = {"type": "integer", "minimum": 0, "maximum": MAX_POSITION}
    expected: Json = {
        "expected_position": {**whole, "description": "The head must be exactly this"},
        "none_after": {
            "type": "object",
            "required": ["position", "match"],
            "additionalProperties": False,
            "description": "No event that matches may have come after the position",
            "properties": {
                "position": whole,
                "match": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_CONDITION_FILTERS,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "type": {"type": "array", "maxItems": 100, "items": event["type"]},
                            "stream": further["stream"],
                            "stream_prefix": {**further["stream"], "minLength": 0},
                        },
                    },
                },
            },
        },
    }
    version_expected: Json = {
        "expected_version": {**whole, "description": "Of the one stream; 0 without events"}
    }
    match: Json = expected["none_after"]["properties"]["match"]["items"]["properties"]
    match["stream_prefix"]["pattern"] = r"^[^\x00-\x1f\x7f-\x9f]*$"
    _bound_leases(generated, config)
    version: Json = {"type": "integer", "minimum": 1, "maximum": MAX_POSITION}
    events = {
        "type": "array",
        "minItems": 1,
        "maxItems": config.limits.max_batch_events,
        "items": ref("NewEvent"),
    }
    lease = {
        "lease": {"type": "string"},
        "first_position": position,
        "last_position": position,
        "attempt": version,
        "max_attempts": version,
        "expires_at": {"type": "string", "format": "date-time"},
    }
    return {
        **generated,
        "NewEvent": {
            "type": "object",
            "required": ["type", "data"],
            "properties": {**event, **further},
            "description": "Without a time stamp it gets the server's. Other fields are ignored. "
            f"At most {config.limits.max_event_bytes} bytes.",
        },
        "NewEventAndExpectation": {
            "type": "object",
            "required": ["type", "data"],
            "properties": {
                **event,
                **further,
                **expected,
                **version_expected,
            },
        },
        "Batch": {
            "type": ["array", "object"],
            "description": "The events; or an object with them, and what is expected",
            "minItems": 1,
            "maxItems": config.limits.max_batch_events,
            "items": ref("NewEvent"),
            "required": ["events"],
            "additionalProperties": False,
            "properties": {
                "events": events,
                **expected,
                **version_expected,
                "expected_versions": {
                    "type": "object",
                    "propertyNames": {**name, "maxLength": config.limits.max_stream_chars},
                    "additionalProperties": whole,
                },
            },
        },
        "Event": {
            "type": "object",
            "required": ["position", "type", "data", "timestamp"],
            "properties": {"position": position, **event, **further, "version": version},
        },
        "Lease": {
            "type": "object",
            "required": list(lease),
            "properties": {**lease, "events": array("Event")},
        },
        "Appended": {
            "type": "object",
            "required": ["saved", "first_position", "last_position"],
            "properties": {
                "saved": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "How many are new; the others were there before",
                },
                "first_position": position,
                "last_position": position,
                "events": {
                    "type": "array",
                    "description": "Where each is, if any has an id or a stream",
                    "items": {
                        "type": "object",
                        "required": ["position", "timestamp"],
                        "properties": {
                            "position": position,
                            "version": version,
                            "duplicate": {"type": "boolean"},
                            "timestamp": event["timestamp"],
                        },
                    },
                },
            },
        },
    }
