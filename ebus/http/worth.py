"""What an acknowledgement is worth: asked at the start, again now and then, and said in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context

from ebus.core.engine import Acknowledgement
from ebus.core.errors import EbusError

logger = logging.getLogger("ebus.http")

ASK_AGAIN_S = 60.0


class Worth:
    """What the engine has said last. For the event loop, which never waits for the engine."""

    def __init__(self, ask: Callable[[], Awaitable[Acknowledgement | None]]) -> None:
        self._ask = ask
        self._is_said = False
        """Whether this process puts it into the log."""
        self._known: Acknowledgement | None = None
        self._asked_s = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._is_old = False
        """Whether it has to be asked once more when it has been asked."""

    async def begin(self) -> None:
        """Ask for the first time. An engine that cannot be asked keeps no server from starting."""
        await self._look()

    def say(self) -> None:
        """Put it into the log, now and whenever it has changed. Of several workers, one does."""
        self._is_said = True
        _say(None, self._known)

    def known(self) -> Acknowledgement | None:
        """What is known now; None where the engine has not said anything.

        It is asked again, behind the answer, once that is a minute ago.
        """
        if asyncio.get_running_loop().time() - self._asked_s >= ASK_AGAIN_S:
            self.ask_again()
        return self._known

    def ask_again(self) -> None:
        """Soon. Twice at once is never asked."""
        self._is_old = True
        if self._asking is None:
            # Without the context of the request that has found it old: it is nobody's.
            loop = asyncio.get_running_loop()
            self._asking = loop.create_task(self._look_again(), context=Context())

    def end(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def _look_again(self) -> None:
        try:
            while self._is_old:
                self._is_old = False
                await self._look()
        finally:
            self._asking = None

    async def _look(self) -> None:
        try:
            found = await self._ask()
        except EbusError as error:
            logger.warning("what an acknowledgement is worth could not be asked: %s", error)
        else:
            before, self._known = self._known, found
            if self._is_said:
                _say(before, found)
        finally:
            self._asked_s = asyncio.get_running_loop().time()


def _say(before: Acknowledgement | None, found: Acknowledgement | None) -> None:
    """Put into the log what is new."""
    if found is None:
        return
    if before is None or before.worth != found.worth:
        logger.info("What an acknowledgement is worth: %s", found.worth)
    for warning in found.warnings:
        if before is None or warning not in before.warnings:
            logger.warning("what an acknowledgement is worth: %s", warning)
