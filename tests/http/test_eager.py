"""Coroutines that begin at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ebus.http.eager import EagerRun


def start(work: Coroutine[Any, None, None], running: set[Any]) -> EagerRun:
    run = EagerRun(work, running, asyncio.get_running_loop())
    run.start()
    return run


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_waits_for_nothing_has_ended_at_once() -> None:
    async def test() -> None:
        said: list[str] = []
        running: set[Any] = set()

        async def work() -> None:
            said.append("done")

        start(work(), running)
        assert said == ["done"]
        assert not running

    asyncio.run(test())


def test_it_goes_on_when_what_it_waits_for_is_there() -> None:
    async def test() -> None:
        said: list[object] = []
        running: set[Any] = set()
        loop = asyncio.get_running_loop()
        answer, failure, last = (loop.create_future() for _ in range(3))

        async def work() -> None:
            said.append(await answer)
            await asyncio.sleep(0)
            try:
                await failure
            except ValueError as error:
                said.append(str(error))
            said.append(await asyncio.shield(last))

        run = start(work(), running)
        assert running == {run}
        answer.set_result(1)
        await turns(3)
        assert said == [1]
        failure.set_exception(ValueError("two"))
        await turns(3)
        assert said == [1, "two"]
        assert running == {run}
        last.set_result(3)
        await turns(3)
        assert said == [1, "two", 3]
        assert not running

    asyncio.run(test())


@pytest.mark.parametrize("catches", [True, False])
@pytest.mark.parametrize("place", ["a future", "its turn", "a future that is done"])
def test_a_cancelled_one_learns_it_where_it_waits(place: str, catches: bool) -> None:
    async def test() -> None:
        said: list[str] = []
        running: set[Any] = set()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                await (asyncio.sleep(0) if place == "its turn" else future)
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                said.append("cancelled")
                if not catches:
                    raise

        run = start(work(), running)
        if place == "a future that is done":
            future.set_result(None)
        run.cancel("the server stops")
        await turns(3)
        assert said == ["cancelled"]
        assert not running

    asyncio.run(test())


def test_what_fails_does_not_run_any_more() -> None:
    async def test() -> None:
        running: set[Any] = set()

        async def work() -> None:
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            start(work(), running)
        assert not running

    asyncio.run(test())
