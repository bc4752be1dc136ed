"""The wire as an OpenAPI document, at `/openapi.json`.

It is written here and not derived from the handlers: they take bytes and give bytes. A test
holds it against the routes that exist and against the statuses that are answered.
"""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

import ebus
from ebus.config import Config
from ebus.http.answers import JSON, Answer
from ebus.http.framing import NDJSON, SSE
from ebus.http.openapi_admin import admin_paths, admin_schemas
from ebus.http.openapi_files import page_paths
from ebus.http.openapi_shapes import (
    ERRORS,
    READING,
    TIMESTAMP,
    WRITING,
    Json,
    array,
    header,
    in_path,
    number,
    operation,
    problem,
    ref,
    schemas,
    text,
)


def openapi_routes(document: Json) -> list[HTTPRouteHandler]:
    body = msgspec.json.encode(document)

    @get("/openapi.json")
    async def read_openapi() -> ASGIApp:
        return Answer(body)

    return [read_openapi]


def openapi_document(config: Config) -> Json:
    """The document for a server with this config: its limits stand in it."""
    paths = {**_event_paths(config), **_subscription_paths(config), **_operator_paths()}
    if config.enable_ui:
        paths |= page_paths()
    administered = admin_paths(config)
    paths |= administered
    if not config.single_tenant:
        paths["/tenants"] = {
            "get": operation(
                "listTenants",
                "The tenants that may be seen, in the order of the config file",
                ref("Tenants"),
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
            "schemas": schemas(config) | (admin_schemas() if administered else {}),
            "responses": {status: problem(text) for status, text in ERRORS.items()},
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
            "post": operation(
                "appendEvent",
                "Append one event",
                ref("Event"),
                "The event with its position, once it is stored durably.",
                body=ref("NewEventAndExpectation"),
                parameters=_expectations(),
                headers=_DUPLICATE,
                errors=(*WRITING, "409"),
            ),
            "get": operation(
                "readEvents",
                "Read a range of events",
                array("Event", limits.max_read_events),
                f"Events from `from` to `to`, both inclusive, at most {limits.max_read_events}. "
                "When that cuts the answer, the Link header says where to go on.",
                parameters=[
                    number(
                        "from",
                        "The first position; 0 means the same as 1. May be left out with a "
                        "filter, a direction, and with last",
                        0,
                        False,
                    ),
                    number("to", "The last position; left out, all that there are", 0, False),
                    number("limit", "At most so many events", 1, False),
                    *_filters(config),
                    text(
                        "direction",
                        "backward begins with the last event of the range",
                        enum=["forward", "backward"],
                    ),
                    number("last", "The last so many that match, in order", 1, False),
                    text(
                        "wait",
                        f"How long to wait for an event when there is none, such as 20s; at most "
                        f"{limits.max_wait_s}s. Not with until, last and backward",
                        pattern="^([0-9]{1,4}ms|[0-5]s)$",
                    ),
                ],
                headers=_LINK,
                errors=READING,
            ),
        },
        "/events/batch": {
            "post": operation(
                "appendBatch",
                "Append several events, all or none",
                ref("Appended"),
                "They take contiguous positions, in the order in which they were sent.",
                body=schemas(config)["Batch"],
                parameters=_expectations(),
                headers=_DUPLICATE,
                errors=(*WRITING, "409"),
            )
        },
        "/events/stream": {
            "get": operation(
                "streamEvents",
                "Read every event from a position on",
                array("Event"),
                "Up to the last event there is when the request comes, sent in chunks; with "
                "follow, without end. As an array, a line an event, or Server-Sent Events whose "
                "ids are the positions. An answer that breaks off is an incomplete array.",
                parameters=[
                    number(
                        "from",
                        "The first position; 0 means the same as 1. May be left out with a "
                        "filter, follow or last, and for any form but an array",
                        0,
                        False,
                    ),
                    number("to", "The last position", 0, False),
                    number("batch_size", "How many events are read at a time", 1, False),
                    *_filters(config),
                    number(
                        "last", "Begin with the last so many that match, from `from` on", 1, False
                    ),
                    text("follow", "Go on with events as they come", enum=["true", "false"]),
                    header(
                        "Last-Event-ID",
                        "Go on behind this position; counts more than from and last",
                        pattern="^[0-9]{0,18}$",
                    ),
                ],
                errors=READING,
                forms=(NDJSON, SSE),
            )
        },
        "/streams": {
            "get": operation(
                "listStreams",
                "Streams and their versions, in the order of their names",
                ref("Streams"),
                parameters=_listing(),
                headers=_LINK,
                errors=READING,
            )
        },
        "/position": {
            "get": operation("readPosition", "The last position, 0 at first", ref("Position"))
        },
    }


_DUPLICATE: Json = {
    "Ebus-Duplicate": {
        "description": "true when any of the events was there before",
        "schema": {"type": "string"},
    }
}
_LINK: Json = {
    "Link": {"description": 'Where to go on, as rel="next"', "schema": {"type": "string"}}
}
_ETAG: Json = {"ETag": {"description": "The position", "schema": {"type": "string"}}}


def _expectations() -> list[Json]:
    return [
        number("expected_position", "The head must be exactly this", 0, False),
        number("expected_version", "The events' one stream must be at this", 0, False),
    ]


def _filters(config: Config) -> list[Json]:
    name = {"minLength": 1, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"}
    limits = config.limits
    moment = {"format": "date-time", "pattern": TIMESTAMP}
    return [
        {
            "name": "type",
            "in": "query",
            "required": False,
            "description": "Events of this type; may be given several times",
            "schema": {
                "type": "array",
                "maxItems": 20,
                "items": {"type": "string", **name, "maxLength": limits.max_type_chars},
            },
        },
        text("stream", "Events of this stream", **name, maxLength=limits.max_stream_chars),
        text(
            "stream_prefix",
            "Events of streams whose names begin so",
            maxLength=limits.max_stream_chars,
            pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        ),
        number("from_version", "From this version of the stream on", 0, False),
        number("to_version", "Up to this version of the stream", 0, False),
        text("since", "Recorded by the server at this time or later", **moment),
        text("until", "Recorded by the server before this time", **moment),
    ]


def _listing() -> list[Json]:
    return [
        text("prefix", "Only names that begin so"),
        text("after", "Only names behind this one"),
        number("limit", "At most so many; 1,000 when left out", 1, False),
    ]


def _subscription_paths(config: Config) -> Json:
    subscription_id = in_path(
        "subscription_id",
        "A name of the client's choice",
        minLength=1,
        maxLength=config.limits.max_subscription_id_chars,
        pattern=r"^(?!\.\.?$)[A-Za-z0-9\-._~!$&'()*+,;=:@]+$",
    )
    if_match = header(
        "If-Match",
        'Only if the checkpoint is this one, as its ETag says; "0" when never saved',
        pattern='^"[0-9]{1,18}"$',
    )
    save: Json = {
        "summary": "Save where a subscription has got to",
        "body": ref("Position"),
        "parameters": [subscription_id, if_match],
        "headers": _ETAG,
        "errors": (*WRITING, "412"),
    }
    return {
        "/subscriptions": {
            "get": operation(
                "listSubscriptions",
                "Subscriptions with their checkpoints and how far they are behind",
                ref("Subscriptions"),
                parameters=_listing(),
                headers=_LINK,
                errors=READING,
            )
        },
        "/subscriptions/{subscription_id}": {
            "get": operation(
                "readSubscription",
                "A checkpoint, what is leased, and what is parked",
                ref("SubscriptionOut"),
                parameters=[subscription_id],
                errors=(*READING, "404"),
            ),
            "delete": operation(
                "deleteSubscription",
                "Forget a checkpoint, its leases and what is parked",
                None,
                parameters=[subscription_id, if_match],
                errors=(*READING, "404", "412", "507"),
            ),
        },
        "/subscriptions/{subscription_id}/position": {
            "post": operation("saveCheckpoint", answer=None, **save),
            "put": operation("putCheckpoint", answer=None, **save),
            "get": operation(
                "readCheckpoint",
                "Where a subscription has got to, 0 when that was never saved",
                ref("Position"),
                parameters=[subscription_id],
                headers=_ETAG,
                errors=READING,
            ),
        },
        **_lease_paths(config, subscription_id),
    }


def _lease_paths(config: Config, subscription_id: Json) -> Json:
    lease = in_path("lease", "What the lease is called", minLength=1, pattern="^[A-Za-z0-9_-]+$")
    parked = in_path("first_position", "Where what is parked begins", pattern="^[0-9]{1,18}$")
    one = "/subscriptions/{subscription_id}"
    errors = (*WRITING, "409")
    changes: Json = {"parameters": [subscription_id, lease], "body_required": False}
    take = operation(
        "lease",
        "Hold the next events for a time",
        ref("Lease"),
        "204 when there is nothing to do. What is not acknowledged in time is handed out again, "
        "one event at a time, and parked after so many attempts. It needs a key for reading "
        "and writing.",
        parameters=[
            subscription_id,
            text("wait", "How long to wait for events", pattern="^([0-9]{1,3}ms|[0-1]s)$"),
        ],
        body=ref("LeaseIn"),
        body_required=False,
        errors=errors,
    )
    take["responses"]["204"] = {"description": "There is nothing to do"}
    return {
        f"{one}/lease": {"post": take},
        f"{one}/lease/{{lease}}/ack": {
            "post": operation(
                "acknowledge",
                "The events of a lease are finished, or those up to a position",
                None,
                body=ref("AckIn"),
                errors=errors,
                **changes,
            )
        },
        f"{one}/lease/{{lease}}/extend": {
            "post": operation(
                "extendLease",
                "Hold a lease for longer",
                ref("Lease"),
                body=ref("ExtendIn"),
                errors=errors,
                **changes,
            )
        },
        f"{one}/lease/{{lease}}/release": {
            "post": operation(
                "release",
                "Let go of a lease before its time",
                None,
                "With a position, the events before it are finished, and it has failed.",
                body=ref("ReleaseIn"),
                errors=errors,
                **changes,
            )
        },
        f"{one}/parked/{{first_position}}/redeliver": {
            "post": operation(
                "redeliverParked",
                "Hand out again what is parked there",
                None,
                parameters=[subscription_id, parked],
                errors=(*WRITING, "404"),
            )
        },
        f"{one}/parked/{{first_position}}": {
            "delete": operation(
                "dropParked",
                "Forget what is parked there",
                None,
                parameters=[subscription_id, parked],
                errors=(*READING, "404", "507"),
            )
        },
    }


_DETAILS = "Whether to tell too of the config, and of what the answer to an append is worth"


def _operator_paths() -> Json:
    health = operation(
        "readHealth",
        "Whether the server can do its work",
        ref("Health"),
        parameters=[text("details", _DETAILS, enum=["true", "false"])],
    )
    health["security"] = []
    health["responses"] = {
        "200": health["responses"]["200"],
        "400": {"$ref": "#/components/responses/400"},
        "503": {"description": "It cannot", "content": {JSON: {"schema": ref("Health")}}},
    }
    return {
        "/metrics": {
            "get": operation(
                "readMetrics",
                "The tenant's figures; as text for Prometheus when `Accept` asks for it",
                {"anyOf": [ref("Metrics"), ref("ServerMetrics")]},
                "With the server's admin key they are those of the whole server.",
                forms=("text/plain", "application/openmetrics-text"),
            )
        },
        "/health": {"get": health, "head": {**health, "operationId": "headHealth"}},
        "/openapi.json": {
            "get": operation("readOpenapi", "This document", {"type": "object"}),
        },
    }
