"""What an acknowledgement is worth: in the log at the start, and in the details of the health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebus.core.engine import Acknowledgement
from ebus.core.errors import StoreUnavailable
from ebus.http import worth as module
from ebus.http.worth import Worth
from tests.http.conftest import write_config
from tests.http.test_reload import Reloading, reloading, tenant
from tests.http.test_settings import wait_until
from tests.live_server import LiveServer, serving

SYNCED = "synced to this machine's disk before the answer"
SURVIVES = "survives the process, not a power cut"


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reloading]:
    with reloading(tmp_path_factory.mktemp("worth"), request.param) as server:
        yield server


def said(server: LiveServer, text: str) -> int:
    """How often the log says so."""
    return sum(text in line for line in server.lines)


def test_the_start_says_it_once_and_the_health_when_it_is_asked(server: Reloading) -> None:
    line = f"What an acknowledgement is worth: {SYNCED}"
    wait_until(lambda: said(server.server, line) > 0)
    assert said(server.server, line) == 1
    for _ in range(4):
        assert server.health()["acknowledgement"] == {
            "worth": SYNCED,
            "durable": True,
            "warnings": [],
        }


def test_it_follows_the_durability_that_a_reload_brings(server: Reloading) -> None:
    def all_say(worth: str) -> bool:
        return all(server.health()["acknowledgement"]["worth"] == worth for _ in range(12))

    server.reload(tenant("alice"), tenant("bob"), durability="normal")
    wait_until(lambda: all_say(SURVIVES))
    wait_until(lambda: said(server.server, SURVIVES) == 1)
    assert server.health()["acknowledgement"]["durable"] is False
    server.reload(tenant("alice"), tenant("bob"), durability="full")
    wait_until(lambda: all_say(SYNCED))


def test_memory_is_worth_nothing(tmp_path: Path) -> None:
    write_config(tmp_path / "tenants.yaml", {"engine": "memory", "tenants": [tenant("alice")]})
    with serving(["--config", "tenants.yaml"], cwd=tmp_path) as running:
        health = Reloading(running, tmp_path, 1).health()
        assert health["acknowledgement"]["worth"].startswith("nothing")
        assert health["acknowledgement"]["durable"] is False


class Cluster:
    """What an engine says: the answer of the moment, once it may."""

    def __init__(self) -> None:
        self.answer: Acknowledgement | None = Acknowledgement("one", None, ("a", "b"))
        self.times = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def ask(self) -> Acknowledgement | None:
        self.times += 1
        await self.may_answer.wait()
        if self.answer is None:
            raise StoreUnavailable("the cluster is away")
        return self.answer


async def until_asked(cluster: Cluster, times: int) -> None:
    while cluster.times < times:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0)
    for _ in range(10):  # and until the answer has been taken
        await asyncio.sleep(0)


def test_an_old_answer_is_asked_for_again_behind_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        cluster = Cluster()
        worth = Worth(cluster.ask)
        await worth.begin()
        first = worth.known()
        assert first is not None
        assert first.worth == "one"
        await until_asked(cluster, 1)
        assert worth.known() is first
        assert cluster.times == 1, "a minute has not passed"
        monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
        cluster.may_answer.clear()
        cluster.answer = Acknowledgement("two", None)
        assert worth.known() is first
        await until_asked(cluster, 2)
        assert worth.known() is first, "nobody waits for the engine"
        await until_asked(cluster, 2)
        assert cluster.times == 2, "it is not asked twice at once"
        monkeypatch.setattr(module, "ASK_AGAIN_S", 60.0)
        cluster.may_answer.set()
        await until_asked(cluster, 3)  # for who has asked meanwhile
        assert worth.known() is cluster.answer
        assert cluster.times == 3
        worth.end()

    asyncio.run(run())


def test_an_engine_that_cannot_be_asked_leaves_what_was_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        cluster = Cluster()
        cluster.answer = None
        worth = Worth(cluster.ask)
        await worth.begin()
        assert worth.known() is None
        cluster.answer = Acknowledgement("one", None)
        worth.ask_again()
        await until_asked(cluster, 2)
        cluster.answer = None
        worth.ask_again()
        await until_asked(cluster, 3)
        known = worth.known()
        assert known is not None
        assert known.worth == "one"

    asyncio.run(run())
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    message = "what an acknowledgement is worth could not be asked: the cluster is away"
    assert told == [message] * 2


def test_the_log_has_each_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ebus.http")

    async def run() -> None:
        cluster = Cluster()
        worth = Worth(cluster.ask)
        await worth.begin()
        assert not caplog.records, "another process says it, or this one does later"
        worth.say()
        cluster.answer = Acknowledgement("one", None, ("b", "c"))
        worth.ask_again()
        await until_asked(cluster, 2)
        worth.ask_again()
        await until_asked(cluster, 3)

    asyncio.run(run())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "What an acknowledgement is worth: one"),
        ("WARNING", "what an acknowledgement is worth: a"),
        ("WARNING", "what an acknowledgement is worth: b"),
        ("WARNING", "what an acknowledgement is worth: c"),
    ]
