"""The page on scaling out comes true: all that it tells to type is run, and does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.nats.guard import guard
from tests.nats.ports import ClaimedPort, claim_port
from tests.nats.servers import default_binary
from tests.operations.page import Page
from tests.operations.reader import Reader

PAGE = Page(ROOT / "docs" / "scale-out.md")

ON_YOUR_MACHINE = ("it installs packages and makes users",)
"""Why a block is not run: all the reasons that there may be."""


def test_every_block_is_run_or_says_why_not() -> None:
    PAGE.check_every_block(ON_YOUR_MACHINE)


def test_every_command_within_a_sentence_is_in_a_block_too() -> None:
    PAGE.check_every_command()


@pytest.fixture
def ports() -> Iterator[list[int]]:
    claimed: list[ClaimedPort] = [claim_port() for _ in range(7)]
    yield [it.number for it in claimed]
    for it in claimed:
        it.release()


def test_a_reader_gets_from_nothing_through_the_failure_drill(
    tmp_path: Path, ports: list[int]
) -> None:
    import time
    clients, routes, m1, m2, m3, e1, e2 = map(str, ports)
    names = {
        "N1": "127.0.0.1", "N2": "127.0.0.2", "N3": "127.0.0.3",
        "NATS_PORT": clients, "ROUTE_PORT": routes, "M1": m1, "M2": m2, "M3": m3,
        "PORTS": f"{e1} {e2}", "BACKENDS": f"127.0.0.1:{e1} 127.0.0.1:{e2}",
        "NATS_OWNER": str(__import__("os").getuid()), "NATS_SERVER": str(default_binary()),
    }
    with Reader(tmp_path, names) as reader:
        for heading, blocks in groupby(PAGE.runnable(), lambda block: block.heading):
            for block in blocks:
                t = time.monotonic()
                out = reader.run(block)
                for pid in reader.main_pids():
                    guard().watch(pid)
                print(heading, block.line, round(time.monotonic() - t, 2))
                print(out.stdout, out.stderr)
