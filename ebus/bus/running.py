"""Where handlers are called: in this thread, or on an event loop.

One rule: what was begun on an event loop calls its handlers on that loop, sync ones too. What
was begun elsewhere calls them in its own thread, and async ones on a loop that the bus keeps.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from typing import Any, Protocol

Call = Callable[[], Any]


class Runner(Protocol):
    """Makes a call and waits until it is done, and what it returned is awaited."""

    def __call__(self, call: Call) -> None: ...

    def is_here(self) -> bool:
        """Whether the caller is on the loop that this one would wait for."""
        ...


class LoopGone(BaseException):
    """The loop has ended, and no handler can be called on it: no error of a handler's."""


LOOK_S = 1.0
"""How often to look whether a loop that does not answer has ended."""


class OnLoop:
    """Makes calls on a loop, from other threads. Raises `LoopGone` once that has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, call: Call) -> None:
        coroutine = finished(call)
        try:
            called = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise LoopGone from None
        while not wait([called], LOOK_S).done:
            if self._loop.is_closed():
                coroutine.close()
                raise LoopGone
        called.result()

    def is_here(self) -> bool:
        return running_loop() is self._loop


class InThread:
    """Makes calls in the caller's thread. What must be awaited is, on a loop of a thread of its
    own: one for the whole life of the bus, since clients and pools belong to a loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, call: Call) -> None:
        result = call()
        if inspect.isawaitable(result):
            asyncio.run_coroutine_threadsafe(_awaited(result), self._started()).result()

    def is_here(self) -> bool:
        return self._loop is not None and running_loop() is self._loop

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="ebus-handlers", daemon=True
                )
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """End the loop and its thread. Nothing may be running on it. Twice is fine."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def runner_for_here(in_thread: InThread) -> Runner:
    """Where what begins here is to call its handlers."""
    loop = running_loop()
    return in_thread if loop is None else OnLoop(loop)


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def finished(call: Call) -> None:
    result = call()
    if inspect.isawaitable(result):
        await result


async def _awaited(awaitable: Awaitable[Any]) -> None:
    await awaitable


async def _cancel_others() -> None:
    """What handlers began and did not wait for ends with the loop."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
