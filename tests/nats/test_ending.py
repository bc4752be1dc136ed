"""An engine ends, and connects anew, whatever becomes of the connection that it had."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ebus import open_engine
from ebus.backends.jetstream.address import parse
from ebus.backends.jetstream.link import Link
from ebus.core.engine import SupportsHealth
from tests.nats.servers import NatsServer

TIMEOUT_S = 20.0


def ends(close: Callable[[], None]) -> bool:
    """Whether it comes to its end."""
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(TIMEOUT_S)
    return not closing.is_alive()


def test_a_connection_that_never_says_that_it_is_closed_holds_nobody_up(
    nats_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.StreamWriter, "wait_closed", never)
    with NatsServer(nats_directory / "ending") as server:
        engine = open_engine(f"{server.url}?timeout_s=20")
        assert isinstance(engine, SupportsHealth)
        engine.check_health()
        server.restart()
        engine.check_health()
        assert ends(engine.close)


def test_who_misses_that_it_is_cancelled_is_cancelled_again() -> None:
    """As the client does, when what it waits for ends at the same moment."""
    runs = threading.Event()
    missed: list[int] = []

    async def miss_it() -> None:
        runs.set()
        while len(missed) < 2:
            try:
                await asyncio.sleep(TIMEOUT_S * 2)
            except asyncio.CancelledError:
                missed.append(1)
        await asyncio.sleep(TIMEOUT_S * 2)

    link = Link(parse("//127.0.0.1:1", secure=False))
    link.spawn(miss_it())
    assert runs.wait(TIMEOUT_S)
    assert ends(link.close)
    assert len(missed) == 2
