"""Checkpoints on their way to another store: their positions, and of whom something is parked."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from ebus.core.errors import EbusError
from ebus.core.store import SaveCheckpoint, TenantStore

SAVED_AT_ONCE = 100


class Checkpoints:
    """Copies positions again and again: only what is not as it was last time is written.

    One that was further on at the target before is left there. Leases that are under way and what
    is parked are not copied.
    """

    def __init__(self, source: TenantStore, target: TenantStore) -> None:
        self._source = source
        self._target = target
        self._there: dict[str, int] | None = None
        """What the target has, as far as that is known."""
        self._here: dict[str, int] | None = None
        """What the source had when it was looked at."""
        self._ours: set[str] = set()
        """Of these what is there was copied: they follow the source back too, and away."""
        self.count = 0
        """How many there are at the source."""
        self.ahead: list[str] = []
        self._parked: set[str] = set()
        self._looked_at: dict[str, int] = {}

    @property
    def parked(self) -> list[str]:
        """The names of those of which something is parked."""
        return sorted(self._parked)

    def copy(self) -> None:
        """Raises the first refusal, such as of a name that goes not over HTTP, after the others."""
        if self._there is None:
            self._there = dict(self._target.checkpoints())
        here = self._here = dict(self._source.checkpoints())
        self.count = len(here)
        changed = {name: at for name, at in here.items() if self._there.get(name) != at}
        self.ahead = [
            name
            for name, at in changed.items()
            if name not in self._ours and self._there.get(name, at) > at
        ]
        for name in self.ahead:
            del changed[name]
        refusal = self._save(changed)
        self._forget(self._ours - here.keys())
        refusal = refusal or self._look_at_parked(here)
        if refusal is not None:
            raise refusal

    def have_moved(self) -> bool:
        """Whether the source's are not any more what they were when they were copied."""
        return self._here is not None and self._source.checkpoints() != self._here

    def _save(self, changed: Mapping[str, int]) -> EbusError | None:
        """Returns the first refusal."""
        assert self._there is not None
        refusal = None
        waiting = iter(changed.items())
        while some := list(islice(waiting, SAVED_AT_ONCE)):
            writes = [SaveCheckpoint(name, at, self._there.get(name, 0)) for name, at in some]
            for (name, at), result in zip(some, self._target.commit(writes), strict=True):
                if not isinstance(result, EbusError):
                    self._there[name] = at
                    self._ours.add(name)
                elif result.is_passing:
                    raise result
                else:
                    refusal = refusal or result
        return refusal

    def _forget(self, names: set[str]) -> None:
        assert self._there is not None
        for name in sorted(names):
            self._target.delete_checkpoint(name, expected=self._there[name])
            del self._there[name]
            self._ours.discard(name)

    def _look_at_parked(self, here: Mapping[str, int]) -> EbusError | None:
        """At those that have moved since last time. Returns the first refusal."""
        refusal = None
        for name, at in here.items():
            if self._looked_at.get(name) == at:
                continue
            try:
                known = self._source.subscription(name)
            except EbusError as error:
                if error.is_passing:
                    raise
                refusal = refusal or error
                continue
            self._looked_at[name] = at
            if known is not None and known.parked:
                self._parked.add(name)
        return refusal
