"""A few figures of some tenants, for who administers them; all of them are in the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ebus.http.figures import (
    BODY_BYTES_IN,
    BODY_BYTES_OUT,
    DURATION_NS,
    EVENTS,
    GAUGES,
    IS_OPEN,
    MORE_REFUSALS,
    OK,
    REFUSALS,
    Block,
)
from ebus.http.operations import APPENDING, OPERATIONS
from ebus.http.scraping import outlines_of
from ebus.http.tenancy import Tenancy
from ebus.tenants.shapes import TenantFiguresOut

LOOK_TIMEOUT_S = 2.0


async def figures_of(tenancy: Tenancy, names: Sequence[str]) -> dict[str, TenantFiguresOut]:
    """Of those of these tenants who are served now, all workers together."""
    tenancy.sample()
    served = tenancy.names
    numbers = {
        number: name
        for name in names
        if (number := tenancy.number_of(name)) is not None and number in served
    }
    one = next(iter(numbers)) if len(numbers) == 1 else None
    blocks = await asyncio.to_thread(tenancy.figures.all.gather, one)
    are_open = [it for it in numbers if blocks.get((it, GAUGES), _CLOSED)[IS_OPEN]]
    outlines = await outlines_of(tenancy, tenancy.fitting(are_open), LOOK_TIMEOUT_S)
    sizes = await tenancy.sizes(numbers)
    found = {}
    for number, name in numbers.items():
        outline, size = outlines.get(number), sizes.get(number)
        found[name] = TenantFiguresOut(
            head=_head(None if outline is None else outline.head, is_stored=size is not None),
            size_bytes=None if size is None else size.database_bytes,
            wal_bytes=None if size is None else size.wal_bytes,
            is_open=number in are_open,
            **_sums(blocks, number),
        )
    return found


_CLOSED: Block = [0] * (IS_OPEN + 1)


def _head(head: int | None, *, is_stored: bool) -> int | None:
    return 0 if head is None and not is_stored else head


def _sums(blocks: Mapping[tuple[int, int], Block], number: int) -> dict[str, int]:
    sums = dict.fromkeys(
        ("requests", "refusals", "events_in", "events_out", "bytes_in", "bytes_out"), 0
    )
    for operation in range(len(OPERATIONS)):
        block = blocks.get((number, operation))
        if block is not None:
            sums["requests"] += sum(block[OK:DURATION_NS])
            sums["events_in" if operation in APPENDING else "events_out"] += block[EVENTS]
            sums["bytes_in"] += block[BODY_BYTES_IN]
            sums["bytes_out"] += block[BODY_BYTES_OUT]
    for kind in (REFUSALS, MORE_REFUSALS):
        sums["refusals"] += sum(blocks.get((number, kind), ()))
    return sums
