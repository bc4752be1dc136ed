"""A log on its way to another store, in rounds: each takes what has come since the one before."""

from __future__ import annotations

from collections.abc import Iterator

from ebus.core.errors import InvalidRange
from ebus.core.event import encode_event
from ebus.core.limits import MAX_POSITION
from ebus.core.store import StreamInfo, SupportsEventSize, TenantStore
from ebus.moving.checkpoints import Checkpoints
from ebus.moving.errors import CannotKeep
from ebus.moving.lines import Batch, Gap, Progress
from ebus.moving.moved import Moved
from ebus.moving.placing import Placing
from ebus.moving.reading import keeps_metadata, stored_batches


class Copying:
    """Copies a log that may be written to meanwhile. Every round ends with reading it back.

    From `start` to `stop`, both inclusive. Raises `MoveRefused`, and what the two stores raise;
    then what was copied stays, and another one goes on behind it.
    """

    def __init__(
        self,
        source: TenantStore,
        target: TenantStore,
        *,
        start: int = 1,
        stop: int | None = None,
    ) -> None:
        check_range(start, stop)
        self._source = source
        self._target = target
        self._stop = stop
        self._keeps_metadata = keeps_metadata(source) and keeps_metadata(target)
        self._placing = Placing(target, keeps_metadata=self._keeps_metadata)
        self._checkpoints = Checkpoints(source, target)
        self._following = start
        """The next position."""
        self._has_gaps = False
        self._fits = False

    def catch_up(self, progress: Progress | None = None) -> int:
        """Copy up to where the source is now; returns how many events were not there before."""
        self._placing.progress = progress
        end = end_of(self._source, self._stop)
        if not self._fits:
            self._check_sizes(max(self._following, self._target.head() + 1), end)
            self._fits = True
        before = self._placing.appended
        for piece in self._pieces(self._following, end):
            self._has_gaps = self._has_gaps or isinstance(piece, Gap)
            self._placing.take(piece)
        self._placing.settle()
        self._following = max(self._following, end + 1)
        return self._placing.appended - before

    def copy_checkpoints(self) -> None:
        """Copy the positions of checkpoints, those that are not what they were last time."""
        self._checkpoints.copy()

    def lag(self) -> int:
        """How many positions are still to be copied."""
        return max(0, end_of(self._source, self._stop) - self._following + 1)

    def has_gone_on(self) -> bool:
        """Whether the source is not as it was copied any more: somebody writes to it still."""
        return self.lag() > 0 or self._checkpoints.have_moved()

    def finish(self, *, checkpoints: bool = True, progress: Progress | None = None) -> Moved:
        """Copy what is left, the checkpoints too, and say what has been done in all rounds."""
        self.catch_up(progress)
        if self._has_gaps and self._source.head() < self._following:
            self._copy_versions()
        if checkpoints:
            self.copy_checkpoints()
        return self._placing.moved(self._checkpoints)

    def _pieces(self, start: int, end: int) -> Iterator[Batch | Gap]:
        return stored_batches(self._source, start, end, keeps_metadata=self._keeps_metadata)

    def _check_sizes(self, start: int, end: int) -> None:
        """Refuse an event that the target cannot take, before anything is stored."""
        target = self._target
        if not isinstance(target, SupportsEventSize):
            return
        most = target.max_event_json_bytes()
        if most >= _largest(target):
            return
        for piece in self._pieces(start, end):
            if isinstance(piece, Gap) or max(map(len, piece.wires)) + _SPARE_BYTES <= most:
                continue
            for event, new in zip(piece.events, piece.new_events(), strict=True):
                size = len(encode_event(new, MAX_POSITION, event.timestamp, MAX_POSITION))
                if size > most:
                    raise CannotKeep(
                        f"the event at position {event.position} is of {size} bytes as JSON, and "
                        f"the target is set to take {most} at most (max_payload of NATS); nothing "
                        "was stored"
                    )

    def _copy_versions(self) -> None:
        """Streams of which nothing is left go on from their versions."""
        there = _streams(self._target)
        known = next(there, None)
        for info in _streams(self._source):
            while known is not None and known.stream < info.stream:
                known = next(there, None)
            is_there = known is not None and known.stream == info.stream
            if known is None or not is_there or known.version < info.version:
                self._placing.set_version(info.stream, info.version)


_SPARE_BYTES = 64
"""What an event may take more at another position."""


def _largest(store: TenantStore) -> int:
    """What an event may take as JSON that is within the limits, at most."""
    limits = store.limits
    names = limits.max_type_chars + limits.max_event_id_chars + limits.max_stream_chars
    return limits.max_event_bytes + limits.max_metadata_bytes + 12 * names + 512


def _streams(store: TenantStore) -> Iterator[StreamInfo]:
    """All of them, in the order of their names."""
    after = ""
    while found := store.streams(after=after):
        yield from found
        after = found[-1].stream


def check_range(start: int, stop: int | None) -> None:
    """Raise `InvalidRange` unless events can be at these positions."""
    if not 1 <= start <= MAX_POSITION:
        raise InvalidRange(f"a range begins at 1 to {MAX_POSITION}")
    if stop is not None and not start <= stop <= MAX_POSITION:
        raise InvalidRange("a range ends where it begins or behind that")


def end_of(source: TenantStore, stop: int | None) -> int:
    """The last position to look at: the head, as it is now, or before it."""
    head = source.head()
    return head if stop is None else min(stop, head)
