"""A log to a file, from a file, and from one store to another."""

from __future__ import annotations

from hashlib import sha256

from ebus.core.limits import MAX_POSITION
from ebus.core.store import TenantStore
from ebus.moving.errors import MoveRefused
from ebus.moving.files import Output
from ebus.moving.lines import Batch, Gap, Progress, Saved, encode_gap, encode_saved
from ebus.moving.moved import Moved
from ebus.moving.placing import Placing
from ebus.moving.reading import Readable, file_batches, keeps_metadata, stored_batches
from ebus.moving.rounds import Copying, check_range, end_of


def copy_log(
    source: TenantStore,
    target: TenantStore,
    *,
    start: int = 1,
    stop: int | None = None,
    checkpoints: bool = True,
    progress: Progress | None = None,
) -> Moved:
    """Copy events, positions and all, up to where the source is now, and read them back.

    From `start` to `stop`, both inclusive. What the target has of these already is compared, and
    what it has not is appended, so that a second run goes on where the first one was cut off. Of
    checkpoints, positions are copied: a lease that is under way, or an event that is parked, is
    not. Raises `MoveRefused`, before anything is stored where that can be.
    """
    copying = Copying(source, target, start=start, stop=stop)
    return copying.finish(checkpoints=checkpoints, progress=progress)


def export_log(
    source: TenantStore,
    output: Output,
    *,
    start: int = 1,
    stop: int | None = None,
    checkpoints: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Write events as lines, up to where the source is now; with `checkpoints`, those behind them.

    From `start` to `stop`, both inclusive. Goes on behind what `output` has of them.
    """
    check_range(start, stop)
    stop = end_of(source, stop)
    written = _Written(progress)
    for piece in output.known():
        if not written.first:
            _check_begins(piece, start)
        written.note(piece)
    _check_known(source, written, stop)
    output.begin()
    keeps = keeps_metadata(source)
    for piece in stored_batches(source, max(start, written.last + 1), stop, keeps_metadata=keeps):
        output.write(written.note(piece))
    saved = source.checkpoints().items() if checkpoints else ()
    for name, position in saved:
        output.write(encode_saved(Saved(name, position)) + b"\n")
    output.finish()
    return Moved(
        first_position=written.first,
        last_position=written.last,
        events=written.events,
        appended=written.events - written.known_events,
        digest=written.digest.hexdigest(),
        checkpoints=len(saved),
    )


class _Written:
    """What a file holds so far."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.first = self.last = self.events = self.known_events = 0
        self.last_line = b""
        self.digest = sha256()

    def note(self, piece: Batch | Gap) -> bytes:
        """Count what comes next. Returns it as lines."""
        self.first = self.first or piece.first_position
        self.last = piece.last_position
        if isinstance(piece, Gap):
            self.last_line = b""
            return encode_gap(piece) + b"\n"
        text = b"\n".join([*piece.lines, b""])
        self.digest.update(text)
        self.events += len(piece.events)
        self.last_line = piece.lines[-1]
        if self._progress is not None:
            self._progress(len(piece.events))
        return text


def _check_begins(piece: Batch | Gap, start: int) -> None:
    if piece.first_position != start:
        raise MoveRefused(
            f"the partial file begins at position {piece.first_position}, not at {start}: it is of "
            "another export; remove it, or say --from"
        )


def _check_known(source: TenantStore, written: _Written, stop: int) -> None:
    """The last event of the partial file is the one that the source has there."""
    written.known_events = written.events
    last = written.last
    if not last:
        return
    line = b""
    if last <= stop:
        for piece in stored_batches(source, last, last, keeps_metadata=keeps_metadata(source)):
            line = piece.lines[-1] if isinstance(piece, Batch) else b""
    if last > stop or line != written.last_line:
        raise MoveRefused(
            f"the partial file goes up to position {last}, and what stands there is not what the "
            "source has: it is of another export; remove it"
        )


def import_log(
    file: Readable,
    target: TenantStore,
    *,
    start: int = 1,
    stop: int | None = None,
    progress: Progress | None = None,
) -> Moved:
    """Store the events of a file at the positions that its lines say, and read them back.

    Of these, those from `start` to `stop`, both inclusive. What the target has already is
    compared, and what it has not is appended: to import a file twice is fine. Raises `BrokenLine`,
    and then nothing is stored of what was read together with that line; mend it and import again.
    """
    check_range(start, stop)
    end = MAX_POSITION if stop is None else stop
    keeps = keeps_metadata(target)
    placing = Placing(target, keeps_metadata=keeps, progress=progress)
    for piece in file_batches(file, keeps_metadata=keeps):
        if isinstance(piece, Saved):
            placing.take(piece)
        elif piece.first_position <= end and piece.last_position >= start:
            placing.take(_within(piece, start, end))
    placing.settle()
    return placing.moved()


def _within(piece: Batch | Gap, start: int, stop: int) -> Batch | Gap:
    if isinstance(piece, Gap):
        return Gap(max(piece.first_position, start), min(piece.last_position, stop))
    return piece.between(start, stop)
