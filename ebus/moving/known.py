"""What a target has before anything is moved there, beside what is to be moved."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, dropwhile, islice

from ebus.core.store import TenantStore
from ebus.moving.errors import TargetDiffers
from ebus.moving.lines import Batch
from ebus.moving.reading import stored_batches

At = tuple[int, bytes]
"""A position, and the line of its event."""


def stored_lines(
    store: TenantStore, start: int, stop: int, *, keeps_metadata: bool
) -> Iterator[At]:
    """The events at these positions, both inclusive, as lines."""
    for piece in stored_batches(store, start, stop, keeps_metadata=keeps_metadata):
        if isinstance(piece, Batch):
            yield from enumerate(piece.lines, piece.first_position)


class Known:
    """Reads along with what is to be moved."""

    def __init__(self, lines: Iterator[At]) -> None:
        self._lines = lines
        self._peeked: list[At] = []
        """The next one, where it has been looked at."""

    def compare(self, batch: Batch) -> None:
        """Raise `TargetDiffers` unless these are the next ones."""
        there = list(islice(chain(self._peeked, self._lines), len(batch.lines)))
        self._peeked = []
        here = list(enumerate(batch.lines, batch.first_position))
        if there == here:
            return
        at = next((at for at, pair in enumerate(there) if pair != here[at]), len(there))
        position = min(there[at][0], here[at][0]) if at < len(there) else here[at][0]
        line = ""
        if batch.first_line is not None:
            line = f" (line {batch.first_line + position - batch.first_position})"
        what = "no event there any more"
        if at < len(there) and there[at][0] == position:
            what = "another event there"
        raise TargetDiffers(
            f"the target differs at position {position}{line}: it has {what}; nothing was stored"
        )

    def skip(self, last: int) -> None:
        """Pass over positions up to this one."""
        lines = chain(self._peeked, self._lines)
        self._peeked = list(islice(dropwhile(lambda pair: pair[0] <= last, lines), 1))
