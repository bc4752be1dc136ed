"""What a server keeps of those who followed a tenant, once they have left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

from ebus.backends.memory import MemoryEngine
from ebus.core.aio import AsyncTenantStore
from ebus.core.tenant import TenantName
from ebus.http.live import Live
from ebus.http.news import Commits
from ebus.http.tenant import Tenant


def test_a_tenant_that_nobody_follows_any_more_leaves_nothing_behind() -> None:
    async def follow_and_leave(live: Live, threads: ThreadPoolExecutor) -> weakref.ref[object]:
        with MemoryEngine() as engine:
            store = AsyncTenantStore(engine.open("alice"), writes=threads, reads=threads)
            tenant = Tenant(TenantName("alice"), store)
            with live.waiting(tenant, lambda: None):
                assert live.hub(tenant) is live.hub(tenant)
            await store.aclose()
            return weakref.ref(store)

    async def check() -> None:
        live = Live(Commits(1, 1).of(0), max_tails=2)
        with ThreadPoolExecutor(1) as threads:
            left = await follow_and_leave(live, threads)
        gc.collect()
        assert left() is None

    asyncio.run(check())
