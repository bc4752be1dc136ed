"""What `ebus copy` does with its tenants: each in one go, or with all in rounds until the end."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from ebus.cli.places import progress_bar, report
from ebus.core.engine import Engine
from ebus.core.errors import EbusError, StoreFull
from ebus.core.store import TenantStore
from ebus.core.tenant import TenantName
from ebus.moving import Copying

PAUSE_S = 0.25
"""Between two rounds in which nothing has come."""

LOOK_S = 0.05
"""How often is looked at whether the end is wanted."""


class End:
    """Whether what goes on in rounds is to come to its end."""

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted

    def want(self) -> None:
        self._is_wanted = True

    def is_wanted(self) -> bool:
        return self._is_wanted

    def wait(self, timeout_s: float) -> None:
        """Return when it is wanted, or once the time is over."""
        until_s = time.monotonic() + timeout_s
        while not self._is_wanted and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, left_s))


@contextmanager
def ending(*, is_wanted: bool) -> Iterator[End]:
    """An end that SIGINT or SIGTERM asks for, if it `is_wanted`. The second one ends at once."""
    end = End(is_wanted=not is_wanted)
    if not is_wanted:
        yield end
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {it: signal.getsignal(it) for it in signals}

    def ask(number: int, frame: object) -> None:
        end.want()
        for it in signals:
            signal.signal(it, before[it])

    for it in signals:
        signal.signal(it, ask)
    try:
        yield end
    finally:
        for it in signals:
            signal.signal(it, before[it])


class Following:
    """The tenants that are copied: one, or with no name all that there are."""

    def __init__(
        self,
        here: Engine,
        there: Engine,
        name: TenantName | None,
        renamed: str | None,
        *,
        start: int,
        stop: int | None,
        checkpoints: bool,
        quiet: bool,
    ) -> None:
        self._here = here
        self._there = there
        self._name = name
        self._renamed = renamed
        self._start = start
        self._stop = stop
        self._checkpoints = checkpoints
        self._quiet = quiet
        self._copyings: dict[TenantName, _Copied] = {}
        self._begun: set[TenantName] = set()
        """Of these it has worked before: what fails may pass."""
        self.count = 0
        """How many tenants there were."""
        self.failed: set[TenantName] = set()
        self._is_live = False

    def run(self, end: End) -> None:
        """Copy what there is, again and again until the end is wanted; then finish."""
        self._is_live = not end.is_wanted()
        if self._is_live:
            _allow_many_files()
            self._go_in_rounds(end)
            self._say("Finishing")
        begun_s = time.monotonic()
        for name in self._names():
            with self._told(name):
                self._finish(name)
        if self._is_live:
            self._say(f"Finished in {time.monotonic() - begun_s:.2f} s")

    def _names(self) -> list[TenantName]:
        names = list(self._here.tenants()) if self._name is None else [self._name]
        self.count = len(names)
        return [it for it in names if it not in self.failed]

    @contextmanager
    def _told(self, name: TenantName) -> Iterator[None]:
        """One that fails does not stop the others."""
        try:
            yield
        except EbusError as error:
            click.echo(f"{name}: {error}", err=True)
            self.failed.add(name)

    def _go_in_rounds(self, end: End) -> None:
        is_current = False
        while not end.is_wanted() and (names := self._names()):
            appended = lag = 0
            for name in names:
                with self._told(name):
                    came, left = self._round(name)
                    appended += came
                    lag += left
                if end.is_wanted():
                    return
            is_current = self._tell_lag(appended, lag, is_current=is_current)
            if not appended:
                end.wait(PAUSE_S)

    def _round(self, name: TenantName) -> tuple[int, int]:
        """How many events came, and how many have come since."""
        try:
            copied = self._copyings.get(name) or self._begin(name)
            return copied.round(checkpoints=self._checkpoints)
        except EbusError as error:
            if name not in self._begun or not error.is_passing or isinstance(error, StoreFull):
                raise
            click.echo(f"{name}: {error}; it is tried again", err=True)
            self._copyings.pop(name, None)
            return 0, 0

    def _begin(self, name: TenantName) -> _Copied:
        copied = self._open(name)
        with progress_bar(name, copied.copying.lag(), quiet=self._quiet) as progress:
            copied.copying.catch_up(progress)
        self._copyings[name] = copied
        self._begun.add(name)
        return copied

    def _open(self, name: TenantName) -> _Copied:
        source = self._here.open(name)
        target = self._there.open(TenantName(self._renamed or name))
        return _Copied(source, target, Copying(source, target, start=self._start, stop=self._stop))

    def _tell_lag(self, appended: int, lag: int, *, is_current: bool) -> bool:
        """Say how far it is, and once that there is nothing more to wait for."""
        if sys.stderr.isatty() and not self._quiet:
            click.echo(f"\r{appended} events came, {lag} behind    \r", nl=False, err=True)
        if not is_current and appended < FEW:
            self._say("Caught up: make the source read-only, then finish with Ctrl-C")
        return is_current or appended < FEW

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)

    def _finish(self, name: TenantName) -> None:
        copied = self._copyings.get(name) or self._open(name)
        copying = copied.copying
        with progress_bar(name, copying.lag(), quiet=self._quiet) as progress:
            moved = copying.finish(checkpoints=self._checkpoints, progress=progress)
        report(name, moved, new="stored now", quiet=self._quiet)
        if self._is_live and copying.has_gone_on():
            click.echo(
                f"{name}: the source was written to until the end: what came last is not copied; "
                "stop who writes to it, and run this again",
                err=True,
            )
            self.failed.add(name)
        copied.close()


class _Copied:
    """A tenant on its way."""

    def __init__(self, source: TenantStore, target: TenantStore, copying: Copying) -> None:
        self.copying = copying
        self._source = source
        self._target = target

    def round(self, *, checkpoints: bool) -> tuple[int, int]:
        """How many events came, and how many have come since."""
        came = self.copying.catch_up()
        if checkpoints:
            self.copying.copy_checkpoints()
        return came, self.copying.lag()

    def close(self) -> None:
        self._source.close()
        self._target.close()


FEW = 1_000
"""With fewer events that have come since the round before, a copy is up to date."""


def _allow_many_files() -> None:
    """Tenants stay open until the end."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
