"""The page and the documentation in the OpenAPI document."""

from __future__ import annotations

from ebus.http.openapi_shapes import Json, in_path
from ebus.http.static_files import MEDIA_TYPES, load_files


def page_paths() -> Json:
    return {
        "/ui": _read_and_head("readPage", "The page for people", "text/html; charset=utf-8"),
        "/ui/{file}": _read_and_head(
            "readPageFile",
            "A file of the page",
            *sorted(MEDIA_TYPES.values()),
            parameters=[in_path("file", "Its name", enum=sorted(load_files("ui")))],
        ),
        "/docs": _read_and_head("readDocs", "This document for people", "text/html; charset=utf-8"),
    }


def _read_and_head(
    operation_id: str, summary: str, *media_types: str, parameters: list[Json] | None = None
) -> Json:
    """A file that is read without a key."""
    responses: Json = {
        "200": {
            "description": "Done",
            "headers": {"ETag": {"description": "Its tag", "schema": {"type": "string"}}},
            "content": {media_type: {"schema": {"type": "string"}} for media_type in media_types},
        },
        "304": {"description": "The client has it, as its If-None-Match says"},
        "500": {"$ref": "#/components/responses/500"},
    }
    if parameters:
        responses["404"] = {"$ref": "#/components/responses/404"}
    read: Json = {
        "operationId": operation_id,
        "summary": summary,
        "security": [],
        "parameters": parameters or [],
        "responses": dict(sorted(responses.items())),
    }
    return {"get": read, "head": {**read, "operationId": f"{operation_id}Head"}}
