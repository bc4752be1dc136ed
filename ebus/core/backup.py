"""Backups: the power of an engine to make them, to put them back, and to look through what it has.

Where copies are kept, and the manifest that tells of them, is `ebus.core.backup_directory`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from ebus.core.tenant import TenantName

Progress = Callable[[int], object]
"""Called with how many bytes more are done."""


def no_progress(_: int) -> None:
    """Nobody wants to know."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant holds at one moment."""

    position: int
    """The head."""

    events: int
    """How many are stored."""

    checkpoints: dict[str, int]

    mark: str = ""
    """The engine's own: while it is the same, the tenant has not changed. Empty when none holds."""


class Copy(msgspec.Struct, frozen=True):
    """A file that a tenant was copied into, and what it holds."""

    file: Path
    snapshot: Snapshot


class Verification(msgspec.Struct, frozen=True):
    """What a look through everything of a tenant has found."""

    snapshot: Snapshot | None
    """None when it could not be read."""

    problems: list[str]
    """What is wrong. Nothing, as it should be."""

    notes: list[str] = []
    """What is allowed and yet worth a look."""


def differences(now: Snapshot, told: Snapshot) -> list[str]:
    """In what a copy is not what the manifest tells of it."""
    found: dict[str, tuple[object, object]] = {
        "its head": (now.position, told.position),
        "the number of its events": (now.events, told.events),
        "its checkpoints": (now.checkpoints, told.checkpoints),
    }
    return [f"{what} is {a}, not {b}" for what, (a, b) in found.items() if a != b]


@runtime_checkable
class SupportsBackup(Protocol):
    """The power of an engine to copy tenants into files and back while others write."""

    @property
    def copy_suffix(self) -> str:
        """How the name of such a file ends, such as `.db`."""
        ...

    def copied_bytes(self, name: str) -> int:
        """About how large a copy of the tenant is; 0 when there is nothing."""
        ...

    def back_up(
        self,
        name: str,
        file: Path,
        *,
        known: Copy | None = None,
        progress: Progress = no_progress,
    ) -> Snapshot | None:
        """Copy the tenant, as it is at one moment, into a new file, which is then durable.

        Writers go on meanwhile and do not wait. None when nothing is stored of the tenant. When
        it holds just what `known` does, no file is made. The copy has been looked through: one
        that is damaged is not left. Raises `StoreRefused` for a tenant that is damaged or is
        none of ours, `StoreFull` and `StoreUnavailable`; there is no file then.
        """
        ...

    def restore(
        self,
        copies: Mapping[TenantName, Path],
        *,
        overwrite: bool = False,
        even_if_open: bool = False,
        progress: Progress = no_progress,
    ) -> Iterator[TenantName]:
        """Put copies in the place of tenants, each as a whole; tells of each once it is durable.

        All are copied before the first is put in its place: until then nothing has changed, and
        what cannot be done is raised. `StoreRefused` for a tenant that there is already, unless
        it is to be overwritten, and for a copy that is none; `StoreBusy` for one that a process
        has open, unless that does not matter; `StoreFull` and `StoreUnavailable`.
        """
        ...

    def verify(
        self, name: str, file: Path | None = None, *, progress: Progress = no_progress
    ) -> Verification:
        """Look through everything of a tenant, or of a copy of it. Changes nothing."""
        ...
