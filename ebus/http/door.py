"""The door: from a key to a tenant to its store, and from a request to its answer.

Whoever passes has a `Tenant` in the request's scope, and nothing past the door takes a
tenant's name from a client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from time import perf_counter_ns

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Send
from litestar.types import Scope as AsgiScope

from ebus.config import Config
from ebus.core.errors import StoreClosed
from ebus.http.answers import Answer, EventArray
from ebus.http.bodies import Body
from ebus.http.credentials import digest_of_key
from ebus.http.endpoint import Call, Route
from ebus.http.figures import TenantFigures
from ebus.http.leaving import Leaving
from ebus.http.live import Tail
from ebus.http.operations import operation_number
from ebus.http.problems import Problem, not_for_tenants, nothing_there, problem_of
from ebus.http.request_id import About, about, request_now
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import Tenant
from ebus.http.wire import read_body

logger = logging.getLogger("ebus.http")


OPEN_PATHS = frozenset({"/health"})
"""What is answered without a key."""

PAGE_PATHS = frozenset({"/ui", "/docs", "/docs/"})
PAGE_FILES = "/ui/"
"""So are the page and the documentation, and the files below; they hold no secret."""


ADMIN_PATHS = "/admin/"
"""What begins so is for the admin key alone, where there is one."""

ADMIN_OPERATIONS = frozenset({("GET", "/metrics")})
"""What the admin key may do besides."""

MAX_PATH_CHARS = 1_024
"""Longer than any path that leads somewhere. The router remembers the last 1,024 that it saw."""


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

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request = About.of(scope["headers"])
        counted = Counted(scope, self._tenancy.figures.nobody, send)
        with about(request):
            await self._answer(scope, receive, counted, request)

    async def _answer(
        self, scope: HTTPScope, receive: Receive, send: Counted, request: About
    ) -> None:
        """Answer, whatever happens."""
        try:
            await self._serve(scope, receive, send, request)
        except asyncio.CancelledError:  # the server's time to shut down is over
            if send.begun:
                raise
            await self._refuse(problem_of(StoreClosed("the server stops")), scope, receive, send)
        except Exception as error:
            if send.begun:  # all that is left is to break it off, see `EventArray`
                log_broken_answer(error)
                raise
            await self._refuse(problem_of(error), scope, receive, send)

    async def _refuse(
        self, problem: Problem, scope: HTTPScope, receive: Receive, send: Counted
    ) -> None:
        await problem.answer(note_refusal(scope, problem))(scope, receive, send)

    async def _serve(
        self, scope: HTTPScope, receive: Receive, send: Counted, request: About
    ) -> None:
        if self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        state = scope.setdefault("state", {})
        if (method, path) in ADMIN_OPERATIONS and self._tenancy.admin_of(headers):
            state["admin"] = True
            await self._app(scope, receive, send)
            return
        if path.startswith(ADMIN_PATHS) and self._tenancy.has_administration:
            await self._administer(scope, receive, send)
            return
        entry = self._tenancy.recognise(digest_of_key(headers), headers, scope["client"])
        send.figures = entry.figures
        request.tenant = entry.tenant.name
        tenant = self._tenancy.admit_at_once(entry, method, path)
        if tenant is None:
            tenant = await self._tenancy.admit(entry)
        body = state["body"] = Body(self._tenancy.bodies, tenant.name)
        try:
            route = self._routes.get((method, path))
            if len(path) > MAX_PATH_CHARS:
                raise nothing_there()
            if route is None:
                state["tenant"] = tenant
                await self._app(scope, receive, send)
            else:
                send.operation = route.operation
                state["route"] = route.path
                answer = await call(route, tenant, scope, receive, self._config)
                await send.send(answer, receive)
        finally:
            body.leave()
            self._tenancy.leave(tenant)

    def _is_open(self, path: str) -> bool:
        if path in OPEN_PATHS:
            return True
        is_page = path in PAGE_PATHS or path.startswith(PAGE_FILES)
        return is_page and self._config.enable_ui

    async def _administer(self, scope: HTTPScope, receive: Receive, send: Counted) -> None:
        headers = scope["headers"]
        admin = self._tenancy.admin_of(headers)
        if admin is None:
            self._tenancy.recognise(digest_of_key(headers), headers, scope["client"])
            raise not_for_tenants()
        if len(scope["path"]) > MAX_PATH_CHARS:
            raise nothing_there()
        state = scope["state"]
        state["admin"] = admin
        body = state["body"] = Body(self._tenancy.bodies, ADMIN_PATHS)
        try:
            await self._app(scope, receive, send)
        finally:
            body.leave()


class Counted:
    """The way out of one request, which counts what goes through."""

    def __init__(self, scope: HTTPScope, figures: TenantFigures, send: Send) -> None:
        self.figures = figures
        self.operation = 0
        self.begun = False
        self._begun_ns = perf_counter_ns()
        self._scope = scope
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self._count(message["status"])
        elif message["type"] == "http.response.body":
            self.figures.count_more(self.operation, len(message["body"]), 0)
        await self._send(message)

    def _count(self, status: int) -> None:
        scope = self._scope
        state = scope.get("state", {})
        if not self.operation:
            # What the router has found; it leaves nothing where there is no such route.
            route = scope.get("path_template", "")
            self.operation = operation_number(scope["method"], str(route))
        if code := state.get("refusal"):
            self.figures.count_refusal(code)
        body_bytes, events = state.get("body_bytes", 0), state.get("events", 0)
        self.figures.count(self.operation, status, self._begun_ns, body_bytes, 0, events)

    async def send(self, answer: Answer | EventArray | Tail, receive: Receive) -> None:
        """Send it, and count its events."""
        if isinstance(answer, Tail):
            answer.on_sent = self._count_events
            await answer(self._scope, receive, self)
            return
        try:
            await answer(self._scope, receive, self)
        finally:
            self._count_events(0, answer.events)

    def _count_events(self, _: int, events: int) -> None:
        self.figures.count_more(self.operation, 0, events)


def note_refusal(scope: AsgiScope, problem: Problem) -> str:
    """Have a request counted as refused with this problem. Returns its id, if made up here."""
    scope.setdefault("state", {})["refusal"] = problem.code
    request = request_now()
    return "" if request is None else request.made_up


async def call(
    route: Route, tenant: Tenant, scope: AsgiScope, receive: Receive, config: Config
) -> Answer | EventArray | Tail:
    """The endpoint's answer to a request that arrives by ASGI."""
    body = b""
    if route.takes_body:
        body = await read_body(
            scope,
            receive,
            max_body_bytes=config.limits.max_body_bytes,
            read_timeout_s=config.read_timeout_s,
        )
    leaving = Leaving(receive)
    try:
        return await route.endpoint(
            Call(tenant, scope["query_string"], body, dict(scope["headers"]), leaving.when_left)
        )
    finally:
        leaving.end()


def log_broken_answer(error: BaseException) -> None:
    """Tell the operator why an answer that had begun was broken off."""
    while error.__cause__ is not None:
        error = error.__cause__
    logger.warning("an answer broke off: %r", error)
