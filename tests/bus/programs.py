"""Programs that the tests run in processes of their own: `python -m tests.bus.programs …`."""

from __future__ import annotations

import sys
from pathlib import Path

from ebus import Event, open_engine
from ebus.bus import EventBus
from tests.bus.orders import Counted


def follow(address: str, output: Path, begin: int, count: int, total: int) -> None:
    """Publish numbers from `begin` on while following; write what the handler was given."""
    with open_engine(address) as engine, output.open("a", buffering=1) as lines:
        bus = EventBus(engine.open("shop"))

        @bus.subscribe(Counted)
        def note(counted: Counted, stored: Event) -> None:
            lines.write(f"{stored.position} {counted.number}\n")

        with bus, bus.follow(start=1) as follower:
            for number in range(begin, begin + count):
                bus.publish(Counted(number))
            assert follower.wait_for(total, 60)


def resume(address: str, output: Path) -> None:
    """Write every event until killed; fail now and then."""
    with open_engine(address) as engine, output.open("a", buffering=1) as lines:
        with EventBus(engine.open("shop"), on_error=lambda _: None) as bus:
            resumable = bus.resumable("notes", save_events=7, save_s=0.05)
            failed = set[int]()

            @resumable.subscribe(Counted)
            def note(counted: Counted, stored: Event) -> None:
                if counted.number % 20 == 0 and counted.number not in failed:
                    failed.add(counted.number)
                    raise RuntimeError("the first time")
                lines.write(f"{stored.position} {counted.number}\n")

            resumable.follow().join()


if __name__ == "__main__":
    _, what, address, output, *numbers = sys.argv
    if what == "follow":
        follow(address, Path(output), *map(int, numbers))
    else:
        resume(address, Path(output))
