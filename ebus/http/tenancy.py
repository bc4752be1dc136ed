"""The door: from a key to a tenant to its store.

Whoever passes has a `Tenant` in the request's scope, and nothing past the door takes a
tenant's name from a client.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from hashlib import sha256

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from ebus.config import Config, TenantConfig
from ebus.core.aio import AsyncEngine, AsyncTenantStore
from ebus.core.engine import Engine, look_at, open_engine
from ebus.core.errors import StoreClosed, StoreRefused
from ebus.core.tenant import TenantName
from ebus.http.answers import Answer, EventArray
from ebus.http.endpoint import Call, Route
from ebus.http.problems import Problem, problem_of
from ebus.http.rate import Rates
from ebus.http.wire import read_body

logger = logging.getLogger("ebus.http")

OPEN_PATHS = frozenset({"/health"})
"""What is answered without a key."""


class Tenant(msgspec.Struct, frozen=True):
    """Who a request speaks for, and the only store that it can reach."""

    name: TenantName
    store: AsyncTenantStore


def tenant_of(scope: Scope) -> Tenant:
    """The tenant that the door let in."""
    tenant = scope["state"]["tenant"]
    assert isinstance(tenant, Tenant)
    return tenant


class Tenancy:
    """Every configured tenant, and the engine that keeps them."""

    def __init__(self, config: Config, rates: Rates | None = None) -> None:
        self._config = config
        self._rates = rates or rates_of(config)
        self._engine: AsyncEngine | None = None
        self._entries = {
            tenant.key_digest: _Entry(tenant, number)
            for number, tenant in enumerate(config.tenants)
        }

    async def start(self) -> None:
        """Make the engine and look at every tenant, so that what is wrong shows at start.

        The tenants are opened too while they are few: at most `limits.max_eager_tenants`.
        Raises what that raises, or one `StoreRefused` that tells of all the tenants which
        could not be opened.
        """
        config = self._config
        engine = open_engine(config.engine, durability=config.durability, limits=config.limits)
        await asyncio.to_thread(_refuse_bad_tenants, engine, config)
        self._engine = AsyncEngine(engine, limits=config.limits)
        if len(config.tenants) <= config.limits.max_eager_tenants:
            try:
                for tenant in config.tenants:
                    async with self._engine.tenant(tenant.name, durability=tenant.durability):
                        pass
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Finish what waits and close every store."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.aclose()

    async def check_health(self) -> None:
        await self._open_engine().check_health()

    async def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> Tenant:
        """The tenant whose key these headers carry, if its rate allows one more request.

        It must `leave` again. Raises `Problem` 401 or 429, and what opening the tenant's store
        raises.
        """
        # A digest is looked up, not a key: how long that takes says nothing about any key.
        entry = self._entries.get(sha256(_api_key(headers)).digest())
        if entry is None:
            raise _unauthorized("Invalid API key")
        if self._rates is not None and not self._rates.take(entry.number):
            raise _too_many(self._rates.rate)
        tenant = entry.config
        store = await self._open_engine().borrow(tenant.name, durability=tenant.durability)
        return Tenant(tenant.name, store)

    def leave(self, tenant: Tenant) -> None:
        """Let the tenant's store be closed, once nobody uses it any more."""
        if self._engine is not None:
            self._engine.give_back(tenant.name)

    def _open_engine(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreClosed("the server is not running")
        return self._engine


def _refuse_bad_tenants(engine: Engine, config: Config) -> None:
    findings = look_at(engine, (tenant.name for tenant in config.tenants))
    if findings.refusals:
        raise StoreRefused("\n".join(findings.refusals))


class _Entry(msgspec.Struct, frozen=True):
    """One configured tenant, and which of the rates is its own."""

    config: TenantConfig
    number: int


def rates_of(config: Config) -> Rates | None:
    """The rate limits of a server; None without one. To be made before workers are."""
    if config.rate_limit is None:
        return None
    return Rates(len(config.tenants), rate=config.rate_limit, burst=config.rate_burst or 1)


class Door:
    """ASGI middleware that lets nobody in without a key. It does not look at the body.

    The routes that carry the load are answered here, the others behind it.
    """

    def __init__(
        self, app: ASGIApp, tenancy: Tenancy, config: Config, routes: Iterable[Route]
    ) -> None:
        self._app = app
        self._tenancy = tenancy
        self._config = config
        self._routes = {(route.method, route.path): route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_begun(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._serve(scope, receive, send_begun)
        except asyncio.CancelledError:  # the server's time to shut down is over
            if begun:
                raise
            await problem_of(StoreClosed("the server stops")).answer()(scope, receive, send)
        except Exception as error:
            if begun:  # all that is left is to break it off, see `EventArray`
                log_broken_answer(error)
                raise
            await problem_of(error).answer()(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        tenant = await self._tenancy.admit(scope["headers"])
        try:
            route = self._routes.get((scope["method"], scope["path"]))
            if route is None:
                scope.setdefault("state", {})["tenant"] = tenant
                await self._app(scope, receive, send)
            else:
                answer = await call(route, tenant, scope, receive, self._config)
                await answer(scope, receive, send)
        finally:
            self._tenancy.leave(tenant)


async def call(
    route: Route, tenant: Tenant, scope: Scope, receive: Receive, config: Config
) -> Answer | EventArray:
    """The endpoint's answer to a request that arrives by ASGI."""
    body = b""
    if route.takes_body:
        body = await read_body(
            scope,
            receive,
            max_body_bytes=config.limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )
    return await route.endpoint(Call(tenant.store, scope["query_string"], body))


def log_broken_answer(error: BaseException) -> None:
    """Tell the operator why an answer that had begun was broken off."""
    while error.__cause__ is not None:
        error = error.__cause__
    logger.warning("an answer broke off: %r", error)


def _api_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of `X-API-Key`, or else of `Authorization: Bearer`.

    White space around it is not part of it (RFC 9110, 5.5). A header that comes twice says
    nothing certain, so it does not count as a key. Other schemes of Authorization do not
    either.
    """
    keys = [value for name, value in headers if name == b"x-api-key"]
    if len(keys) == 1 and (key := keys[0].strip()):
        return key
    if not keys:
        keys = [
            credentials
            for name, value in headers
            if name == b"authorization"
            for scheme, _, credentials in [value.strip().partition(b" ")]
            if scheme.lower() == b"bearer"
        ]
    if not keys or not any(key.strip() for key in keys):
        raise _unauthorized("API key required")
    if len(keys) > 1:
        raise _unauthorized("Invalid API key")
    return keys[0].strip()


def _too_many(rate: float) -> Problem:
    return Problem(
        429,
        "rate_limited",
        f"This tenant may make {rate:g} requests a second; slow down",
        {"Retry-After": str(math.ceil(1 / rate))},
    )


def _unauthorized(detail: str) -> Problem:
    code = "key_required" if detail == "API key required" else "key_invalid"
    return Problem(401, code, detail, {"WWW-Authenticate": "Bearer"})
