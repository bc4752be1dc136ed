"""A bus within one process: handlers, filters, a failing handler, and replay.

    python examples/in_process.py [ADDRESS]

The address is `memory:`, which is the default, or `sqlite:DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from ebus import Event, open_engine
from ebus.bus import EventBus, Failure, event


@event("order.placed")
@dataclass
class OrderPlaced:
    order: str
    cents: int


@event("order.cancelled")
@dataclass
class OrderCancelled:
    order: str
    reason: str


def say_failure(failure: Failure) -> None:
    print("failed:", failure.error)


async def main(address: str) -> None:
    with open_engine(address) as engine:
        async with EventBus(engine.open("shop"), on_error=say_failure) as bus:

            @bus.subscribe(OrderPlaced)
            def thank(placed: OrderPlaced) -> None:
                print("thank you for", placed.order)

            @bus.subscribe(OrderPlaced, where=lambda placed: placed.cents >= 100_00)
            async def look_twice(placed: OrderPlaced, stored: Event) -> None:
                await asyncio.sleep(0)
                print("large order at position", stored.position)

            @bus.subscribe(OrderCancelled)
            def refund(cancelled: OrderCancelled) -> None:
                raise RuntimeError(f"no money to refund {cancelled.order}")

            @bus.subscribe(object)
            def count(_: object) -> None:
                seen.append(1)

            seen: list[int] = []
            await bus.apublish(OrderPlaced("A-1", 20_00))
            await bus.apublish(OrderPlaced("A-2", 250_00))
            await bus.apublish(OrderCancelled("A-1", "too slow"))
            print(len(seen), "events seen")

            turnover = 0

            def add(placed: OrderPlaced) -> None:
                nonlocal turnover
                turnover += placed.cents

            await bus.areplay(to=bus.subscribe(OrderPlaced, add))
            print("turnover:", turnover)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory:"))
