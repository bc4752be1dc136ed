"""Who is served: every key, and what bounds who has it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import msgspec

from ebus.config import Config, KeyConfig, Scope, TenantConfig
from ebus.core.aio import Terms
from ebus.core.errors import StoreReadOnly
from ebus.core.tenant import TenantName
from ebus.http.failed_keys import FAILED_KEY_BUCKETS
from ebus.http.figures import Figures, TenantFigures, WorkerFigures
from ebus.http.news import Commits
from ebus.http.problems import Problem
from ebus.http.rate import Buckets
from ebus.http.reload import terms_of
from ebus.http.reload_state import ReloadState
from ebus.http.slots import Slots
from ebus.http.tenant import Meter


class Counters:
    """What all workers count together. To be made before they are."""

    def __init__(self, config: Config, *, workers: int = 1) -> None:
        self.slots = Slots(tenant.name for tenant in config.tenants)
        self.figures = Figures(self.slots.capacity, workers=workers)
        self.commits = Commits(self.slots.capacity, workers)
        self.requests = Buckets(self.slots.capacity)
        self.events = Buckets(self.slots.capacity)
        self.reloads = ReloadState(workers, revision=config.registry_revision)
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
        """Raises `Problem` 403 or 429, or `StoreReadOnly`, unless one more request is allowed."""
        if self.tenant.is_suspended:
            raise Problem(
                403, "tenant_suspended", "This tenant is suspended; ask who runs the server"
            )
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
        if self.terms.quota.is_read_only and needs not in {None, "read"}:
            raise StoreReadOnly(f"tenant {self.tenant.name} is read-only")


class Roster(msgspec.Struct, frozen=True):
    """Who is served, made from a config. A reload makes another one, beside the loop."""

    config: Config
    terms: dict[TenantName, Terms]
    """Of those whose stores may be open: not of who is suspended."""

    names: dict[int, TenantName]
    """By the tenants' numbers."""

    entries: dict[bytes, Entry]
    """Every key by its digest."""

    @classmethod
    def of(cls, config: Config, counters: Counters, figures: WorkerFigures) -> Roster:
        """Of tenants each of whom has a number."""
        terms = {it.name: terms_of(it, config) for it in config.tenants if not it.is_suspended}
        names = {counters.slots.of(tenant.name): tenant.name for tenant in config.tenants}
        return cls(config, terms, names, dict(_entries(config, counters, figures)))


def _entries(
    config: Config,
    counters: Counters,
    figures: WorkerFigures,
) -> Iterator[tuple[bytes, Entry]]:
    for tenant in config.tenants:
        number = counters.slots.of(tenant.name)
        terms = terms_of(tenant, config)
        requests = events = None
        if (rate := tenant.limits.requests or config.request_rate) is not None:
            take = partial(counters.requests.take, number, rate)
            requests = Meter(take, f"make {rate.per_second:g} requests")
        if (rate := tenant.limits.events) is not None:
            take = partial(counters.events.take, number, rate)
            events = Meter(take, f"append {rate.per_second:g} events")
        for key in tenant.keys:
            is_shut = tenant.is_suspended or terms.quota.is_read_only
            is_free = requests is None and key.scope == "both" and not is_shut
            yield (
                key.digest,
                Entry(
                    number,
                    tenant,
                    terms,
                    key,
                    requests,
                    events,
                    not is_free,
                    figures.of(number),
                ),
            )
