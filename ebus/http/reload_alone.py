"""Reloads where one process serves: a thread reads and checks, the loop swaps."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from ebus.core.errors import EbusError
from ebus.http.config_watch import LOOK_EVERY_S, ConfigWatch
from ebus.http.reload import (
    Loaded,
    Proposal,
    deleted,
    follow,
    propose,
    report_accepted,
    report_not_followed,
    report_refused,
    report_warnings,
)
from ebus.http.roster import Counters, Roster
from ebus.http.tenancy import Tenancy
from ebus.tenants.place import RegistryWatch

logger = logging.getLogger("ebus.http")

T = TypeVar("T")

Take = Callable[[Roster], Coroutine[Any, Any, None]]
"""Serve these from now on. To be called on the loop."""


class AloneReloads:
    """Reads the config again when it is asked to, and when the file has changed.

    What takes time happens in a thread that nobody waits for at the end: one reload after the
    other, and those that are asked for meanwhile together.
    """

    def __init__(
        self,
        loaded: Loaded,
        counters: Counters,
        environment: Mapping[str, str],
        tenancy: Tenancy,
        take: Take,
    ) -> None:
        assert loaded.config.config_file is not None
        self._config = loaded.config
        self._digest = loaded.digest
        self._watch = ConfigWatch(loaded.config.config_file, loaded.signature)
        self._registry_watch = RegistryWatch(loaded.config)
        self._counters = counters
        self._state = counters.reloads
        self._environment = environment
        self._tenancy = tenancy
        self._take = take
        self._wake = threading.Event()
        self._is_asked = False
        self._is_told = False
        self._ending = threading.Event()

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="ebus-config", daemon=True).start()

    def hang_up(self) -> None:
        """Somebody asks for a reload."""
        self._is_asked = True
        self._wake.set()

    def follow(self) -> None:
        """The registry has changed."""
        self._is_told = True
        self._wake.set()

    def end(self) -> None:
        """Begin no further one, and let one that is under way change nothing more."""
        self._ending.set()
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(LOOK_EVERY_S)
            if self._ending.is_set():
                return
            # First: who asks from now on is heard the next time.
            self._wake.clear()
            try:
                self._look()
            except (CancelledError, asyncio.CancelledError):
                return
            except Exception as error:
                if self._ending.is_set():
                    return
                logger.exception("a mistake of ebus")
                report_refused(self._state, repr(error))

    def _look(self) -> None:
        if self._is_told or self._registry_watch.has_changed():
            self._is_told = False
            self._registry_watch.is_read()
            self._follow()
        if self._is_asked:
            self._is_asked = False
            self._watch.is_read()
            self._reload(is_asked=True)
        elif self._config.watch_config and self._watch.has_changed():
            self._reload(is_asked=False)

    def _follow(self) -> None:
        try:
            proposal = follow(self._config, self._digest)
        except EbusError as error:
            report_not_followed(error)
            return
        if not proposal.is_new:
            return
        if full := self._counters.slots.refusal(proposal.changes.added):
            report_not_followed(full)
            return
        self._accept(proposal)

    def _reload(self, *, is_asked: bool) -> None:
        unless = None if is_asked or self._state.is_failing else self._digest
        try:
            proposal = propose(self._config, self._environment, unless=unless)
        except EbusError as error:
            report_refused(self._state, error)
            return
        if not proposal.is_new:
            report_warnings(proposal)
            return
        if refusal := self._refusal(proposal):
            report_refused(self._state, refusal)
            return
        self._accept(proposal)

    def _accept(self, proposal: Proposal) -> None:
        self._counters.slots.take(proposal.changes.added)
        roster = self._tenancy.roster_of(proposal.config)
        if self._ending.is_set():
            return
        self._on_loop(self._take(roster))
        self._counters.slots.retire(deleted(self._config, proposal.changes))
        self._config, self._digest = proposal.config, proposal.digest
        report_accepted(self._state, proposal)
        self._state.note_served(0, self._state.accepted, self._config.registry_revision)

    def _refusal(self, proposal: Proposal) -> str:
        added = proposal.changes.added
        if full := self._counters.slots.refusal(added):
            return full
        refusals: list[str] = self._on_loop(self._tenancy.try_out(proposal.config, added))
        return "\n".join(refusals)

    def _on_loop(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result()
