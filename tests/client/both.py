"""Both clients with one face, so that a test is written once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from ebus.client import AsyncClient, Client


class Waited:
    """An `AsyncClient` whose answers are waited for: what it gives is what `Client` gives."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_make(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            given = method(*arguments, **options)
            if inspect.isasyncgen(given):
                return self._each(given)
            return self._runner.run(given)

        return call

    def __repr__(self) -> str:
        return repr(self._client)

    def _each(self, events: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._runner.run(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(events.aclose())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


async def _make(*arguments: Any, **options: Any) -> AsyncClient:
    return AsyncClient(*arguments, **options)


async def _next(events: Any) -> Any:
    return await anext(events)


KINDS: dict[str, Callable[..., Any]] = {"sync": Client, "async": Waited}
