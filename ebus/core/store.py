"""One tenant's log: the protocol that every engine's store fulfils, and what it passes around.

A store is one tenant. Nothing in its methods says which, so nothing can name the wrong one.
Positions are 1, 2, 3, … in commit order; a reader that has seen position n has been able to
see every position below n. Stores are synchronous and may be called from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import msgspec

from ebus.core.errors import (
    EbusError,
    InvalidCheckpoint,
    InvalidInput,
    InvalidRange,
    QuotaExceeded,
)
from ebus.core.event import (
    CONTROL_CHARACTER,
    Event,
    NewEvent,
    are_plainly_valid,
    check_events,
)
from ebus.core.limits import MAX_POSITION, Limits


class Append(msgspec.Struct, frozen=True):
    """Events that are stored together or not at all."""

    events: Sequence[NewEvent]


class SaveCheckpoint(msgspec.Struct, frozen=True):
    """A position that is saved under a name: 0 to 2**63 - 1, before or beyond the head."""

    name: str
    position: int


Write = Append | SaveCheckpoint


class Appended(msgspec.Struct, frozen=True):
    """Where an append's events are: `first_position` to `last_position`, both inclusive."""

    first_position: int
    last_position: int


Written = Appended | EbusError | None
"""What became of a write."""


class Page(msgspec.Struct, frozen=True):
    """Events in the order of their positions.

    `next` is the position to go on from when a bound cut the page short and there was more
    to read; None when the range was read to its end.
    """

    events: list[Event]
    next: int | None


class WirePage(msgspec.Struct, frozen=True):
    """A page as bytes: `chunks` are JSON objects with commas between them.

    Joining the chunks with commas and putting brackets around them gives a JSON array of
    `count` events, of which the first is at `first_position` (0 when there is none).
    """

    chunks: list[bytes]
    count: int
    first_position: int
    next: int | None


@runtime_checkable
class TenantStore(Protocol):
    """One tenant's log and checkpoints. An engine's store may inherit what has a body here.

    Raises, beside what a method names: `StoreClosed` after `close`, `StoreBusy`, `StoreFull`
    and `StoreUnavailable` when the medium cannot do it now, `StoreDamaged` when what is
    stored cannot be read.
    """

    @property
    def limits(self) -> Limits:
        """The bounds that this store was opened with."""
        ...

    def append(self, events: Sequence[NewEvent]) -> Appended:
        """Store the events together, at contiguous positions, or raise and store none.

        When it returns, they survive `kill -9`, and a power cut too where the engine's
        durability is `full`. Raises `InvalidBatch`, `InvalidEvent`, `EventTooLarge`.
        """
        [result] = self.commit([Append(events)])
        if isinstance(result, EbusError):
            raise result
        assert result is not None
        return result

    def commit(self, writes: Sequence[Write]) -> list[Written]:
        """Do many independent writes in one durable commit, in the order given.

        The answer has one entry for each: where an append's events are, None for a checkpoint
        that was saved, or the error. A write that is refused leaves no trace, takes no
        position, and harms no neighbour. An error of the medium is raised, and then none of
        them is stored.
        """
        ...

    def read(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> Page:
        """Events with `start` ≤ position ≤ `stop`, or to the end when `stop` is None.

        `start` 0 means the same as 1; a `stop` below `start` reads nothing. The page ends
        after `limit` events (1 to `limits.max_read_events`, which is the default) or after
        the event with which it passes `max_bytes` of JSON (default `limits.max_page_bytes`).
        Raises `InvalidRange`.
        """
        ...

    def head(self) -> int:
        """The last position that was given out, 0 when there is none. It never goes down."""
        ...

    def count(self) -> int:
        """How many events are stored: the head, less what was trimmed or never taken over."""
        ...

    def checkpoint(self, name: str) -> int | None:
        """The position saved under this name; None when none ever was."""
        ...

    def save_checkpoint(self, name: str, position: int) -> None:
        """Save a position (0 to 2**63 - 1) under a name, as durably as an append.

        A name has 1 to 255 characters without control characters; the position may lie
        before or beyond the head. Raises `InvalidCheckpoint`.
        """
        [result] = self.commit([SaveCheckpoint(name, position)])
        if isinstance(result, EbusError):
            raise result

    def delete_checkpoint(self, name: str) -> bool:
        """Forget a checkpoint; says whether there was one."""
        ...

    def checkpoints(self) -> Mapping[str, int]:
        """Every checkpoint by name, in the order of the names' code points."""
        ...

    def close(self) -> None:
        """Finish what is under way and let go of every resource. Twice is fine."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@runtime_checkable
class SupportsWireRead(Protocol):
    """The power to read events straight to the JSON that goes over the wire."""

    def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> WirePage:
        """Like `TenantStore.read`, bounds and errors included, but as bytes."""
        ...


class QuickReads(Protocol):
    """Reads that wait for no lock: they raise `StoreBusy` at once where a store would wait.

    For one thread. Closing the store closes it.
    """

    def head(self) -> int:
        """Like `TenantStore.head`."""
        ...

    def checkpoint(self, name: str) -> int | None:
        """Like `TenantStore.checkpoint`."""
        ...

    def read_wire(
        self,
        start: int,
        stop: int | None = None,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
    ) -> WirePage:
        """Like `SupportsWireRead.read_wire`."""
        ...

    def close(self) -> None:
        """Let go of every resource. Twice is fine."""
        ...


@runtime_checkable
class SupportsQuickReads(Protocol):
    """The power to read so quickly, from this machine, that handing it to a thread costs more."""

    def quick_reads(self) -> QuickReads:
        """A way to read for one more thread."""
        ...


@runtime_checkable
class SupportsQuickCommit(Protocol):
    """The power to commit so quickly that handing it to a thread costs more."""

    def commit_quickly(self, writes: Sequence[Write]) -> list[Written] | None:
        """Like `TenantStore.commit`; None, with nothing done, where it would wait or sync."""
        ...


@runtime_checkable
class SupportsPutAway(Protocol):
    """The power to be closed for a while, at less cost than for good."""

    def put_away(self) -> None:
        """Like `TenantStore.close`, for a tenant that is likely to be opened again.

        What is left to do is done when it is opened and closed, or when its engine is closed.
        """
        ...


@runtime_checkable
class SupportsTrim(Protocol):
    """The power to forget the oldest events."""

    def trim(self, through: int) -> None:
        """Forget every event at or below `through`, durably. The head stays where it is.

        Positions are not used again, and a read that starts below goes on with the first
        event that is left. Raises `InvalidRange` for a position beyond the head.
        """
        ...


class Quota(msgspec.Struct, frozen=True):
    """How much a tenant may store; None means as much as there is room for."""

    max_events: int | None = None
    """Events that are kept, from 1 on."""

    max_bytes: int | None = None
    """Bytes that the tenant takes where it is stored, from 1 on, as `stored_bytes` says."""


NO_QUOTA = Quota()


@runtime_checkable
class SupportsQuota(Protocol):
    """The power to keep a tenant within bounds."""

    def stored_bytes(self) -> int:
        """Bytes that the tenant takes where it is stored, without what only passes through."""
        ...

    def set_quota(self, quota: Quota) -> None:
        """From the next write on, refuse with `QuotaExceeded` what would go beyond.

        That is each append by itself, after which there would be more events or bytes, and each
        checkpoint of a new name where the bytes are used up. What is stored already stays.
        """
        ...


class Room:
    """What a quota leaves to a tenant, while writes are laid out one after the other.

    `events` and `size_bytes` are what is stored before them, `knows` says whether there is a
    checkpoint of a name.
    """

    def __init__(
        self, quota: Quota, *, events: int, size_bytes: int, knows: Callable[[str], bool]
    ) -> None:
        self._quota = quota
        self._events = events
        self._size_bytes = size_bytes
        self._knows = knows

    def take_events(self, encoded: Sequence[bytes]) -> QuotaExceeded | None:
        """Take the room for an append; or say why there is too little, and take none."""
        most = self._quota.max_events
        if most is not None and self._events + len(encoded) > most:
            return QuotaExceeded(f"this tenant may store at most {most} events")
        refusal = self._take_bytes(sum(map(len, encoded)))
        if refusal is None:
            self._events += len(encoded)
        return refusal

    def take_name(self, name: str) -> QuotaExceeded | None:
        """The same for a checkpoint, which takes room when its name is new."""
        if self._quota.max_bytes is None or self._knows(name):
            return None
        return self._take_bytes(len(name.encode()))

    def _take_bytes(self, size_bytes: int) -> QuotaExceeded | None:
        most = self._quota.max_bytes
        if most is not None and self._size_bytes + size_bytes > most:
            return QuotaExceeded(f"this tenant may store at most {most} bytes")
        self._size_bytes += size_bytes
        return None


class ReadBounds(msgspec.Struct, frozen=True):
    """What a read's arguments come to once they are checked and the defaults filled in."""

    start: int
    stop: int
    limit: int
    max_bytes: int


def check_range(
    start: int, stop: int | None, limit: int | None, max_bytes: int | None, limits: Limits
) -> ReadBounds:
    """The bounds of a read, or `InvalidRange`. Every store calls this first."""
    if not 0 <= start <= MAX_POSITION:
        raise InvalidRange(f"a read starts at 0 to {MAX_POSITION}, not at {start}")
    if stop is not None and not 0 <= stop <= MAX_POSITION:
        raise InvalidRange(f"a read stops at 0 to {MAX_POSITION}, not at {stop}")
    if limit is not None and not 1 <= limit <= limits.max_read_events:
        raise InvalidRange(f"a read is limited to 1 to {limits.max_read_events} events")
    if max_bytes is not None and max_bytes < 1:
        raise InvalidRange("a read holds at least 1 byte")
    return ReadBounds(
        max(start, 1),
        MAX_POSITION if stop is None else stop,
        limit or limits.max_read_events,
        max_bytes or limits.max_page_bytes,
    )


_PLAIN_SEQUENCES = (list, tuple)


def refusals_of(writes: Sequence[Write], limits: Limits) -> list[InvalidInput | None]:
    """Why each of these writes cannot be done, if it cannot. Every store asks before it commits."""
    appends = [write.events for write in writes if isinstance(write, Append)]
    if (
        len(appends) > 1
        and all(type(events) in _PLAIN_SEQUENCES for events in appends)
        and all(1 <= len(events) <= limits.max_batch_events for events in appends)
        and are_plainly_valid(list(chain.from_iterable(appends)), limits)
    ):
        return [None if isinstance(it, Append) else _refusal_of(it, limits) for it in writes]
    return [_refusal_of(write, limits) for write in writes]


def _refusal_of(write: Write, limits: Limits) -> InvalidInput | None:
    try:
        if isinstance(write, Append):
            check_events(write.events, limits)
        else:
            check_checkpoint(write.name, write.position, limits)
    except InvalidInput as refusal:
        # Without where it was raised: from there it would lead to itself, among other answers,
        # and keep the events until the garbage collector comes by.
        return refusal.with_traceback(None)
    return None


def check_checkpoint(name: str, position: int, limits: Limits) -> None:
    """Raise `InvalidCheckpoint` unless this can be saved."""
    if not isinstance(name, str) or not 1 <= len(name) <= limits.max_subscription_id_chars:
        raise InvalidCheckpoint(
            f"a checkpoint's name has 1 to {limits.max_subscription_id_chars} characters"
        )
    if CONTROL_CHARACTER.search(name):
        raise InvalidCheckpoint("a checkpoint's name holds no control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidCheckpoint("a checkpoint's name holds no lone surrogates") from None
    if isinstance(position, bool) or not isinstance(position, int):
        raise InvalidCheckpoint("a checkpoint's position is a whole number")
    if not 0 <= position <= MAX_POSITION:
        raise InvalidCheckpoint(f"a checkpoint's position is 0 to {MAX_POSITION}")
