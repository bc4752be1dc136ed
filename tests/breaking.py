"""An engine that fails, or does not come back, when a test says so.

It is the memory engine, as on machines that may be away: every call of it, and of its stores, first
looks whether it is to fail or to hang. That is said by files in a directory, so that it can be said
to a server in another process, too: its address is `breaking:DIRECTORY`, once `installed`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ebus.core.consumers import Subscription
from ebus.core.engine import Durability, SupportsHealth
from ebus.core.errors import StoreUnavailable, StoreUnreachable
from ebus.core.limits import Limits
from ebus.core.observing import Sizes, SupportsSizes
from ebus.core.store import Page, StreamInfo, Write, Written
from ebus.core.tenant import TenantName
from ebus.http import server
from tests.conftest import ROOT
from tests.shared_memory import SharedEngine, SharedLog, SharedStore

PATIENCE_S = 30.0

LOOK_AGAIN_S = 0.002

ALL = "_"
"""Stands for the engine and all tenants."""

HEALTH = "-"
"""Stands for the check of the health alone."""


class Switch:
    """What is broken: everything, or single tenants. For both sides."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def hanging(self, who: str = ALL) -> AbstractContextManager[Callable[[], None]]:
        """Meanwhile no call comes back."""
        return self._while("hang", who)

    def unreachable(self, who: str = ALL) -> AbstractContextManager[Callable[[], None]]:
        """Meanwhile every call fails at once."""
        return self._while("fail", who)

    def broken(self, who: str = ALL) -> AbstractContextManager[Callable[[], None]]:
        """The same, and not because anybody is away."""
        return self._while("break", who)

    def until_hanging(self, calls: int = 1, who: str = ALL) -> None:
        """Return when so many calls hang."""
        until_s = time.monotonic() + PATIENCE_S
        while self.hanging_calls(who) < calls:
            assert time.monotonic() < until_s, "nothing hangs"
            time.sleep(LOOK_AGAIN_S)

    def hanging_calls(self, who: str = ALL) -> int:
        return len(list(self._directory.glob(f"{who}.*.hangs")))

    def pass_by(self, who: str = ALL) -> None:
        """Every call does. Raises what it is to fail with."""
        for name in (ALL, who):
            if (self._directory / f"{name}.fail").exists():
                raise StoreUnreachable("there is nobody")
            if (self._directory / f"{name}.break").exists():
                raise StoreUnavailable("it is broken")
            if (self._directory / f"{name}.hang").exists():
                self._hang(name)

    def _hang(self, name: str) -> None:
        mark = self._directory / f"{name}.{secrets.token_hex(8)}.hangs"
        mark.touch()
        while (self._directory / f"{name}.hang").exists():
            time.sleep(LOOK_AGAIN_S)
        mark.unlink()

    @contextmanager
    def _while(self, how: str, who: str) -> Iterator[Callable[[], None]]:
        """Until the end, or until what it gives is called."""
        file = self._directory / f"{who}.{how}"
        file.touch()
        mend = partial(file.unlink, missing_ok=True)
        try:
            yield mend
        finally:
            mend()


class BreakingStore(SharedStore):
    """One tenant's."""

    def __init__(self, log: SharedLog, limits: Limits, pass_by: Callable[[], None]) -> None:
        super().__init__(log, limits)
        self._pass_by = pass_by

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        self._pass_by()
        return super().commit(writes)

    def read(self, start: int, stop: int | None = None, **more: Any) -> Page:
        self._pass_by()
        return super().read(start, stop, **more)

    def streams(self, prefix: str = "", **more: Any) -> list[StreamInfo]:
        self._pass_by()
        return super().streams(prefix, **more)

    def stream_version(self, stream: str) -> int:
        self._pass_by()
        return super().stream_version(stream)

    def head(self) -> int:
        self._pass_by()
        return super().head()

    def count(self) -> int:
        self._pass_by()
        return super().count()

    def subscription(self, name: str) -> Subscription | None:
        self._pass_by()
        return super().subscription(name)

    def checkpoints(self, prefix: str = "", **more: Any) -> dict[str, int]:
        self._pass_by()
        return super().checkpoints(prefix, **more)

    def delete_checkpoint(self, name: str, *, expected: int | None = None) -> bool:
        self._pass_by()
        return super().delete_checkpoint(name, expected=expected)

    def watch(self, moved: Callable[[], None]) -> Callable[[], None]:
        self._pass_by()
        return super().watch(moved)


class BreakingEngine(SharedEngine, SupportsHealth, SupportsSizes):
    """The engine. `switch` says what is broken."""

    def __init__(
        self,
        switch: Switch,
        *,
        logs: dict[str, SharedLog] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.logs = {} if logs is None else logs
        super().__init__(self.logs, limits=limits)
        self.switch = switch

    def open(self, name: str, *, durability: Durability | None = None) -> SharedStore:
        self.switch.pass_by(name)
        return super().open(name, durability=durability)

    def new_store(self, name: TenantName, log: SharedLog) -> BreakingStore:
        return BreakingStore(log, self._limits, partial(self.switch.pass_by, name))

    def tenants(self) -> list[TenantName]:
        self.switch.pass_by()
        return super().tenants()

    def check_health(self) -> None:
        self.switch.pass_by(HEALTH)

    def sizes(self, name: str) -> Sizes | None:
        self.switch.pass_by(name)
        log = self.logs.get(name)
        return None if log is None else Sizes(log.size_bytes, 0)


def open_breaking(location: str, *, durability: Durability, limits: Limits) -> BreakingEngine:
    """The `EngineFactory` of `breaking:`."""
    server.CLOSE_PATIENCE_S = 0.5  # of the process that serves, which only tests have
    return BreakingEngine(Switch(Path(location)), limits=limits)


def installed(directory: Path) -> dict[str, str]:
    """An environment in which the engine is found as one that was installed."""
    about = directory / "breaking-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: breaking\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[ebus.engines]\nbreaking = {__name__}:open_breaking\n"
    )
    return {"PYTHONPATH": f"{directory}:{ROOT}"}
