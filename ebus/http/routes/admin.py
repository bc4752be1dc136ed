"""Tenants made and changed at run time, with the admin key."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, Router, delete, get, patch, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import UNSET, UnsetType

from ebus.config import Config, Scope
from ebus.config.tenant_limits import TENANT_LIMIT_KEYS
from ebus.core.engine import Durability
from ebus.core.tenant import TenantName
from ebus.http.administration import Administration
from ebus.http.answers import Answer
from ebus.http.problems import not_for_tenants
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import admin_of, is_admin
from ebus.http.tenant_figures import figures_of
from ebus.http.wire import Query, decode_body, read_body
from ebus.tenants.model import By, parse_end, parse_overlap
from ebus.tenants.shapes import (
    ALL_OF_THEM,
    AuditOut,
    DeletedOut,
    TenantKeyOut,
    TenantOut,
    TenantsOut,
    TrashOut,
    audit_out,
    registered_out,
    served_out,
    trashed_out,
)

T = TypeVar("T")

AnyRequest = Request[Any, Any, Any]

TENANTS = "/admin/tenants"
TENANT = f"{TENANTS}/{{tenant:str}}"
TRASH = "/admin/trash"

NO_STORE = {"Cache-Control": "no-store"}
"""For answers that hold a key."""

DEFAULT_OVERLAP = "24h"
DEFAULT_PAGE = 100


class CreateIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant that is to be made."""

    tenant: str
    durability: Durability | None = None
    limits: dict[str, Any] = {}
    scope: Scope = "both"
    key_name: str | None = None


class ChangeIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be another way (RFC 7396): null removes, what is left out stays."""

    durability: Durability | UnsetType | None = UNSET
    limits: dict[str, Any] | UnsetType | None = UNSET


class KeyIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One more key."""

    name: str | None = None
    scope: Scope = "both"
    expires_at: str | None = None


class RotateIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which key is to be replaced, or all, and how long the old one goes on."""

    key_name: str | None = None
    overlap: str = DEFAULT_OVERLAP


def admin_routes(config: Config, tenancy: Tenancy) -> list[Router]:
    """None without an admin key, and none for a single tenant."""
    if not config.admins or config.single_tenant:
        return []
    administration = tenancy.administration = Administration(config, tenancy)
    handlers = [
        *_looks(tenancy, administration),
        *_changes(config, administration),
        *_key_changes(config, administration),
        *_trash(administration),
    ]
    return [Router("/", route_handlers=handlers, guards=[_for_admins_only])]


def _for_admins_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Whatever way led here: the router takes `//admin` for `/admin`, and the door does not."""
    if not is_admin(connection.scope):
        raise not_for_tenants()


def _looks(tenancy: Tenancy, administration: Administration) -> list[HTTPRouteHandler]:
    @get(TENANTS)
    async def list_tenants(request: AnyRequest) -> ASGIApp:
        query = Query(request.scope["query_string"])
        limit = min(query.whole_number("limit", least=1, default=DEFAULT_PAGE) or 1, ALL_OF_THEM)
        after, prefix = query.text("after") or "", query.text("prefix") or ""
        found = {
            it.name: served_out(it)
            for it in administration.in_file
            if it.name > after and it.name.startswith(prefix)
        }
        registered = await administration.page(prefix=prefix, after=after, limit=limit + 1)
        found |= {it.name: registered_out(it) for it in registered}
        count = await administration.count(prefix)
        count += sum(it.name.startswith(prefix) for it in administration.in_file)
        names = sorted(found)
        page = [found[name] for name in names[:limit]]
        if query.word("figures", ("true", "false")) == "true":
            figures = await figures_of(tenancy, names[:limit])
            page = [msgspec.structs.replace(it, figures=figures.get(it.tenant)) for it in page]
        further = str(names[limit - 1]) if len(names) > limit else None
        return _answer(TenantsOut(page, count, further))

    @get(TENANT)
    async def read_tenant(request: AnyRequest) -> ASGIApp:
        name = request.path_params["tenant"]
        served = administration.find_in_file(name)
        if served is not None:
            out = served_out(served)
        else:
            out = registered_out(await administration.find(name))
        figures = await figures_of(tenancy, [name])
        return _answer(msgspec.structs.replace(out, figures=figures.get(name)))

    @get("/admin/audit")
    async def read_audit(request: AnyRequest) -> ASGIApp:
        query = Query(request.scope["query_string"])
        limit = min(query.whole_number("limit", least=1, default=DEFAULT_PAGE) or 1, ALL_OF_THEM)
        before = query.whole_number("before", least=1, default=None)
        tenant = query.text("tenant")
        entries = await administration.audit(limit=limit + 1, before=before, tenant=tenant)
        further = entries[limit - 1].id if len(entries) > limit else None
        return _answer(AuditOut([audit_out(it) for it in entries[:limit]], further))

    return [list_tenants, read_tenant, read_audit]


def _changes(config: Config, administration: Administration) -> list[HTTPRouteHandler]:
    @post(TENANTS)
    async def create_tenant(request: AnyRequest) -> ASGIApp:
        wanted = await _body(request, config, CreateIn)
        name = TenantName(wanted.tenant, max_chars=config.limits.max_tenant_name_chars)
        made, key = await administration.create(
            name,
            by=_by(request),
            key_name=wanted.key_name,
            scope=wanted.scope,
            durability=wanted.durability,
            limits=wanted.limits,
        )
        return _answer(
            TenantKeyOut(registered_out(made), key, made.keys[0].name), status=201, headers=NO_STORE
        )

    @patch(TENANT)
    async def change_tenant(request: AnyRequest) -> ASGIApp:
        wanted = await _body(request, config, ChangeIn)
        limits = wanted.limits
        if limits is None:
            limits = dict.fromkeys(TENANT_LIMIT_KEYS)
        changed = await administration.change(
            request.path_params["tenant"],
            by=_by(request),
            durability=None if wanted.durability is UNSET else wanted.durability,
            sets_durability=wanted.durability is not UNSET,
            limits=None if limits is UNSET else limits,
        )
        return _answer(registered_out(changed))

    @post(f"{TENANT}/suspend", status_code=200)
    async def suspend_tenant(request: AnyRequest) -> ASGIApp:
        name = request.path_params["tenant"]
        found = await administration.set_state(name, "suspended", by=_by(request))
        return _answer(registered_out(found))

    @post(f"{TENANT}/resume", status_code=200)
    async def resume_tenant(request: AnyRequest) -> ASGIApp:
        name = request.path_params["tenant"]
        return _answer(
            registered_out(await administration.set_state(name, "active", by=_by(request)))
        )

    @delete(TENANT, status_code=200)
    async def delete_tenant(request: AnyRequest) -> ASGIApp:
        confirmed = Query(request.scope["query_string"]).text("confirm")
        trash = await administration.delete(
            request.path_params["tenant"], confirmed=confirmed, by=_by(request)
        )
        return _answer(DeletedOut(trash))

    return [create_tenant, change_tenant, suspend_tenant, resume_tenant, delete_tenant]


def _key_changes(config: Config, administration: Administration) -> list[HTTPRouteHandler]:
    @post(f"{TENANT}/keys")
    async def add_key(request: AnyRequest) -> ASGIApp:
        wanted = await _body(request, config, KeyIn)
        tenant, key, key_name = await administration.add_key(
            request.path_params["tenant"],
            by=_by(request),
            key_name=wanted.name,
            scope=wanted.scope,
            expires_at_s=None if wanted.expires_at is None else parse_end(wanted.expires_at),
        )
        return _answer(
            TenantKeyOut(registered_out(tenant), key, key_name), status=201, headers=NO_STORE
        )

    @post(f"{TENANT}/rotate-key")
    async def rotate_key(request: AnyRequest) -> ASGIApp:
        wanted = await _body(request, config, RotateIn)
        tenant, key, key_name = await administration.rotate_key(
            request.path_params["tenant"],
            by=_by(request),
            key_name=wanted.key_name,
            overlap_s=parse_overlap(wanted.overlap),
        )
        return _answer(
            TenantKeyOut(registered_out(tenant), key, key_name), status=201, headers=NO_STORE
        )

    @delete(f"{TENANT}/keys/{{key_name:str}}", status_code=200)
    async def revoke_key(request: AnyRequest) -> ASGIApp:
        path = request.path_params
        found = await administration.revoke_key(path["tenant"], path["key_name"], by=_by(request))
        return _answer(registered_out(found))

    return [add_key, rotate_key, revoke_key]


def _trash(administration: Administration) -> list[HTTPRouteHandler]:
    @get(TRASH)
    async def list_trash() -> ASGIApp:
        return _answer(TrashOut([trashed_out(it) for it in await administration.trash()]))

    @delete(f"{TRASH}/{{trash:str}}", status_code=200)
    async def purge_trash(request: AnyRequest) -> ASGIApp:
        confirmed = Query(request.scope["query_string"]).text("confirm")
        trash = request.path_params["trash"]
        await administration.purge(trash, confirmed=confirmed, by=_by(request))
        return Answer(status=204)

    return [list_trash, purge_trash]


def _by(request: AnyRequest) -> By:
    return By(admin_of(request.scope), "http")


def _answer(
    out: TenantOut | TenantsOut | TenantKeyOut | DeletedOut | TrashOut | AuditOut,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Answer:
    return Answer(msgspec.json.encode(out), status=status, headers=headers)


async def _body(request: AnyRequest, config: Config, kind: type[T]) -> T:
    """An empty body is one that says nothing."""
    body = await read_body(
        request.scope,
        request.receive,
        max_body_bytes=config.limits.max_body_bytes,
        read_timeout_s=config.read_timeout_s,
    )
    return decode_body(body or b"{}", kind)
