"""The part of the OpenAPI document that is for the admin key: tenants made at run time."""

from __future__ import annotations

from typing import Any

import msgspec

from ebus.config import Config
from ebus.core.tenant import NAME_PATTERN
from ebus.http.openapi_shapes import (
    READING,
    WRITING,
    Json,
    in_path,
    number,
    operation,
    ref,
    text,
)
from ebus.http.routes.admin import ChangeIn, CreateIn, KeyIn, RotateIn
from ebus.tenants.shapes import AuditOut, DeletedOut, TenantKeyOut, TenantsOut, TrashOut

_CHANGING = (*READING, "404", "409")
_TAKING_A_BODY = (*WRITING, "404", "409")


def admin_schemas() -> Json:
    _, generated = msgspec.json.schema_components(
        [
            CreateIn,
            ChangeIn,
            KeyIn,
            RotateIn,
            TenantsOut,
            TenantKeyOut,
            DeletedOut,
            TrashOut,
            AuditOut,
        ],
        ref_template="#/components/schemas/{name}",
    )
    return generated


def admin_paths(config: Config) -> Json:
    """Empty where nobody has an admin key."""
    if not config.admins or config.single_tenant:
        return {}
    name = in_path(
        "tenant",
        "The tenant's name",
        pattern=f"^{NAME_PATTERN}$",
        minLength=1,
        maxLength=config.limits.max_tenant_name_chars,
    )
    confirm = text("confirm", "The tenant's name once more")
    return {
        "/admin/tenants": {"get": _list(), "post": _create()},
        **_tenant_paths(name, confirm),
        **_key_paths(name),
        "/admin/trash": {
            "get": operation(
                "listTrash", "Deleted tenants whose data is still there", ref("TrashOut")
            )
        },
        "/admin/trash/{trash}": {
            "delete": operation(
                "purgeTrash",
                "Delete for good what is in the trash",
                None,
                parameters=[in_path("trash", "Its id", pattern="^[A-Za-z0-9_-]+$"), confirm],
                errors=_CHANGING,
            )
        },
        "/admin/audit": {
            "get": operation(
                "readAudit",
                "Who changed what, the newest first",
                ref("AuditOut"),
                parameters=[
                    number("limit", "At most so many; 100 when left out", 1, False),
                    number("before", "Only ids below this one", 1, False),
                    text("tenant", "Only changes of this tenant"),
                ],
                errors=READING,
            )
        },
    }


def _list() -> Json:
    return operation(
        "listAllTenants",
        "Tenants of the registry and of the config file, by name",
        ref("TenantsOut"),
        parameters=[
            text("prefix", "Only names that begin so"),
            text("after", "Only names behind this one"),
            number("limit", "At most so many, up to 1,000; 100 when left out", 1, False),
            text("figures", "Whether to tell what they have done", enum=["true", "false"]),
        ],
        errors=READING,
    )


def _create() -> Json:
    return _created(
        "createTenant",
        "Make a tenant, whose key is shown this once",
        body=ref("CreateIn"),
        errors=_TAKING_A_BODY,
    )


def _tenant_paths(name: Json, confirm: Json) -> Json:
    tenant: Json = {"answer": ref("TenantOut"), "parameters": [name]}
    suspended = "Its keys are answered 403, what waits ends. Twice is fine."
    return {
        "/admin/tenants/{tenant}": {
            "get": operation(
                "readTenant", "A tenant with figures", errors=(*READING, "404"), **tenant
            ),
            "patch": operation(
                "changeTenant",
                "Change limits and durability: null removes, what is left out stays (RFC 7396)",
                body=ref("ChangeIn"),
                errors=_TAKING_A_BODY,
                **tenant,
            ),
            "delete": operation(
                "deleteTenant",
                "Delete a suspended tenant; its data goes to the trash",
                ref("DeletedOut"),
                parameters=[name, confirm],
                errors=_CHANGING,
            ),
        },
        "/admin/tenants/{tenant}/suspend": {
            "post": operation(
                "suspendTenant",
                "Let nobody in",
                description=suspended,
                errors=_TAKING_A_BODY,
                **tenant,
            )
        },
        "/admin/tenants/{tenant}/resume": {
            "post": operation(
                "resumeTenant", "Let its keys in again", errors=_TAKING_A_BODY, **tenant
            )
        },
    }


def _key_paths(name: Json) -> Json:
    key_name = in_path("key_name", "What the key is called", pattern="^[A-Za-z0-9._~-]{1,64}$")
    more: Json = {"parameters": [name], "errors": _TAKING_A_BODY, "body_required": False}
    return {
        "/admin/tenants/{tenant}/keys": {
            "post": _created("addKey", "Make one more key", body=ref("KeyIn"), **more)
        },
        "/admin/tenants/{tenant}/rotate-key": {
            "post": _created(
                "rotateKey",
                "Make a new key; the old one ends after the overlap",
                body=ref("RotateIn"),
                **more,
            )
        },
        "/admin/tenants/{tenant}/keys/{key_name}": {
            "delete": operation(
                "revokeKey",
                "Let a key open nothing from now on",
                ref("TenantOut"),
                parameters=[name, key_name],
                errors=_CHANGING,
            )
        },
    }


def _created(operation_id: str, summary: str, **more: Any) -> Json:
    made = operation(operation_id, summary, ref("TenantKeyOut"), **more)
    made["responses"] = {
        "201": made["responses"].pop("200"),
        **made["responses"],
    }
    return made
