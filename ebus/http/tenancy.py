"""The door: from a key to a tenant to its store.

Whoever passes has a `Tenant` in the request's scope, and nothing past the door takes a
tenant's name from a client.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from hashlib import sha256
from time import perf_counter_ns

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Send
from litestar.types import Scope as AsgiScope

from ebus.config import Config, KeyConfig, Rate, Scope, TenantConfig
from ebus.config.api_key import digest_of
from ebus.core.aio import AsyncEngine, AsyncTenantStore, Outline, Terms
from ebus.core.engine import Engine, look_at, open_engine
from ebus.core.errors import EbusError, StoreClosed, StoreRefused
from ebus.core.observing import Sizes
from ebus.core.tenant import TenantName
from ebus.http.answers import Answer, EventArray
from ebus.http.bodies import Bodies, Body
from ebus.http.credentials import Address, Headers, Peer, api_key, client_address, unauthorized
from ebus.http.endpoint import Call, Route, needed_scope
from ebus.http.figures import (
    CONNECTIONS,
    HELD_BODY_BYTES,
    IS_OPEN,
    IS_UP,
    OPEN_TENANTS,
    QUEUED_BYTES,
    QUEUED_READS,
    QUEUED_WRITES,
    WAITING,
    Figures,
    TenantFigures,
    WorkerFigures,
)
from ebus.http.leaving import Leaving
from ebus.http.live import Live, Tail
from ebus.http.news import Commits
from ebus.http.operations import operation_number
from ebus.http.problems import Problem, nothing_there, problem_of
from ebus.http.rate import Buckets
from ebus.http.reload import terms_of
from ebus.http.reload_state import ReloadState
from ebus.http.request_id import About, about, request_now
from ebus.http.slots import Slots
from ebus.http.tenant import Meter, Tenant
from ebus.http.wire import read_body

logger = logging.getLogger("ebus.http")

OPEN_PATHS = frozenset({"/health"})
"""What is answered without a key."""


ADMIN_OPERATIONS = frozenset({("GET", "/metrics")})
"""What the admin key is for."""

MAX_PATH_CHARS = 1_024
"""Longer than any path that leads somewhere. The router remembers the last 1,024 that it saw."""


class Tenancy:
    """Every configured tenant, and the engine that keeps them."""

    def __init__(
        self, config: Config, counters: Counters | None = None, *, worker: int = 0
    ) -> None:
        counters = counters or Counters(config)
        self._counters = counters
        self.figures: WorkerFigures = counters.figures.of(worker)
        self._roster = self.roster_of(config)
        self._entries = self._roster.entries
        self.reloads = counters.reloads
        """How the reloads of the config went."""
        self._commits = counters.commits.of(worker)
        self.live = Live(
            self._commits, max_tails=config.limits.max_tenant_tails, key_of=self._key_of
        )
        self._failures = FailedKeys(config, counters.failed_keys)
        self._engine: AsyncEngine | None = None
        self.bodies = Bodies(config.limits.max_inflight_body_bytes)
        self.count_connections: Callable[[], int] = _none
        """How many connections there are: for the figures."""
        self._sampled: set[int] = set()
        self._next_sample: asyncio.TimerHandle | None = None

    def roster_of(self, config: Config) -> Roster:
        """Who is to be served by a config whose tenants all have numbers. It may take a while."""
        return Roster.of(config, self._counters, self.figures)

    @property
    def names(self) -> Mapping[int, TenantName]:
        """Who is served now, by their numbers."""
        return self._roster.names

    @property
    def config(self) -> Config:
        """The config as it is now: a reload may change the tenants, and who sees whom."""
        return self._roster.config

    async def start(self) -> None:
        """Make the engine and look at every tenant, so that what is wrong shows at start.

        The tenants are opened too while they are few: at most `limits.max_eager_tenants`.
        Raises what that raises, or one `StoreRefused` that tells of all the tenants which
        could not be opened.
        """
        config = self.config
        engine = open_engine(config.engine, durability=config.durability, limits=config.limits)
        await asyncio.to_thread(_refuse_bad_tenants, engine, config)
        self._engine = AsyncEngine(engine, limits=config.limits)
        self._engine.on_open = self._observe
        if len(config.tenants) <= config.limits.max_eager_tenants:
            try:
                for name, terms in self._roster.terms.items():
                    await self._borrow(name, terms)
                    self._engine.give_back(name)
            except BaseException:
                await self.stop()
                raise

        if self._commits.are_shared:
            self._sample_again()

    async def try_out(self, config: Config, added: Collection[TenantName]) -> list[str]:
        """Why which of these tenants could not be served, who are in a config that is to come.

        As at start they are looked at, and opened if they are few.
        """
        engine = self._open_engine()
        refusals = await engine.look_at(added)
        if refusals or len(added) > config.limits.max_eager_tenants:
            return refusals
        names = frozenset(added)
        terms = {it.name: terms_of(it, config) for it in config.tenants if it.name in names}
        for name, their_terms in terms.items():
            try:
                await self._borrow(name, their_terms)
                engine.give_back(name)
            except EbusError as error:
                refusals.append(str(error))
        if refusals:
            await engine.hold_to(self._roster.terms)
        return refusals

    async def take(self, roster: Roster, *, max_open: int) -> None:
        """Serve these from now on, with at most so many tenants open.

        What is under way goes on, but for what waits with a key that is no more. Returns when
        the stores that are open have their new terms.
        """
        gone = self._roster.terms.keys() - roster.terms.keys()
        if self._engine is not None:
            for name, store in self._engine.open_stores():
                if name not in self._roster.terms:
                    self._observe(name, store)
        self._roster = roster
        self._entries = roster.entries
        self._failures.trust(roster.config)
        self.live.look_at_keys()
        if self._engine is not None:
            await self._engine.hold_to(roster.terms, max_open=max_open)
            await self._engine.settle(gone)

    def _key_of(self, tenant: Tenant) -> KeyConfig | None:
        """The key that let the tenant in, as it is now; None when it opens nothing any more."""
        if tenant.key is None:
            return None
        entry = self._entries.get(tenant.key.digest)
        return entry.key if entry is not None and entry.tenant.name == tenant.name else None

    async def stop(self) -> None:
        """Finish what waits and close every store."""
        if self._next_sample is not None:
            self._next_sample.cancel()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.aclose()

    async def check_health(self) -> None:
        await self._open_engine().check_health()

    def recognise(self, headers: Headers, peer: Peer) -> Entry:
        """The tenant's key that these headers carry. Raises `Problem` 401, 403 or 429."""
        # A digest is looked up, not a key: how long that takes says nothing about any key.
        digest = digest_of(api_key(headers))
        entry = self._entries.get(digest)
        if entry is None:
            if digest == self._roster.config.admin_key_digest:
                raise Problem(
                    403,
                    "admin_key",
                    "This is the server's admin key, which opens no tenant; use a tenant's key",
                    {"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
                )
            raise self._failures.problem(peer, headers)
        if entry.key.expires_at_s is not None and entry.has_ended():
            ended = unauthorized("key_expired", "This API key has expired")
            raise self._failures.problem(peer, headers, ended)
        return entry

    def is_admin(self, headers: Headers) -> bool:
        """Whether they carry the admin key. Raises `Problem` 401 when they carry none at all."""
        wanted = self._roster.config.admin_key_digest
        return wanted is not None and digest_of(api_key(headers)) == wanted

    async def admit(self, entry: Entry, method: str, path: str) -> Tenant:
        """The tenant whose key this is, if key and rate allow this request.

        It must `leave` again. Raises `Problem` 403 or 429, and what opening the tenant's store
        raises.
        """
        if entry.is_bounded:
            entry.check(needed_scope(method, path))
        tenant = entry.tenant
        store = await self._borrow(tenant.name, entry.terms)
        if self._commits.are_shared and store.on_written is None:
            store.on_written = partial(self._commits.count, entry.number)
        return Tenant(tenant.name, store, entry.events, entry.number, entry.key, entry.figures)

    def _borrow(self, name: TenantName, terms: Terms) -> Awaitable[AsyncTenantStore]:
        return self._open_engine().borrow(name, durability=terms.durability, quota=terms.quota)

    def leave(self, tenant: Tenant) -> None:
        """Let the tenant's store be closed, once nobody uses it any more."""
        if self._engine is not None:
            self._engine.give_back(tenant.name)

    def _observe(self, name: TenantName, store: AsyncTenantStore) -> None:
        if not self._counters.slots.knows(name):
            return  # it is only tried out, see `take`
        figures = self.figures.of(self._counters.slots.of(name))
        figures.begin_to_observe()
        store.observe(figures)

    def _open_engine(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreClosed("the server is not running")
        return self._engine

    @property
    def open_tenants(self) -> int:
        """How many tenants this process has open."""
        return 0 if self._engine is None else self._engine.open_tenants

    def sample(self) -> None:
        """Note what waits here now, where the workers that are asked for figures find it."""
        if self._engine is None:
            return
        now_open = set()
        for name, store in self._engine.open_stores():
            if not self._counters.slots.knows(name):
                continue  # it is only tried out, for a config that is to come
            number, queue = self._counters.slots.of(name), store.queue
            now_open.add(number)
            self.figures.of(number).set_gauges(
                {
                    QUEUED_WRITES: queue.writes,
                    QUEUED_BYTES: queue.write_bytes,
                    QUEUED_READS: queue.reads,
                    WAITING: self.live.waiting_requests.get(number, 0),
                    IS_OPEN: 1,
                }
            )
        for number in self._sampled - now_open:
            self.figures.of(number).set_gauges(_CLOSED)
        self._sampled = now_open
        self.figures.nobody.set_gauges(
            {
                OPEN_TENANTS: self._engine.open_tenants,
                CONNECTIONS: self.count_connections(),
                HELD_BODY_BYTES: self.bodies.held_bytes,
                IS_UP: 1,
            }
        )

    def _sample_again(self) -> None:
        """For the other workers: this one samples when it is asked, too."""
        self.sample()
        loop = asyncio.get_running_loop()
        self._next_sample = loop.call_later(SAMPLE_AGAIN_S, self._sample_again)

    def fitting(self, numbers: Sequence[int]) -> list[int]:
        """Those of the tenants that are open here, and as many of the others as may be opened."""
        served = self.names  # a reload may have ended some of them since
        names = {number: served[number] for number in numbers if number in served}
        is_open = {name for name, _ in self._open_engine().open_stores()}
        room = self.config.limits.max_open_tenants - self.open_tenants
        fitting = []
        for number, name in names.items():
            if name not in is_open:
                room -= 1
            if name in is_open or room >= 0:
                fitting.append(number)
        return fitting

    async def outline(self, number: int) -> Outline:
        """The outline of the tenant with this number, which is opened for it, or raises why not."""
        name, engine = self.names.get(number), self._open_engine()
        if name is None:
            raise StoreClosed("the tenant is served no more")
        store = engine.borrow_open(name) or await self._borrow(name, self._roster.terms[name])
        try:
            return await store.outline()
        finally:
            engine.give_back(name)

    async def sizes(self, numbers: Iterable[int]) -> dict[int, Sizes]:
        """How large these tenants are, of whom anything is stored; empty if none can say."""
        served = self.names
        names = {served[number]: number for number in numbers if number in served}
        try:
            found = await self._open_engine().sizes(list(names))
        except EbusError:  # the health tells why
            return {}
        return {names[name]: sizes for name, sizes in found.items()}


SAMPLE_AGAIN_S = 1.0
_CLOSED = dict.fromkeys((QUEUED_WRITES, QUEUED_BYTES, QUEUED_READS, WAITING, IS_OPEN), 0)


def _none() -> int:
    return 0


def _refuse_bad_tenants(engine: Engine, config: Config) -> None:
    findings = look_at(engine, (tenant.name for tenant in config.tenants))
    if findings.refusals:
        raise StoreRefused("\n".join(findings.refusals))


class Counters:
    """What all workers count together. To be made before they are."""

    def __init__(self, config: Config, *, workers: int = 1) -> None:
        self.slots = Slots(tenant.name for tenant in config.tenants)
        self.figures = Figures(self.slots.capacity, workers=workers)
        self.commits = Commits(self.slots.capacity, workers)
        self.requests = Buckets(self.slots.capacity)
        self.events = Buckets(self.slots.capacity)
        self.reloads = ReloadState(workers)
        self.failed_keys = Buckets(FAILED_KEY_BUCKETS)


class Entry(msgspec.Struct, frozen=True):
    """One key of a tenant, and what bounds who has it."""

    number: int
    """The tenant's, from 0, in what all workers count together; see `Slots`."""

    tenant: TenantConfig
    terms: Terms
    key: KeyConfig
    requests: Meter | None
    events: Meter | None
    is_bounded: bool
    """Whether there is anything for `check` to look at."""

    figures: TenantFigures
    """Where is counted what is done with it."""

    def has_ended(self) -> bool:
        expires_at_s = self.key.expires_at_s
        return expires_at_s is not None and expires_at_s <= time.time()

    def check(self, needs: Scope | None) -> None:
        """Raises `Problem` 403 or 429, unless one more request is allowed."""
        if self.requests is not None:
            self.requests.charge(1)
        scope = self.key.scope
        if needs is not None and scope not in {"both", needs}:
            raise Problem(
                403,
                "insufficient_scope",
                f"This API key may only {scope}",
                {"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
            )


class Roster(msgspec.Struct, frozen=True):
    """Who is served, made from a config. A reload makes another one, beside the loop."""

    config: Config
    terms: dict[TenantName, Terms]
    names: dict[int, TenantName]
    """By the tenants' numbers."""

    entries: dict[bytes, Entry]
    """Every key by its digest."""

    @classmethod
    def of(cls, config: Config, counters: Counters, figures: WorkerFigures) -> Roster:
        """Of tenants each of whom has a number."""
        terms = {tenant.name: terms_of(tenant, config) for tenant in config.tenants}
        names = {counters.slots.of(name): name for name in terms}
        return cls(config, terms, names, dict(_entries(config, terms, counters, figures)))


def _entries(
    config: Config,
    terms: Mapping[TenantName, Terms],
    counters: Counters,
    figures: WorkerFigures,
) -> Iterator[tuple[bytes, Entry]]:
    for tenant in config.tenants:
        number = counters.slots.of(tenant.name)
        requests = events = None
        if (rate := tenant.limits.requests or config.request_rate) is not None:
            take = partial(counters.requests.take, number, rate)
            requests = Meter(take, f"make {rate.per_second:g} requests")
        if (rate := tenant.limits.events) is not None:
            take = partial(counters.events.take, number, rate)
            events = Meter(take, f"append {rate.per_second:g} events")
        for key in tenant.keys:
            is_bounded = not (requests is None and key.scope == "both")
            yield (
                key.digest,
                Entry(
                    number,
                    tenant,
                    terms[tenant.name],
                    key,
                    requests,
                    events,
                    is_bounded,
                    figures.of(number),
                ),
            )


FAILED_KEY_BUCKETS = 65_536
"""Client addresses share so many; two that share one only share what is refused them anyway."""


class FailedKeys:
    """Answers to keys that open nothing: 401, and 429 to an address that tries too many."""

    def __init__(self, config: Config, buckets: Buckets) -> None:
        per_minute = config.limits.max_failed_keys_per_minute
        self._rate = Rate(per_minute / 60, per_minute)
        self._buckets = buckets
        self.trust(config)

    def trust(self, config: Config) -> None:
        """Believe the proxies that this config names."""
        self._trusted = config.trusted_proxies

    def problem(self, peer: Peer, headers: Headers, problem: Problem | None = None) -> Problem:
        """Of one more such key: this one, or else that it is none."""
        address = client_address(peer, headers, self._trusted)
        wait_s = self._buckets.take(_bucket_of(address), self._rate)
        if not wait_s:
            return problem or unauthorized("key_invalid", "Invalid API key")
        return Problem(
            429,
            "too_many_failed_keys",
            "Too many invalid API keys came from this address; valid ones are still accepted",
            {"Retry-After": str(math.ceil(wait_s))},
        )


def _bucket_of(address: Address | None) -> int:
    """The same for all of a /64, which is what one customer of a provider has."""
    if address is None:
        return 0
    network = address.packed[:8]
    return int.from_bytes(sha256(network).digest()[:4]) % FAILED_KEY_BUCKETS


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
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], scope["headers"]
        state = scope.setdefault("state", {})
        if (method, path) in ADMIN_OPERATIONS and self._tenancy.is_admin(headers):
            state["admin"] = True
            await self._app(scope, receive, send)
            return
        entry = self._tenancy.recognise(headers, scope["client"])
        send.figures = entry.figures
        request.tenant = entry.tenant.name
        tenant = await self._tenancy.admit(entry, method, path)
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
            Call(tenant, scope["query_string"], body, scope["headers"], leaving.when_left)
        )
    finally:
        leaving.end()


def log_broken_answer(error: BaseException) -> None:
    """Tell the operator why an answer that had begun was broken off."""
    while error.__cause__ is not None:
        error = error.__cause__
    logger.warning("an answer broke off: %r", error)
