"""A projection that goes on where it stopped, over events of two versions.

    python examples/projection.py [DIRECTORY]

The first version of `order.placed` had an amount in euros, the second has cents. The totals are
in a database of their own, which remembers the position of the last event that each row has
seen: so an event that is handled twice, as may be after a crash, counts once.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from ebus import Event, NewEvent, TenantStore, open_engine
from ebus.bus import EventBus, Resumable, event, upcast


@event("order.placed", version=2)
class OrderPlaced(msgspec.Struct, frozen=True):
    customer: str
    cents: int


@upcast(OrderPlaced, from_version=1)
def count_in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"customer": data["customer"], "cents": round(data["euros"] * 100)}


def totals_of(bus: EventBus, database: sqlite3.Connection) -> Resumable:
    database.execute(
        "CREATE TABLE IF NOT EXISTS totals (customer TEXT PRIMARY KEY, cents INT, position INT)"
    )
    totals = bus.resumable("totals")

    @totals.subscribe(OrderPlaced)
    def add(placed: OrderPlaced, stored: Event) -> None:
        with database:
            database.execute(
                "INSERT INTO totals VALUES (:customer, :cents, :position)"
                " ON CONFLICT DO UPDATE SET cents = cents + :cents, position = :position"
                " WHERE position < :position",
                {**msgspec.structs.asdict(placed), "position": stored.position},
            )

    return totals


def run_once(store: TenantStore, database: sqlite3.Connection) -> None:
    """What a program would do each time it is started."""
    with EventBus(store) as bus:
        position = totals_of(bus, database).catch_up()
    rows = database.execute("SELECT customer, cents FROM totals ORDER BY customer")
    print(f"at position {position}:", dict(rows.fetchall()))


def main(directory: Path) -> None:
    database = sqlite3.connect(directory / "totals.sqlite")
    try:
        with open_engine(f"sqlite:{directory / 'log'}") as engine:
            store = engine.open("shop")
            # What the program wrote before there were cents.
            store.append(
                [
                    NewEvent.of("order.placed", {"customer": "ann", "euros": 12.5}),
                    NewEvent.of("order.placed", {"customer": "ben", "euros": 3}),
                ]
            )
            run_once(store, database)
            with EventBus(store) as bus:
                bus.publish(OrderPlaced("ann", 99))
            run_once(store, database)
            run_once(store, database)
    finally:
        database.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
