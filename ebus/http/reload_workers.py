"""Reloads with several workers: the first process decides, and they follow.

The first process looks at the file and hears SIGHUP. It forks a process of its own that reads and
checks the config, so that whatever that costs, or breaks, it goes on looking after the workers.
What was accepted it hands over to them, with each tenant's number and without any key; a worker
never reads the file, and so cannot find anything else there than was accepted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ebus.config import Config
from ebus.core.engine import open_engine
from ebus.core.errors import EbusError
from ebus.http.config_watch import LOOK_EVERY_S, ConfigWatch
from ebus.http.handover import Handover
from ebus.http.reload import (
    Loaded,
    Proposal,
    deleted,
    follow,
    from_pieces,
    in_pieces,
    propose,
    report_accepted,
    report_not_followed,
    report_refused,
    report_warnings,
    try_out,
)
from ebus.http.reload_alone import Take
from ebus.http.roster import Counters, Roster
from ebus.http.tenancy import Tenancy
from ebus.tenants.place import RegistryWatch

logger = logging.getLogger("ebus.http")


class Overseer:
    """Decides about the config, in the first process. Of no use before it is attached."""

    def __init__(
        self,
        loaded: Loaded,
        counters: Counters,
        environment: Mapping[str, str],
        handover: Handover,
    ) -> None:
        assert loaded.config.config_file is not None
        self.config = loaded.config
        """The one that was accepted last."""
        self.generation = counters.reloads.accepted
        self._digest = loaded.digest
        self._watch = ConfigWatch(loaded.config.config_file, loaded.signature)
        self._registry_watch = RegistryWatch(loaded.config)
        self._next_look_s = time.monotonic() + LOOK_EVERY_S
        self._counters = counters
        self._state = counters.reloads
        self._environment = environment
        self._handover = handover
        self._found = Handover()
        self._scout: int | None = None
        """The process that reads and checks."""
        self._is_asked_again = False
        self._is_told_again = False
        self._is_ending = False

    def attach(
        self, *, fork: Callable[[Callable[[], None]], int], tell: Callable[[], None]
    ) -> None:
        """`fork` runs something in a process of its own, whose end is told to `reap`, and returns
        its id; `tell` has every worker look at what was handed over."""
        self._fork = fork
        self._tell = tell

    def wait_s(self) -> float | None:
        """How long until the next look is due; None when there is none."""
        watches = self.config.watch_config or self._registry_watch.has_anything
        if not watches or self._is_ending:
            return None
        return max(0.0, self._next_look_s - time.monotonic())

    def look(self) -> None:
        """Look at the file, and at the registry, if that is due; read it again, if it changed."""
        if self.wait_s() != 0.0:
            return
        self._next_look_s = time.monotonic() + LOOK_EVERY_S
        # Looked at by and by: what changes while it is read is found when that has ended.
        if self._scout is None and self._registry_watch.has_changed():
            self.follow()
        elif self._scout is None and self.config.watch_config and self._watch.has_changed():
            self._send(is_asked=False)

    def hang_up(self) -> None:
        """Somebody asks for a reload."""
        if self._is_ending:
            return
        if self._scout is not None:
            self._is_asked_again = True
            return
        self._watch.is_read()
        self._send(is_asked=True)

    def follow(self) -> None:
        """The registry has changed, or may have."""
        if self._is_ending or not self._registry_watch.has_anything:
            return
        if self._scout is not None:
            self._is_told_again = True
            return
        self._registry_watch.is_read()
        self._begin(self._look_into_the_registry)

    def reap(self, process: int, status: int) -> bool:
        """A process has ended. Says whether it is one that was sent from here."""
        if process != self._scout:
            return False
        self._scout = None
        if self._is_ending:
            return True
        found = self._found.read()
        self._found.clear()
        if status or not found:
            end = f"status {status}" if status >= 0 else signal.Signals(-status).name
            report_refused(self._state, f"the process that was to check it ended with {end}")
        else:
            try:
                self._decide(found)
            except Exception as error:  # which must not be the end of all workers
                logger.exception("a mistake of ebus")
                report_refused(self._state, repr(error))
        if self._is_told_again:
            self._is_told_again = False
            self.follow()
        if self._is_asked_again and self._scout is None:
            self._is_asked_again = False
            self.hang_up()
        return True

    def end(self) -> None:
        """Begin nothing any more, and let what is under way change nothing."""
        self._is_ending = True
        if self._scout is not None:
            os.kill(self._scout, signal.SIGKILL)

    def _decide(self, found: list[Any]) -> None:
        is_followed, refusal, *pieces = found
        refuse = report_not_followed if is_followed else partial(report_refused, self._state)
        if refusal:
            refuse(refusal)
            return
        (digest, changes, warnings, is_new), *rest = pieces
        _, config, _ = from_pieces(rest)
        proposal = Proposal(config, digest, changes, warnings, is_new, is_followed)
        slots = self._counters.slots
        if not is_new:
            report_warnings(proposal)
            return
        if full := slots.refusal(changes.added):
            refuse(full)
            return
        slots.take(changes.added)
        slots.retire(deleted(self.config, changes))
        self.config, self._digest = config, digest
        report_accepted(self._state, proposal)
        self.generation = self._state.accepted
        self._handover.write(in_pieces(self.generation, config, slots))
        self._tell()

    def _send(self, *, is_asked: bool) -> None:
        unless = None if is_asked or self._state.is_failing else self._digest
        self._begin(lambda: self._look_into_it(unless))

    def _begin(self, look: Callable[[], None]) -> None:
        self._found.clear()
        try:
            self._scout = self._fork(look)
        except OSError as error:
            report_refused(self._state, f"no process can be made that reads it: {error}")

    def _look_into_it(self, unless: bytes | None) -> None:
        """What the process does that is sent."""
        try:
            proposal = propose(self.config, self._environment, unless=unless)
        except EbusError as error:
            self._found.write([False, str(error)])
            return
        refusal = "\n".join(_refusals(self.config, proposal)) if proposal.is_new else ""
        self._report(refusal, proposal)

    def _look_into_the_registry(self) -> None:
        try:
            self._report("", follow(self.config, self._digest))
        except EbusError as error:
            self._found.write([True, str(error)])

    def _report(self, refusal: str, proposal: Proposal) -> None:
        said = (proposal.digest, proposal.changes, proposal.warnings, proposal.is_new)
        pieces = in_pieces(0, proposal.config)
        self._found.write([proposal.is_followed, refusal, said, *pieces])


def _refusals(running: Config, proposal: Proposal) -> list[str]:
    with open_engine(
        running.engine, durability=running.durability, limits=running.limits
    ) as engine:
        return try_out(engine, proposal.config, proposal.changes.added)


class WorkerReloads:
    """Follows what the first process accepts, in a worker."""

    def __init__(
        self,
        handover: Handover,
        counters: Counters,
        place: int,
        generation: int,
        ask_to_follow: Callable[[], None],
        tenancy: Tenancy,
        take: Take,
    ) -> None:
        self._handover = handover
        self._counters = counters
        self._state = counters.reloads
        self._place = place
        self.follow = ask_to_follow
        """Have the first process look at the registry, which has changed."""
        self._tenancy = tenancy
        self._take = take
        self._generation = generation
        self._following: asyncio.Task[None] | None = None
        self._is_told_again = False
        self._ending = threading.Event()

    def begin(self) -> None:
        revision = self._tenancy.config.registry_revision
        self._state.note_served(self._place, self._generation, revision)
        self.hang_up()  # what came since this process was forked has been handed over

    def hang_up(self) -> None:
        """Something may have been handed over."""
        self._is_told_again = True
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    def end(self) -> None:
        self._ending.set()

    async def _follow(self) -> None:
        while self._is_told_again and not self._ending.is_set():
            self._is_told_again = False
            try:
                await self._follow_once()
            except Exception:
                if self._ending.is_set():
                    return  # what it was to be done with is closed
                logger.exception("a mistake of ebus: this worker does not follow the config")

    async def _follow_once(self) -> None:
        found = await asyncio.to_thread(self._read)
        if found is None or self._ending.is_set():
            return
        self._generation, roster = found
        await self._take(roster)
        revision = roster.config.registry_revision
        self._state.note_served(self._place, self._generation, revision)

    def _read(self) -> tuple[int, Roster] | None:
        pieces = self._handover.read()
        if not pieces or pieces[0] <= self._generation:
            return None
        generation, config, numbers = from_pieces(pieces)
        self._counters.slots.learn(numbers)
        return generation, self._tenancy.roster_of(config)
