"""A small order service in two processes: one places orders, the other one bills them.

    python examples/order_service.py [--orders N] [--url ADDRESS]

runs both on one log, kills the one that bills in the middle of its work, starts it again, and
looks: every order was billed, and none twice. The log is a temporary directory, or any address
that `open_engine` knows: `sqlite:DIRECTORY`, or a server's, `http://KEY@localhost:8080`.

Either process can be run by itself:

    python examples/order_service.py --url sqlite:data place --orders 10
    python examples/order_service.py --url sqlite:data bill
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import msgspec

from ebus import Event, TenantStore, open_engine
from ebus.bus import EventBus, event
from ebus.core.filter import Filter

TIMEOUT_S = 60.0


@event("order.placed")
class OrderPlaced(msgspec.Struct, frozen=True):
    order: str
    cents: int


@event("order.billed")
class OrderBilled(msgspec.Struct, frozen=True):
    order: str
    cents: int


def place(store: TenantStore, orders: int) -> None:
    """Place so many orders. Each has a stream of its own."""
    run = uuid.uuid4().hex[:8]
    with EventBus(store) as bus:
        for number in range(orders):
            order = f"{run}-{number:04}"
            bus.publish(OrderPlaced(order, 100 + number), stream=f"order-{order}")


def bill(store: TenantStore) -> None:
    """Bill what is ordered, until SIGTERM.

    After a crash some orders are seen once more. The bill's id is made of the order's name, so
    that the second bill is not stored: handling an order twice does no harm.
    """
    with EventBus(store) as bus:
        billing = bus.resumable("billing", save_events=10)

        @billing.subscribe(OrderPlaced)
        def send_bill(placed: OrderPlaced, stored: Event) -> None:
            time.sleep(0.01)  # what billing takes
            bus.publish(
                OrderBilled(placed.order, placed.cents),
                id=f"bill-{placed.order}",
                stream=stored.stream,
                metadata={"causation": stored.id or ""},
            )

        with billing.follow() as follower:
            follower.join()


def demonstrate(address: str, store: TenantStore, orders: int) -> None:
    begin = store.head()
    run(address, "place", "--orders", str(orders)).wait(TIMEOUT_S)

    biller = run(address, "bill")
    wait_for_bills(store, begin, orders // 4)
    biller.kill()
    biller.wait(TIMEOUT_S)
    print("killed with", sum(bills(store, begin).values()), "of", orders, "orders billed")

    biller = run(address, "bill")
    wait_for_bills(store, begin, orders)
    biller.terminate()
    biller.wait(TIMEOUT_S)
    billed = bills(store, begin)
    print(len(billed), "orders billed,", sum(billed.values()) - len(billed), "of them twice")


def run(address: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--url", address, *arguments])


def bills(store: TenantStore, begin: int) -> Counter[str]:
    billed = Counter[str]()
    position: int | None = begin + 1
    while position is not None:
        page = store.read(position, filter=Filter(types=("order.billed",)))
        billed.update(bill.value()["order"] for bill in page.events)
        position = page.next
    return billed


def wait_for_bills(store: TenantStore, begin: int, wanted: int) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    head = store.head()
    while len(bills(store, begin)) < wanted:
        if time.monotonic() > until_s:
            raise TimeoutError("the orders were not billed in time")
        head = store.wait(head + 1, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="A small order service in two processes.")
    parser.add_argument("--url", help="the log's address; a temporary directory if left out")
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("what", nargs="?", choices=["demonstrate", "place", "bill"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        address = arguments.url or f"sqlite:{Path(temporary) / 'log'}"
        with open_engine(address) as engine:
            store = engine.open("shop")
            if arguments.what == "place":
                place(store, arguments.orders)
            elif arguments.what == "bill":
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                bill(store)
            else:
                demonstrate(address, store, arguments.orders)


if __name__ == "__main__":
    main()
