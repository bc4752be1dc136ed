"""Every tenant that is served, and the engine that keeps them: from a key to a store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ebus.config import Config, KeyConfig
from ebus.core.aio import AsyncEngine, AsyncTenantStore, Outline, Terms
from ebus.core.engine import Acknowledgement, Engine, SupportsHealth, look_at, open_engine
from ebus.core.errors import EbusError, StoreClosed, StoreRefused, StoreUnreachable
from ebus.core.observing import Sizes
from ebus.core.tenant import TenantName
from ebus.http.bodies import Bodies
from ebus.http.credentials import Headers, Peer, digest_of_key, unauthorized
from ebus.http.endpoint import needed_scope
from ebus.http.failed_keys import FailedKeys
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
    WorkerFigures,
)
from ebus.http.live import Live
from ebus.http.problems import Problem
from ebus.http.reload import terms_of
from ebus.http.roster import Counters, Entry, Roster
from ebus.http.tenant import Tenant
from ebus.http.worth import Worth

if TYPE_CHECKING:
    from ebus.http.administration import Administration

logger = logging.getLogger("ebus.http")


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
        self._is_looked_at = False
        """Whether the engine has said that it is well, once."""
        self.worth = Worth(self._ask_worth)
        """What an acknowledgement is worth, to tenants without a durability of their own."""
        self.bodies = Bodies(config.limits.max_inflight_body_bytes)
        self.count_connections: Callable[[], int] = _none
        """How many connections there are: for the figures."""
        self._admins = config.admins
        """They are the same until the next start."""
        self.administration: Administration | None = None
        """What changes tenants at run time, where there is an admin key for that."""
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
        could not be opened. A storage on other machines that cannot be reached is waited for:
        until its engine has said that it is well no tenant is opened.
        """
        config = self.config
        engine = open_engine(config.engine, durability=config.durability, limits=config.limits)
        try:
            is_reached = await asyncio.to_thread(_refuse_bad_tenants, engine, config)
        except BaseException:
            await asyncio.to_thread(engine.close)
            raise
        self._engine = AsyncEngine(engine, limits=config.limits)
        self._engine.on_open = self._observe
        self._is_looked_at = is_reached
        if is_reached:
            await self.worth.begin()
        if is_reached and len(config.tenants) <= config.limits.max_eager_tenants:
            try:
                await self._open_all()
            except BaseException:
                await self.stop()
                raise

        self._publish_again()

    async def _open_all(self) -> None:
        engine = self._open_engine()
        for name, terms in self._roster.terms.items():
            try:
                await self._borrow(name, terms)
            except StoreUnreachable as error:  # those behind would have to wait as long
                _say_that_it_is_waited_for(error)
                return
            engine.give_back(name)

    async def try_out(self, config: Config, added: Collection[TenantName]) -> list[str]:
        """Why which of these tenants could not be served, who are in a config that is to come.

        As at start they are looked at, and opened if they are few. Without any there is nothing
        to look at, and a key can be revoked though the storage is away.
        """
        engine = self._open_engine()
        if not added:
            return []
        try:
            refusals = await engine.look_at(added)
        except EbusError as error:
            return [str(error)]
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
        has_other_durability = roster.config.durability != self.config.durability
        self._roster = roster
        self._entries = roster.entries
        self._failures.trust(roster.config)
        self.live.look_at_keys()
        if self._engine is not None:
            await self._engine.hold_to(roster.terms, max_open=max_open)
            await self._engine.settle(gone)
            if has_other_durability:
                self.worth.ask_again()

    def _key_of(self, tenant: Tenant) -> KeyConfig | None:
        """The key that let the tenant in, as it is now; None when it opens nothing any more."""
        if tenant.key is None:
            return None
        entry = self._entries.get(tenant.key.digest)
        if entry is None or entry.tenant.name != tenant.name or entry.tenant.is_suspended:
            return None
        return entry.key

    async def stop(self, *, patience_s: float | None = None) -> bool:
        """Finish what waits and close every store; see `AsyncEngine.aclose`."""
        if self._next_sample is not None:
            self._next_sample.cancel()
        self.worth.end()
        if self.administration is not None:
            await self.administration.aclose()
        try:
            if self._engine is not None:
                engine, self._engine = self._engine, None
                return await engine.aclose(patience_s=patience_s)
            return True
        finally:
            self.figures.publish()  # with the last commits: a worker may take this one's place

    async def check_health(self) -> None:
        await self._open_engine().check_health()

    async def _ask_worth(self) -> Acknowledgement | None:
        return await self._open_engine().acknowledgement(self.config.durability)

    def recognise(self, digest: bytes, headers: Headers, peer: Peer) -> Entry:
        """The tenant's key of this digest, which came so. Raises `Problem` 401, 403 or 429."""
        # A digest is looked up, not a key: how long that takes says nothing about any key.
        entry = self._entries.get(digest)
        if entry is None:
            if digest in self._admins:
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

    def admin_of(self, headers: Headers) -> str | None:
        """What the admin key is called that they carry. Raises `Problem` 401 without any key."""
        return self._admins.get(digest_of_key(headers)) if self._admins else None

    @property
    def has_administration(self) -> bool:
        """Whether there is anything for an admin key beside figures."""
        return self.administration is not None

    def admit_at_once(self, entry: Entry, method: str, path: str) -> Tenant | None:
        """The tenant whose key this is, if key and rate allow this request.

        It must `leave` again. None unless its store is open: then `admit` it. Raises `Problem` 403
        or 429.
        """
        if entry.is_bounded:
            entry.check(needed_scope(method, path))
        store = self._engine and self._engine.borrow_at_once(entry.tenant.name)
        if not store:
            return None
        return self._tenant(entry, store)

    async def admit(self, entry: Entry) -> Tenant:
        """The tenant to whom `admit_at_once` has said None. Raises what opening its store does."""
        return self._tenant(entry, await self._borrow(entry.tenant.name, entry.terms))

    def _tenant(self, entry: Entry, store: AsyncTenantStore) -> Tenant:
        if self._commits.are_shared and store.on_written is None:
            store.on_written = partial(self._commits.count, entry.number)
        return Tenant(
            entry.tenant.name, store, entry.events, entry.number, entry.key, entry.figures
        )

    def _borrow(self, name: TenantName, terms: Terms) -> Awaitable[AsyncTenantStore]:
        if not self._is_looked_at:
            return self._borrow_once_well(name, terms)
        return self._open_engine().borrow(name, durability=terms.durability, quota=terms.quota)

    async def _borrow_once_well(self, name: TenantName, terms: Terms) -> AsyncTenantStore:
        """What the start would have refused is not served later either."""
        await self._open_engine().check_health()
        self._is_looked_at = True
        return await self._borrow(name, terms)

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
        """Show what was counted and what waits here to the workers that are asked for figures."""
        self.figures.publish()
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

    def _publish_again(self) -> None:
        """For the other workers, and so that little is lost; who is asked looks by itself, too."""
        loop = asyncio.get_running_loop()  # first: it goes on even if this once it fails
        self._next_sample = loop.call_later(PUBLISH_AGAIN_S, self._publish_again)
        if self._commits.are_shared:
            self.sample()
        else:
            self.figures.publish()

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
        terms = None if name is None else self._roster.terms.get(name)
        if name is None or terms is None:
            raise StoreClosed("the tenant is served no more")
        store = engine.borrow_open(name) or await self._borrow(name, terms)
        try:
            return await store.outline()
        finally:
            engine.give_back(name)

    async def sizes(self, numbers: Iterable[int]) -> dict[int, Sizes]:
        """How large these tenants are, of whom anything is stored; empty if none can say."""
        served = self.names
        names = {served[number]: number for number in numbers if number in served}
        found = await self._open_engine().sizes(list(names))
        return {names[name]: sizes for name, sizes in found.items()}

    async def holds_nothing_of(self, name: TenantName) -> bool:
        """Whether nothing at all is stored under this name."""
        return await self._open_engine().holds_nothing_of(name)

    async def discard(self, name: TenantName, trash: str) -> int:
        """Move what is stored of a tenant to the trash; returns how large that is."""
        return await self._open_engine().discard(name, trash)

    async def purge(self, trash: str) -> None:
        """Delete for good what is in the trash under this id."""
        await self._open_engine().purge(trash)

    def refusal_of_one_more(self, name: TenantName) -> str | None:
        """Why there is no room for one more tenant; None when there is."""
        return self._counters.slots.refusal([name])

    def number_of(self, name: str) -> int | None:
        """A tenant's number, where it has one."""
        slots = self._counters.slots
        return slots.of(name) if slots.knows(name) else None


PUBLISH_AGAIN_S = 1.0
_CLOSED = dict.fromkeys((QUEUED_WRITES, QUEUED_BYTES, QUEUED_READS, WAITING, IS_OPEN), 0)


def _none() -> int:
    return 0


def _refuse_bad_tenants(engine: Engine, config: Config) -> bool:
    """Raise what is wrong with the engine or the tenants. False where nobody can be asked."""
    try:
        if isinstance(engine, SupportsHealth):
            engine.check_health()
    except StoreUnreachable as error:
        _say_that_it_is_waited_for(error)
        return False
    except EbusError:
        pass  # which is told with what else is wrong
    findings = look_at(engine, (tenant.name for tenant in config.tenants))
    if findings.refusals:
        raise StoreRefused("\n".join(findings.refusals))
    return True


def _say_that_it_is_waited_for(error: StoreUnreachable) -> None:
    logger.warning("the storage cannot be reached, and is waited for: %s", error)
