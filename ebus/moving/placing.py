"""The far end of a move: events are stored at the positions that they have, or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256

from ebus.core.errors import (
    EbusError,
    IdConflict,
    InvalidBatch,
    InvalidEvent,
    InvalidRange,
    PositionConflict,
    StoreFull,
    VersionConflict,
)
from ebus.core.event import NewEvent
from ebus.core.limits import MIB
from ebus.core.store import Appended, Expectation, SupportsGaps, SupportsIdLookup, TenantStore
from ebus.moving.checkpoints import Checkpoints
from ebus.moving.errors import (
    BrokenLine,
    CannotKeep,
    MoveRefused,
    TargetChanged,
    TargetDiffers,
)
from ebus.moving.known import At, Known, stored_lines
from ebus.moving.lines import Batch, Gap, Progress, Saved
from ebus.moving.moved import Moved

BATCH_BYTES = 2 * MIB
"""After so many bytes the next append begins."""

ATTEMPTS = 5
"""How often an append is tried of which nobody knows whether it was done."""

FIRST_PAUSE_S = 0.2


class Placing:
    """Stores what it is given, in order, after comparing what the target has already."""

    def __init__(
        self,
        target: TenantStore,
        *,
        keeps_metadata: bool,
        progress: Progress | None = None,
    ) -> None:
        self._target = target
        self._keeps_metadata = keeps_metadata
        self.progress = progress
        """Called with the number of events that were looked at."""
        self._head = target.head()
        self._known_to = self._head
        """Up to here the target had something before."""
        self._known = Known(iter(()))
        self._first = self._last = self._events = self._appended = 0
        self._first_appended = 0
        self._digest = sha256()
        self._digest_there = sha256()
        self._checkpoints = 0
        self._ahead: list[str] = []
        self._gaps: bool | None = None

    def take(self, piece: Batch | Gap | Saved) -> None:
        """Compare it, or store it. Raises `MoveRefused`, and what the target raises."""
        if isinstance(piece, Saved):
            self.save(piece.checkpoint, piece.position)
            return
        first, last = piece.first_position, piece.last_position
        if not self._first:
            self._begin(first)
        assert first == self._last + 1 or not self._last
        if isinstance(piece, Gap):
            self._last = last
            # What the target has kept of what the source has trimmed is fine.
            self._known.skip(last)
            # One that ends at the head may have been cut off before the engine was done with it.
            if last > self._head or (last == self._head and isinstance(self._target, SupportsGaps)):
                self._leave_gap(last)
            return
        self._note(piece)
        known = min(len(piece.events), max(0, self._known_to - first + 1))
        if known:
            before = piece.cut(0, known)
            self._known.compare(before)
            self._digest_there.update(_joined(before.lines))
        for batch in self._bounded(piece.cut(known, len(piece.events))):
            self._append(batch)
        self._last = last

    def _begin(self, first: int) -> None:
        if first > self._head + 1:
            raise TargetDiffers(
                f"the target is at position {self._head}, and what is to be moved begins at "
                f"{first}: move what lies between first"
            )
        self._first = first
        self._known = Known(self._lines(first, self._known_to))

    def _lines(self, start: int, stop: int) -> Iterator[At]:
        """What the target holds."""
        return stored_lines(self._target, start, stop, keeps_metadata=self._keeps_metadata)

    def _note(self, batch: Batch) -> None:
        self._events += len(batch.events)
        self._digest.update(_joined(batch.lines))
        if self.progress is not None:
            self.progress(len(batch.events))

    def _bounded(self, batch: Batch) -> Iterator[Batch]:
        """In parts of as many as one append may hold."""
        most = self._target.limits.max_batch_events
        max_bytes = min(BATCH_BYTES, self._target.limits.max_body_bytes // 2)
        begin = size = 0
        for end, wire in enumerate(batch.wires):
            if end - begin == most or (size + len(wire) > max_bytes and end > begin):
                yield batch.cut(begin, end)
                begin, size = end, 0
            size += len(wire)
        if begin < len(batch.events):
            yield batch.cut(begin, len(batch.events))

    # Storing

    def _append(self, batch: Batch) -> None:
        first, last = batch.first_position, batch.last_position
        versions = _versions_before(batch)
        self._check_ids(batch)
        appended = self._surely(batch, Expectation(position=first - 1, versions=versions))
        if appended is not None:
            _check_placed(batch, appended)
        self._first_appended = self._first_appended or first
        self._appended += len(batch.events)
        self._head = last

    def _surely(self, batch: Batch, expect: Expectation) -> Appended | None:
        """Append, also where an answer is lost; None when it turned out to be done then."""
        events = batch.new_events()
        failures = 0
        while True:
            try:
                return self._append_once(batch, events, expect)
            except EbusError as error:
                if failures and isinstance(error, TargetChanged) and self._is_there(batch):
                    return None  # what nobody knew of has been done meanwhile
                failures += 1
                if not error.is_passing or isinstance(error, StoreFull) or failures == ATTEMPTS:
                    raise
            time.sleep(FIRST_PAUSE_S * 2 ** (failures - 1))
            head = self._target.head()
            if head == batch.first_position - 1:
                continue
            if self._is_there(batch):
                return None
            raise self._changed(head)

    def _is_there(self, batch: Batch) -> bool:
        """Whether the target ends with these events."""
        last = batch.last_position
        return self._target.head() == last and list(batch.lines) == [
            line for _, line in self._lines(batch.first_position, last)
        ]

    def _append_once(
        self, batch: Batch, events: Sequence[NewEvent], expect: Expectation
    ) -> Appended:
        try:
            return self._target.append(events, expect=expect)
        except PositionConflict as error:
            raise self._changed(error.current) from None
        except VersionConflict as error:
            if self._set_versions(batch, expect, error):
                return self._append_once(batch, events, expect)
            if self._gaps:
                raise CannotKeep(
                    f"{error}: events of it were trimmed before they were copied; copy to a new "
                    "tenant instead, which begins behind them"
                ) from None
            raise _broken(batch, 0, f"{error}, though the events before it are there") from None
        except InvalidEvent as error:
            problem = f"{error.field}: {error.problem}" if error.field else error.problem
            raise _broken(batch, error.index, problem) from None
        except IdConflict as error:
            raise _broken(batch, error.index, str(error)) from None
        except InvalidBatch as error:
            raise CannotKeep(
                f"the target takes fewer at a time: {error}; say its limits with --config"
            ) from None

    def _changed(self, head: int | None) -> TargetChanged:
        return TargetChanged(
            f"somebody else appends to the target: it is at position {head}, not at {self._head} "
            "any more; positions could not be kept"
        )

    def _check_ids(self, batch: Batch) -> None:
        """No id is there already: the event would be taken for a repeat, and not stored."""
        ids = {event.id: at for at, event in enumerate(batch.events) if event.id is not None}
        if not ids:
            return
        if len(ids) < sum(event.id is not None for event in batch.events):
            seen: set[str] = set()
            for at, event in enumerate(batch.events):
                if event.id in seen:
                    raise _broken(batch, at, "an event before it has the same id")
                if event.id is not None:
                    seen.add(event.id)
        if isinstance(self._target, SupportsIdLookup):
            found = self._target.positions_of(list(ids))
            if found:
                name, position = min(found.items(), key=lambda pair: ids[pair[0]])
                raise _broken(batch, ids[name], f"the event at position {position} has the same id")

    # Gaps

    def _leave_gap(self, last: int) -> None:
        target = self._target
        if not isinstance(target, SupportsGaps):
            raise CannotKeep(
                f"positions {self._head + 1} to {last} hold nothing, since they were trimmed, and "
                "the target cannot leave positions out: move to an engine that can, such as sqlite"
            )
        try:
            target.leave_gap(last, expected=self._head)
        except PositionConflict as error:
            raise self._changed(error.current) from None
        except InvalidRange as error:
            raise CannotKeep(
                f"positions {self._head + 1} to {last} hold nothing, since they were trimmed: "
                f"{error}; copy to a new tenant instead, which begins behind them"
            ) from None
        self._head = last

    def _set_versions(self, batch: Batch, expect: Expectation, error: VersionConflict) -> bool:
        """Where events were trimmed, what is left of a stream does not begin with version 1."""
        target = self._target
        if self._gaps is None:
            self._gaps = target.count() < target.head()
        if not self._gaps:
            return False
        lower = {
            stream: version
            for stream, version in expect.versions.items()
            if version and not target.stream_version(stream)
        }
        if not lower:
            return False
        if not isinstance(target, SupportsGaps):
            raise CannotKeep(f"{error}: events before were trimmed, and the target cannot know it")
        target.leave_gap(self._head, versions=lower, expected=self._head)
        return True

    def set_version(self, stream: str, version: int) -> None:
        """Have a stream of which nothing is left go on from its version, if it is not so yet."""
        known = self._target.stream_version(stream)
        if known < version:
            if known or not isinstance(self._target, SupportsGaps):
                raise CannotKeep(f"of the stream {stream} no event is left, only its version")
            self._target.leave_gap(self._head, versions={stream: version}, expected=self._head)

    # The end

    @property
    def appended(self) -> int:
        """How many events were stored so far that were not there before."""
        return self._appended

    def save(self, name: str, position: int) -> None:
        """Save a checkpoint, unless the target's own is further on: it never goes back."""
        self._checkpoints += 1
        known = self._target.checkpoint(name)
        if known is not None and known > position:
            self._ahead.append(name)
        elif known != position:
            self._target.save_checkpoint(name, position, expected=known or 0)

    def settle(self) -> None:
        """Read back what was appended since the last time. Raises `TargetDiffers`."""
        if self._first_appended:
            for _, line in self._lines(self._first_appended, self._last):
                self._digest_there.update(line + b"\n")
            self._first_appended = 0
        if self._digest.digest() != self._digest_there.digest():
            raise TargetDiffers(
                f"what was read back from the target, up to position {self._last}, is not what was "
                f"sent: SHA-256 {self._digest_there.hexdigest()}, not {self._digest.hexdigest()}"
            )

    def moved(self, beside: Checkpoints | None = None) -> Moved:
        """What has become of it; `beside` it these checkpoints were copied."""
        return Moved(
            first_position=self._first,
            last_position=self._last,
            events=self._events,
            appended=self._appended,
            digest=self._digest.hexdigest(),
            checkpoints=self._checkpoints + (beside.count if beside else 0),
            ahead=[*self._ahead, *(beside.ahead if beside else ())],
            parked=beside.parked if beside else (),
        )


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join([*lines, b""])


def _broken(batch: Batch, at: int, problem: str) -> MoveRefused:
    """What is wrong with one event: by its line, where it has one, or else by its position."""
    if batch.first_line is not None:
        return BrokenLine(problem, line=batch.first_line + at)
    return MoveRefused(f"the event at position {batch.first_position + at}: {problem}")


def _versions_before(batch: Batch) -> dict[str, int]:
    """The version at which each stream is before these events."""
    before: dict[str, int] = {}
    now: dict[str, int] = {}
    for at, event in enumerate(batch.events):
        stream = event.stream
        if stream is None:
            continue
        assert event.version is not None
        last = now.get(stream)
        if last is None:
            before[stream] = event.version - 1
        elif event.version != last + 1:
            problem = f"version {event.version} of the stream {stream} comes after {last}"
            raise _broken(batch, at, problem)
        now[stream] = event.version
    return before


def _check_placed(batch: Batch, appended: Appended) -> None:
    """Each is where it should be, also where an append was sent twice."""
    if appended.events:
        positions = [placed.position for placed in appended.events]
        wrong = next(
            (
                at
                for at, it in enumerate(positions, batch.first_position)
                if positions[at - batch.first_position] != at
            ),
            None,
        )
        if wrong is None:
            return
        raise _broken(
            batch,
            wrong - batch.first_position,
            "its id was there already, so it was not stored again: what comes behind it stands at "
            "other positions in the target, which is no copy",
        )
    if (appended.first_position, appended.last_position) != (
        batch.first_position,
        batch.last_position,
    ):
        raise TargetDiffers("the target has given out other positions than it had to")
