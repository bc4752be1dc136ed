"""What is looked at when somebody asks for figures, within a bounded time.

What was counted is in memory. Heads and checkpoints are asked of the tenant whose figures they are,
or for the whole server of the tenants that are open; sizes of files, of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from ebus.core.aio import Outline
from ebus.core.errors import EbusError
from ebus.core.observing import Sizes
from ebus.http.figures import GAUGES, IS_OPEN, Block
from ebus.http.reload_state import ReloadState
from ebus.http.tenancy import Tenancy
from ebus.http.tenant import Tenant

SCRAPE_TIMEOUT_S = 5.0
"""How long stores have to answer; Prometheus gives up after 10 s unless told otherwise."""

STALLED_S = 1.0
"""When none has answered for so long, the others are not waited for."""

TENANTS_AT_A_TIME = 8


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to tell at one moment."""

    tenant: int | None
    """Whose figures these are; None for those of the whole server."""

    names: Mapping[int, str]
    """The tenants of which there is anything to tell, by number."""

    nobody: int
    """The number of what belongs to no tenant."""

    blocks: Mapping[tuple[int, int], Block]
    outlines: Mapping[int, Outline]
    sizes: Mapping[int, Sizes]

    unanswered: int
    """Tenants whose stores did not answer in time, or not at all."""

    reloads: ReloadState
    tenants: int
    max_queue_appends: int


async def see_tenant(tenancy: Tenancy, tenant: Tenant) -> Seen:
    """One tenant's own figures. Nothing of any other is in them."""
    outlines = await outlines_of(tenancy, [tenant.number], SCRAPE_TIMEOUT_S)
    return await _see(tenancy, tenant.number, outlines, unanswered=1 - len(outlines))


async def see_server(tenancy: Tenancy) -> Seen:
    """The figures of all tenants."""
    tenancy.sample()
    wanted = await asyncio.to_thread(_open_in_any_worker, tenancy)
    wanted = tenancy.fitting(wanted)
    outlines = await outlines_of(tenancy, wanted, SCRAPE_TIMEOUT_S)
    return await _see(tenancy, None, outlines, unanswered=len(wanted) - len(outlines))


async def _see(
    tenancy: Tenancy,
    tenant: int | None,
    outlines: Mapping[int, Outline],
    *,
    unanswered: int,
) -> Seen:
    tenancy.sample()
    served = tenancy.names
    numbers = [number for number in served if tenant in {None, number}]
    names = {number: str(served[number]) for number in numbers}
    nobody = tenancy.figures.all.nobody
    blocks = await asyncio.to_thread(tenancy.figures.all.gather, tenant)
    return Seen(
        tenant=tenant,
        names=names,
        nobody=nobody,
        blocks=_of_served(blocks, names, nobody),
        outlines=outlines,
        sizes=await tenancy.sizes(numbers),
        unanswered=unanswered,
        reloads=tenancy.reloads,
        tenants=len(served),
        max_queue_appends=tenancy.config.limits.max_queue_appends,
    )


def _open_in_any_worker(tenancy: Tenancy) -> list[int]:
    figures = tenancy.figures.all
    return sorted(
        number
        for (number, kind), block in figures.gather(kind=GAUGES).items()
        if kind == GAUGES and number in tenancy.names and block[IS_OPEN]
    )


def _of_served(
    blocks: dict[tuple[int, int], Block], names: Mapping[int, str], nobody: int
) -> dict[tuple[int, int], Block]:
    """Without those of tenants that were served once."""
    return {key: block for key, block in blocks.items() if key[0] in names or key[0] == nobody}


async def outlines_of(
    tenancy: Tenancy, numbers: Iterable[int], timeout_s: float
) -> dict[int, Outline]:
    """What the stores of these tenants say, as far as they do in time."""
    found: dict[int, Outline] = {}
    waiting = iter(numbers)

    async def ask_one_after_the_other() -> None:
        for number in waiting:
            try:
                found[number] = await tenancy.outline(number)
            except EbusError:  # its own requests are told why
                continue

    askers = [
        asyncio.get_running_loop().create_task(ask_one_after_the_other())
        for _ in range(TENANTS_AT_A_TIME)
    ]
    late = set(askers)
    loop = asyncio.get_running_loop()
    until_s, answered = loop.time() + timeout_s, -1
    while late and loop.time() < until_s and len(found) > answered:
        answered = len(found)
        pause_s = min(STALLED_S, until_s - loop.time())
        _, late = await asyncio.wait(late, timeout=pause_s)
    for asker in late:
        asker.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return dict(found)
