"""A way to a server that loses and refuses: the copy is whole, nothing is stored twice."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from ebus.backends.sqlite import SqliteEngine
from ebus.client import Client, Retries
from ebus.core.errors import OutcomeUnknown
from ebus.core.limits import Limits
from ebus.core.store import Appended
from ebus.moving import copy_log, placing
from tests.client.conftest import FreshTenant, proxy, servers, tenant
from tests.client.proxy import Proxy, Way
from tests.moving.logs import ODD, fill, memory_store, named, wires

__all__ = ["proxy", "servers", "tenant"]

WAYS: list[Way] = ["lose", "pass", "half", "pass", "late", "unavailable", "pass", "drop", "gateway"]


@pytest.mark.parametrize("turn", [0, 2, 5])
def test_a_copy_over_a_bad_way_is_whole(
    turn: int, proxy: Proxy, tenant: FreshTenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "FIRST_PAUSE_S", 0.001)
    with (
        SqliteEngine(tmp_path) as engine,
        Client(
            proxy.url,
            tenant.key,
            assign_ids=False,
            retries=Retries(attempts=5, first_pause_s=0.001),
            limits=Limits(max_batch_events=40),
        ) as server,
    ):
        alice, back = engine.open("alice"), engine.open("back")
        fill(alice, [*named(200), *ODD])
        alice.save_checkpoint("mailer", 7)
        proxy.ways = deque([*WAYS[turn:], *WAYS * 2])
        copy_log(alice, server)
        assert len(proxy.ways) < 15
        proxy.ways = deque([*WAYS[turn:], *WAYS])
        copy_log(server, back)
        assert wires(back) == wires(alice)
        assert (server.head(), server.count()) == (205, 205)
        assert back.checkpoints() == {"mailer": 7}


def test_an_append_that_is_done_long_after_its_answer_was_given_up_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placing, "FIRST_PAUSE_S", 0.001)
    source, target = memory_store(), memory_store()
    fill(source, named(2_500))
    append = target.append
    calls = 0

    def late(*arguments: Any, **options: Any) -> Appended:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OutcomeUnknown("no answer")
        if calls == 3:
            append(*arguments, **options)
        return append(*arguments, **options)

    target.append = late  # type: ignore[method-assign]
    moved = copy_log(source, target)
    assert (moved.appended, calls) == (2_500, 4)
    assert wires(target) == wires(source)
